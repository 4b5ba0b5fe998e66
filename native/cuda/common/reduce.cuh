// SPDX-License-Identifier: MIT
// Warp and block reductions with a fixed order: the same inputs give the same bits.
#pragma once

#include <cuda_runtime.h>

namespace twelvex::cuda {

inline constexpr unsigned kFullWarp = 0xffffffffu;

/// Sum over groups of `kLanes` consecutive lanes (a power of two); every lane gets it.
template <int kLanes = 32>
__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
  for (int d = kLanes / 2; d > 0; d >>= 1) v += __shfl_xor_sync(kFullWarp, v, d);
  return v;
}

/// `lanes`: those that call.
template <int kLanes = 32>
__device__ __forceinline__ float warp_max(float v, unsigned lanes = kFullWarp) {
#pragma unroll
  for (int d = kLanes / 2; d > 0; d >>= 1) v = fmaxf(v, __shfl_xor_sync(lanes, v, d));
  return v;
}

/// Sum over the lanes up to this one, of whole numbers.
template <class T>
__device__ __forceinline__ T warp_scan(T v) {
#pragma unroll
  for (int d = 1; d < 32; d <<= 1) {
    const T below = __shfl_up_sync(kFullWarp, v, d);
    if (static_cast<int>(threadIdx.x % 32) >= d) v += below;
  }
  return v;
}

/// Sum over a block of kThreads; every thread gets it. `scratch` holds kThreads / 32 floats; usable again after a barrier.
template <int kThreads>
__device__ __forceinline__ float block_sum(float v, float* scratch) {
  constexpr int kWarps = kThreads / 32;
  v = warp_sum(v);
  if constexpr (kWarps == 1) return v;
  if ((threadIdx.x & 31) == 0) scratch[threadIdx.x >> 5] = v;
  __syncthreads();
  float total = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) total += scratch[w];
  return total;
}

}  // namespace twelvex::cuda
