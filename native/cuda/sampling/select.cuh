// SPDX-License-Identifier: MIT
// Selection over an indexed list of n elements by a team of blocks, exact and independent of the order of additions. Each block
// owns a part of the list; functors give the 32-bit key or the 64-bit integer weight (below 2^42) of element i and are called for
// the block's own elements only. Every thread of every block of the team calls and gets the result.
#pragma once

#include <cooperative_groups.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "common/ordered_key.cuh"
#include "common/reduce.cuh"

namespace twelvex::cuda::select {

inline constexpr int kBins = 2048;
inline constexpr int kParts = 3;      // a weight is added in pieces: shared memory adds 32 bits at once, 64 only by retries
inline constexpr int kPartBits = 14;  // so that 2^18 pieces fit 32 bits

struct Found {
  uint32_t key;
  int32_t index;
  uint64_t value;
};

/// Shared memory of one block. Others read `bins` and `own`, and write `found`.
template <int kThreads>
struct Scratch {
  uint32_t bins[kParts][kBins];
  uint64_t warp[kThreads / 32];
  uint32_t warp_key[kThreads / 32];
  int32_t warp_index[kThreads / 32];
  float real[kThreads / 32];
  Found own, found;
};

/// The largest key and the lowest index that has it.
struct Largest {
  uint32_t key;
  int32_t index;

  __device__ __forceinline__ void keep(uint32_t other_key, int32_t other_index) {
    if (other_key > key || (other_key == key && other_index < index)) key = other_key, index = other_index;
  }
};

/// Where a list in falling order of keys is cut so that the weights before the cut just reach a target.
struct Cut {
  uint32_t key = 0;         // elements with a larger key are all in
  uint64_t remaining = 0;   // weight that elements with this key have to add
};

__device__ __forceinline__ uint64_t warp_sum64(uint64_t v) {
#pragma unroll
  for (int d = 16; d > 0; d >>= 1) v += __shfl_xor_sync(kFullWarp, v, d);
  return v;
}

using cuda::of_ordered_key;
using cuda::ordered_key;

/// kBlocks blocks (a cluster, or one) of kThreads_ threads.
template <int kThreads_, int kBlocks>
struct Team {
  static constexpr int kThreads = kThreads_;
  static constexpr int kSize = kBlocks;
  static constexpr int kWarps = kThreads / 32;
  using Memory = Scratch<kThreads>;

  Memory& s;
  int n, rank, begin, end;  // the list, this block, its elements

  __device__ Team(Memory& scratch, int count) : s(scratch), n(count) {
    rank = kBlocks == 1 ? 0 : static_cast<int>(cooperative_groups::this_cluster().block_rank());
    const int part = ((n + kBlocks - 1) / kBlocks + 31) / 32 * 32;
    begin = min(n, rank * part), end = min(n, begin + part);
  }

  /// Also at the end of a kernel: a block must not leave while others read its memory.
  __device__ __forceinline__ static void sync() {
    if constexpr (kBlocks == 1) {
      __syncthreads();
    } else {
      cooperative_groups::this_cluster().sync();
    }
  }

  __device__ __forceinline__ Memory& of(int block) const {
    if constexpr (kBlocks == 1) {
      return s;
    } else {
      return *cooperative_groups::this_cluster().map_shared_rank(&s, block);
    }
  }

  /// Sum of own.value over the blocks before `blocks`; behind a sync.
  __device__ uint64_t values_before(int blocks) const {
    uint64_t sum = 0;
    for (int b = 0; b < blocks; ++b) sum += of(b).own.value;
    return sum;
  }

  __device__ void tell(const Found& found) const {
    for (int b = 0; b < kBlocks; ++b) of(b).found = found;
  }

  template <class Key>
  __device__ Largest largest(const Key& key) const {
    Largest best{0, n};
#pragma unroll 8
    for (int i = begin + static_cast<int>(threadIdx.x); i < end; i += kThreads) best.keep(key(i), i);
#pragma unroll
    for (int d = 16; d > 0; d >>= 1)
      best.keep(__shfl_xor_sync(kFullWarp, best.key, d), __shfl_xor_sync(kFullWarp, best.index, d));
    __syncthreads();
    if (threadIdx.x % 32 == 0) s.warp_key[threadIdx.x / 32] = best.key, s.warp_index[threadIdx.x / 32] = best.index;
    __syncthreads();
    for (int w = 0; w < kWarps; ++w) best.keep(s.warp_key[w], s.warp_index[w]);
    if constexpr (kBlocks > 1) {
      if (threadIdx.x == 0) s.own.key = best.key, s.own.index = best.index;
      sync();
      for (int b = 0; b < kBlocks; ++b) best.keep(of(b).own.key, of(b).own.index);
    }
    sync();
    return best;
  }

  /// Sum of all weights.
  template <class Weight>
  __device__ uint64_t total(const Weight& weight) const {
    uint64_t sum = 0;
#pragma unroll 8
    for (int i = begin + static_cast<int>(threadIdx.x); i < end; i += kThreads) sum += weight(i);
    sum = add_warps(warp_sum64(sum));
    if constexpr (kBlocks > 1) {
      if (threadIdx.x == 0) s.own.value = sum;
      sync();
      sum = values_before(kBlocks);
    }
    sync();
    return sum;
  }

  /// First index, ascending, at which the running sum of weights passes `target`; n when it never does.
  template <class Weight>
  __device__ int crossing(const Weight& weight, uint64_t target) const {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int part = ((end - begin + kWarps - 1) / kWarps + 31) / 32 * 32;
    const int first = min(end, begin + warp * part), last = min(end, first + part);
    uint64_t sum = 0;
#pragma unroll 8
    for (int i = first + lane; i < last; i += 32) sum += weight(i);
    sum = warp_sum64(sum);
    const uint64_t whole = add_warps(sum);
    if (threadIdx.x == 0) s.own.value = whole, s.found.index = n;
    sync();
    uint64_t before = values_before(rank);
    for (int w = 0; w < warp; ++w) before += s.warp[w];
    if (before <= target && before + sum > target) {  // one warp of the team
      for (int base = first; base < last; base += 32) {
        const int i = base + lane;
        const uint64_t upto = warp_scan(i < last ? weight(i) : 0);
        const unsigned passed = __ballot_sync(kFullWarp, before + upto > target);
        if (passed != 0) {
          if (lane == 0) tell({0, base + __ffs(passed) - 1, 0});
          break;
        }
        before += __shfl_sync(kFullWarp, upto, 31);
      }
    }
    sync();
    return s.found.index;
  }

  /// `target` >= 1; elements of weight 0 do not count. A target over the total cuts at key 0.
  template <class Key, class Weight>
  __device__ Cut cut_at(const Key& key, const Weight& weight, uint64_t target) const {
    uint32_t prefix = 0, known = 0;  // bits of the key found so far
    for (int shift = 21; shift >= 0; shift = shift == 21 ? 10 : shift == 10 ? 0 : -1) {
      const uint32_t mask = shift == 0 ? 1023 : kBins - 1;
      for (int i = threadIdx.x; i < kParts * kBins; i += kThreads) (&s.bins[0][0])[i] = 0;
      __syncthreads();
      if (threadIdx.x == 0) s.found = {0, 0, target};
#pragma unroll 8
      for (int i = begin + static_cast<int>(threadIdx.x); i < end; i += kThreads) {
        const uint32_t k = key(i);
        if ((k & known) == prefix) add(k >> shift & mask, weight(i));
      }
      sync();
      find_bin(target);
      sync();
      prefix |= s.found.key << shift;
      known |= mask << shift;
      target = s.found.value;
      __syncthreads();
    }
    return {prefix, target};
  }

 private:
  /// Sum over the block of one value a warp; s.warp holds them behind it.
  __device__ uint64_t add_warps(uint64_t of_warp) const {
    __syncthreads();
    if (threadIdx.x % 32 == 0) s.warp[threadIdx.x / 32] = of_warp;
    __syncthreads();
    uint64_t sum = 0;
    for (int w = 0; w < kWarps; ++w) sum += s.warp[w];
    return sum;
  }

  __device__ __forceinline__ void add(uint32_t bin, uint64_t weight) const {
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      const auto piece = static_cast<uint32_t>(weight >> (part * kPartBits)) & ((1u << kPartBits) - 1);
      if (piece != 0) atomicAdd(&s.bins[part][bin], piece);
    }
  }

  /// Blocks add a slice of the bins each, lower ranks the larger keys, threads likewise; whoever reaches the target tells all.
  __device__ void find_bin(uint64_t target) const {
    constexpr int kSlice = kBins / kBlocks, kPer = (kSlice + kThreads - 1) / kThreads;
    const int top = kBins - 1 - rank * kSlice, warp = threadIdx.x / 32;
    uint64_t v[kPer] = {}, own = 0;
#pragma unroll
    for (int j = 0; j < kPer; ++j) {
      const int at = static_cast<int>(threadIdx.x) * kPer + j;
      if (at >= kSlice) continue;
      for (int b = 0; b < kBlocks; ++b) {
        const Memory& other = of(b);
#pragma unroll
        for (int part = 0; part < kParts; ++part) v[j] += static_cast<uint64_t>(other.bins[part][top - at]) << (part * kPartBits);
      }
      own += v[j];
    }
    const uint64_t upto = warp_scan(own);
    const uint64_t whole = add_warps(__shfl_sync(kFullWarp, upto, 31));
    uint64_t before = upto - own;
    for (int w = 0; w < warp; ++w) before += s.warp[w];
    if constexpr (kBlocks > 1) {
      if (threadIdx.x == 0) s.own.value = whole;
      sync();
      before += values_before(rank);
    }
#pragma unroll
    for (int j = 0; j < kPer; ++j) {
      if (before < target && before + v[j] >= target) {
        tell({static_cast<uint32_t>(top - static_cast<int>(threadIdx.x) * kPer - j), 0, target - before});
      }
      before += v[j];
    }
  }
};

}  // namespace twelvex::cuda::select
