// SPDX-License-Identifier: MIT
// Block-wide selection over an indexed list of n elements, exact and independent of the order of additions. A functor gives the
// 32-bit key or the 64-bit integer weight of element i. Every thread of the block calls and gets the result.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "common/reduce.cuh"

namespace twelvex::cuda::select {

inline constexpr int kThreads = 1024;
inline constexpr int kWarps = kThreads / 32;
inline constexpr int kBins = 2048;

struct Scratch {
  uint64_t bins[kBins];
  uint64_t warp[kWarps];
  uint64_t value;
  float real[kWarps];
  uint32_t key;
  int32_t index;
  int32_t index_warp[kWarps];
};

__device__ __forceinline__ uint64_t warp_sum64(uint64_t v) {
#pragma unroll
  for (int d = 16; d > 0; d >>= 1) v += __shfl_xor_sync(kFullWarp, v, d);
  return v;
}

/// Inclusive sum over the lanes up to this one.
__device__ __forceinline__ uint64_t warp_scan64(uint64_t v) {
#pragma unroll
  for (int d = 1; d < 32; d <<= 1) {
    const uint64_t below = __shfl_up_sync(kFullWarp, v, d);
    if (threadIdx.x % 32 >= static_cast<unsigned>(d)) v += below;
  }
  return v;
}

/// Orders floats as unsigned integers; NaN below everything.
__device__ __forceinline__ uint32_t ordered_key(float x) {
  if (isnan(x)) return 0;
  const uint32_t bits = __float_as_uint(x);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

/// Index of the largest key, ties to the lower index.
template <class Key>
__device__ int largest(int n, const Key& key, Scratch& s) {
  uint32_t best = 0;
  int index = n;
#pragma unroll 8
  for (int i = threadIdx.x; i < n; i += kThreads) {
    const uint32_t k = key(i);
    if (k > best || index == n) best = k, index = i;
  }
#pragma unroll
  for (int d = 16; d > 0; d >>= 1) {
    const uint32_t other = __shfl_xor_sync(kFullWarp, best, d);
    const int other_index = __shfl_xor_sync(kFullWarp, index, d);
    if (other > best || (other == best && other_index < index)) best = other, index = other_index;
  }
  __syncthreads();
  if (threadIdx.x % 32 == 0) s.bins[threadIdx.x / 32] = best, s.index_warp[threadIdx.x / 32] = index;
  __syncthreads();
  for (int w = 0; w < kWarps; ++w) {
    const uint32_t other = static_cast<uint32_t>(s.bins[w]);
    if (other > best || (other == best && s.index_warp[w] < index)) best = other, index = s.index_warp[w];
  }
  __syncthreads();
  return index;
}

/// Sum of all weights.
template <class Weight>
__device__ uint64_t total(int n, const Weight& weight, Scratch& s) {
  uint64_t sum = 0;
#pragma unroll 8
  for (int i = threadIdx.x; i < n; i += kThreads) sum += weight(i);
  sum = warp_sum64(sum);
  __syncthreads();
  if (threadIdx.x % 32 == 0) s.warp[threadIdx.x / 32] = sum;
  __syncthreads();
  sum = 0;
  for (int w = 0; w < kWarps; ++w) sum += s.warp[w];
  return sum;
}

/// First index, ascending, at which the running sum of weights passes `target`; n when it never does.
template <class Weight>
__device__ int crossing(int n, const Weight& weight, uint64_t target, Scratch& s) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int chunk = ((n + kWarps - 1) / kWarps + 31) / 32 * 32;
  const int begin = min(n, warp * chunk), end = min(n, begin + chunk);
  uint64_t sum = 0;
#pragma unroll 8
  for (int i = begin + lane; i < end; i += 32) sum += weight(i);
  sum = warp_sum64(sum);
  __syncthreads();
  if (lane == 0) s.warp[warp] = sum;
  if (threadIdx.x == 0) s.index = n;
  __syncthreads();
  uint64_t before = 0;
  for (int w = 0; w < warp; ++w) before += s.warp[w];
  if (before <= target && before + sum > target) {  // one warp
    for (int base = begin; base < end; base += 32) {
      const int i = base + lane;
      const uint64_t upto = warp_scan64(i < end ? weight(i) : 0);
      const unsigned passed = __ballot_sync(kFullWarp, before + upto > target);
      if (passed != 0) {
        if (lane == 0) s.index = base + __ffs(passed) - 1;
        break;
      }
      before += __shfl_sync(kFullWarp, upto, 31);
    }
  }
  __syncthreads();
  return s.index;
}

/// Where a list in falling order of keys is cut so that the weights before the cut just reach `target`.
struct Cut {
  uint32_t key = 0;         // elements with a larger key are all in
  uint64_t remaining = 0;   // weight that elements with this key have to add
};

/// `target` >= 1; elements of weight 0 do not count. A target over the total cuts at key 0.
template <class Key, class Weight>
__device__ Cut cut_at(int n, const Key& key, const Weight& weight, uint64_t target, Scratch& s) {
  uint32_t prefix = 0, known = 0;  // bits of the key found so far
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int shift = 21; shift >= 0; shift = shift == 21 ? 10 : shift == 10 ? 0 : -1) {
    const int bins = shift == 0 ? 1024 : kBins;
    __syncthreads();
    for (int b = threadIdx.x; b < kBins; b += kThreads) s.bins[b] = 0;
    if (threadIdx.x == 0) s.key = 0, s.value = target;
    __syncthreads();
#pragma unroll 8
    for (int i = threadIdx.x; i < n; i += kThreads) {
      const uint32_t k = key(i);
      if ((k & known) != prefix) continue;
      const uint64_t w = weight(i);
      if (w != 0)
        atomicAdd(reinterpret_cast<unsigned long long*>(&s.bins[(k >> shift) & (bins - 1)]), static_cast<unsigned long long>(w));
    }
    __syncthreads();
    // Thread t holds the bins 2 t' and 2 t' + 1 from the top, so that sums run from large keys to small.
    const int high = kBins - 1 - 2 * static_cast<int>(threadIdx.x);
    const uint64_t first = s.bins[high], second = s.bins[high - 1];
    const uint64_t upto = warp_scan64(first + second);
    if (lane == 31) s.warp[warp] = upto;
    __syncthreads();
    uint64_t before = upto - first - second;
    for (int w = 0; w < warp; ++w) before += s.warp[w];
    if (before < target && before + first >= target) s.key = high, s.value = target - before;
    if (before + first < target && before + first + second >= target) s.key = high - 1, s.value = target - before - first;
    __syncthreads();
    prefix |= s.key << shift;
    known |= static_cast<uint32_t>(bins - 1) << shift;
    target = s.value;
  }
  __syncthreads();
  return {prefix, target};
}

}  // namespace twelvex::cuda::select
