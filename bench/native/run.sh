#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Builds the native benchmark on a machine with a GPU and runs it: bench/native/run.sh OPTIONS (see cuda_bench.cc)
# Environment: BUILD (folder with the objects of scripts/gpu-tests.sh), ARCH (default: from nvidia-smi).
set -euo pipefail
cd "$(dirname "$0")/../.."
export BUILD=${BUILD:-native/build-gpu-tests}
ARCH=${ARCH:-$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | tr -d .)a}
[ -f "$BUILD/libkernels.a" ] || ARCH=$ARCH scripts/gpu-tests.sh --build-only
program=$BUILD/cuda_bench
exec 9>"$BUILD/cuda_bench.lock"
flock 9  # one builds, others wait
if [ ! -x "$program" ] || [ -n "$(find bench/native bench/kernels "$BUILD/libkernels.a" -newer "$program" | head -1)" ]; then
  flags="-std=c++20 -O3 -Inative -Inative/cuda -Ibench/kernels -Ibench/native --expt-relaxed-constexpr -gencode=arch=compute_$ARCH,code=sm_$ARCH"
  objects=()
  for source in bench_engine.cc bench_kernels.cu cuda_bench.cc layer_times.cc op_cost.cc report.cc timed_ops.cc; do
    nvcc $flags -c "bench/native/$source" -o "$BUILD/bench_$source.o" &
    objects+=("$BUILD/bench_$source.o")
  done
  wait
  # Product functions that the benchmark stands in front of (bench_kernels.cu).
  nvcc -o "$program.new" "${objects[@]}" "$BUILD/libkernels.a" -lpthread -ldl -lrt \
    -Xlinker --wrap=_ZN7twelvex4cuda12device_allocEmPKcb \
    -Xlinker --wrap=_ZN7twelvex4cuda18run_sparse_prefillERKNS0_19SparsePrefillParamsEP11CUstream_st
  mv "$program.new" "$program"
fi
exec 9>&-
exec "$program" "$@"
