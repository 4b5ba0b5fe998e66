#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Builds the kernels and their test programs for this machine's GPU (sm_90a, sm_120a or sm_121a) and runs them.
#   scripts/gpu-tests.sh [--bench] [--sanitize] [--build-only] [NAME...]
# NAME: of a NAME_test.cu or .cc under test/native/cuda; default all.
# --sanitize: the programs run under compute-sanitizer's memcheck and racecheck instead, several at a time, with fewer cases
#   that still reach every kernel (--short, test/native/cuda/support.h). A program that does not end in time has failed.
# Environment: BUILD (folder for objects, default native/build-gpu-tests), ARCH (default: from nvidia-smi), LIMIT (seconds a
# program may take, default 300, under a sanitizer 600), JOBS (programs under a sanitizer at a time, default one for 16 GB of GPU
# memory), TOOLS (default "memcheck racecheck").
set -uo pipefail
cd "$(dirname "$0")/.."
bench="" sanitize="" build_only="" names=()
for argument in "$@"; do
  case "$argument" in
    --bench) bench="--bench" ;;
    --sanitize) sanitize=1 ;;
    --build-only) build_only=1 ;;
    *) names+=("$argument") ;;
  esac
done
build=${BUILD:-native/build-gpu-tests}
if [ -z "${ARCH:-}" ]; then
  ARCH=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | tr -d .)a
fi
case "$ARCH" in
  90a | 120a | 121a) ;;
  *) echo "no kernels for sm_$ARCH: they are written for sm_90a (H100, H200), sm_120a (RTX 50, RTX PRO 6000) and sm_121a (DGX Spark)" >&2; exit 1 ;;
esac
mkdir -p "$build"
flags="-std=c++20 -O3 -lineinfo -Xcompiler -fPIC --expt-relaxed-constexpr -Inative -Inative/cuda -Itest/native/cuda -Itest/native -gencode=arch=compute_$ARCH,code=sm_$ARCH -DTWELVEX_VERSION=\"gpu-tests\" -DTWELVEX_CUDA_ARCHS=\"$ARCH\""
[ -n "$sanitize" ] && flags="$flags -DTWELVEX_RACECHECK" && build="$build-sanitize" && mkdir -p "$build"
export build flags

# Sources of the library, and the tests asked for, each compiled when it or any header is newer than its object.
compile() {
  object="$build/$(echo "$1" | tr / _).o"
  if [ -f "$object" ] && [ "$object" -nt "$1" ] && [ -z "$(find native test/native -name '*.h' -newer "$object" -o -name '*.cuh' -newer "$object" | head -1)" ]; then
    return 0
  fi
  nvcc $flags -c "$1" -o "$object" 2>"$object.log" || { echo "failed to compile $1"; head -20 "$object.log"; rm -f "$object"; }
}
export -f compile
library=$(find native/cuda -name '*.cu' -o -name '*.cc' -not -name stub.cc | sort; ls native/runtime/*.cc native/cpu/*.cc | grep -v kernels_avx)
if [ ${#names[@]} -eq 0 ]; then
  names=($(find test/native/cuda -name '*_test.c[cu]' | xargs -n1 basename | sed 's/_test.c[cu]//' | sort))
fi
tests=$(for name in "${names[@]}"; do find test/native/cuda -name "${name}_test.c[cu]"; done)
printf '%s\n' $library $tests | xargs -P "$(nproc)" -I{} bash -c 'compile {}'
rm -f "$build/libkernels.a"
for source in $library; do
  object="$build/$(echo "$source" | tr / _).o"
  [ -f "$object" ] && ar q "$build/libkernels.a" "$object" 2>/dev/null
done

# One program per name; a stale one is removed first, so that it cannot run in place of a failed one.
link() {
  object="$build/$(find test/native/cuda -name "$1_test.c[cu]" | tr / _).o"
  rm -f "$build/$1"
  nvcc -o "$build/$1" "$object" "$build/libkernels.a" -lpthread -ldl -lrt 2>"$build/$1.log" || { echo "failed to link $1"; head -5 "$build/$1.log"; }
}
export -f link
printf '%s\n' "${names[@]}" | xargs -P "$(nproc)" -I{} bash -c 'link {}'

status=0
for name in "${names[@]}"; do [ -x "$build/$name" ] || status=1; done
[ -n "$build_only" ] && exit $status

# One program under one tool; what it printed is shown when the tool found something or the program did not end.
sanitize() {
  log="$build/$1.$2.log" begin=$SECONDS
  options="--report-api-errors no --error-exitcode 9"  # the programs look at what API calls return themselves
  # Preparing weights shares no memory, and its hundreds of launches would take half of a program's time.
  [ "$2" = racecheck ] && options="$options --kernel-name-exclude kns=prepare"
  timeout -k 5 "${LIMIT:-600}" compute-sanitizer --tool "$2" $options "$build/$1" --short >"$log" 2>&1
  code=$? took="$((SECONDS - begin)) s"
  case $code in
    0) grep SKIPPED "$log" || echo "$1: $2 clean ($took)" && return 0 ;;
    124 | 137) echo "$1: $2 FAILED, no end after $took" ;;
    *) echo "$1: $2 FAILED ($took)"; grep -v ' ok$' "$log" | head -20 ;;
  esac
  tail -4 "$log"
  return 1
}
export -f sanitize
if [ -n "$sanitize" ]; then
  # failure makes errors on purpose; long is about time and memory, the other programs run its kernels. racecheck looks at shared
  # memory, so what runs on two devices adds nothing to what runs on one.
  names=($(printf '%s\n' "${names[@]}" | grep -vx 'failure\|long'))
  memory=$(nvidia-smi --query-gpu=memory.total --format=csv,noheader,nounits | head -1)
  [[ $memory =~ ^[0-9]+$ ]] || memory=65536  # memory that is shared with the host has no size of its own
  for tool in ${TOOLS:-memcheck racecheck}; do printf "%s $tool\n" "${names[@]}"; done | grep -vx 'two_gpus racecheck' |
    xargs -P "${JOBS:-$((memory > 32000 ? memory / 16000 : 1))}" -L1 bash -c 'sanitize $0 $1' || status=1
  exit $status
fi
for name in "${names[@]}"; do
  [ -x "$build/$name" ] && { timeout "${LIMIT:-300}" "$build/$name" $bench || status=1; }
done
exit $status
