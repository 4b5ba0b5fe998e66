// SPDX-License-Identifier: MIT
// The reduction over heads that both score kernels end with.
#pragma once

#include "common/reduce.cuh"

namespace twelvex::cuda {

inline constexpr int kMaxIndexHeads = 64;

/// Sums v[8] over the eight lanes with equal lane % 4, leaving v index (lane / 4) in each: 7 shuffles.
__device__ __forceinline__ float sum_heads(float (&v)[8], int lane) {
#pragma unroll
  for (int width = 4; width > 0; width >>= 1) {
    const bool upper = lane & (width * 4);
#pragma unroll
    for (int i = 0; i < width; ++i) {
      const float give = upper ? v[i] : v[i + width], keep = upper ? v[i + width] : v[i];
      v[i] = keep + __shfl_xor_sync(kFullWarp, give, width * 4);
    }
  }
  return v[0];
}

/// Entry of a warp's 32 whose sum a lane ends with: v holds entries 8 n + 2 (lane % 4) + {0, 1}, n = 0 .. 3.
__device__ __forceinline__ int summed_entry(int lane) { return lane / 8 * 8 + lane % 4 * 2 + lane / 4 % 2; }

}  // namespace twelvex::cuda
