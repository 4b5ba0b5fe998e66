// SPDX-License-Identifier: MIT
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace twelvex::cuda {

/// Orders floats as unsigned integers; NaN below everything.
__device__ __forceinline__ uint32_t ordered_key(float x) {
  if (isnan(x)) return 0;
  const uint32_t bits = __float_as_uint(x);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ float of_ordered_key(uint32_t key) {
  return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

}  // namespace twelvex::cuda
