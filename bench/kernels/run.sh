#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Builds and runs the kernel A/B on this machine's GPU: bench/kernels/run.sh [--json]
set -euo pipefail
cd "$(dirname "$0")/../.."
export ARCH=${ARCH:-$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | tr -d .)a}
export BUILD=${BUILD:-native/build-gpu-tests}
[ -f "$BUILD/libkernels.a" ] || scripts/gpu-tests.sh --build-only
nvcc -std=c++20 -O3 --expt-relaxed-constexpr -Inative -Inative/cuda -Itest/native/cuda -Ibench/kernels \
  -gencode=arch=compute_$ARCH,code=sm_$ARCH -o "$BUILD/prefill_ab" bench/kernels/prefill_ab.cu "$BUILD/libkernels.a" -lpthread -ldl -lrt
"$BUILD/prefill_ab" "$@"
