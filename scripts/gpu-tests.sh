#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Builds the kernels and their test programs for this machine's GPU and runs them.
#   scripts/gpu-tests.sh [--bench] [--sanitize] [--build-only] [NAME...]
# NAME: of a NAME_test.cu or .cc under test/native/cuda; default all.
# Environment: BUILD (folder for objects, default native/build-gpu-tests), ARCH (default: from nvidia-smi).
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
mkdir -p "$build"
flags="-std=c++20 -O3 -lineinfo -Xcompiler -fPIC --expt-relaxed-constexpr -Inative -Inative/cuda -Itest/native/cuda -Itest/native -gencode=arch=compute_$ARCH,code=sm_$ARCH -DTWELVEX_VERSION=\"gpu-tests\""
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
for name in "${names[@]}"; do
  [ -x "$build/$name" ] || { status=1; continue; }
  [ -n "$build_only" ] && continue
  timeout "${LIMIT:-300}" "$build/$name" $bench || status=1
  if [ -n "$sanitize" ]; then
    for tool in memcheck racecheck; do
      [ $tool = racecheck ] && [ "$name" = model ] && continue  # its kernels have their own programs
      timeout "${LIMIT:-300}" compute-sanitizer --tool $tool --error-exitcode 9 "$build/$name" >"$build/$name.$tool.log" 2>&1 \
        && echo "$name: $tool clean" || { echo "$name: $tool FAILED"; tail -8 "$build/$name.$tool.log"; status=1; }
    done
  fi
done
exit $status
