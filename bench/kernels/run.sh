#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Builds and runs the kernel A/B on this machine's GPU: bench/kernels/run.sh [--json]
set -euo pipefail
cd "$(dirname "$0")/../.."
arch=${ARCH:-$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | tr -d .)a}
build=${BUILD:-native/build-gpu-tests}
mkdir -p "$build"
nvcc -std=c++20 -O3 --expt-relaxed-constexpr -Inative -Inative/cuda -Itest/native/cuda -Ibench/kernels \
  -gencode=arch=compute_$arch,code=sm_$arch -o "$build/prefill_ab" bench/kernels/prefill_ab.cu native/cuda/attention/sparse_prefill.cu \
  -x cu native/cuda/plan.cc native/cuda/common/check.cc native/cuda/common/device.cc native/runtime/error.cc native/runtime/cache_layout.cc
"$build/prefill_ab" "$@"
