// SPDX-License-Identifier: MIT
// Exact top-k of one token's scores by radix selection on the float bits.
//
// Block (token), 512 threads. Up to three histogram passes over digits of 11, 11 and 10 bits (from the top) find the k-th largest
// key, or as much of it as tells which keys are kept. A last pass walks the entries in order and keeps keys above it, and of
// those that begin like it the first ones, so the result is ascending, exact and the same on every run. The first 4,096 keys
// stay in shared memory.
#include "arch/dependent_launch.cuh"
#include "common/reduce.cuh"
#include "indexer/indexer.h"

namespace twelvex::cuda {

namespace {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;
constexpr int kBins = 2048;
constexpr int kBinsPerThread = kBins / kThreads;
constexpr int kPasses = 3;
constexpr int kHeld = 4096;  // keys in shared memory

struct SmemPlan {
  uint32_t histogram[kPasses][kBins];
  uint32_t keys[kHeld];
  alignas(16) uint32_t warp_total[kWarps];
  uint32_t digit, remaining, found;
};

/// Larger float -> larger key.
__device__ __forceinline__ uint32_t order_key(float score) {
  const uint32_t bits = __float_as_uint(score);
  return bits ^ ((bits >> 31) ? 0xffffffffu : 0x80000000u);
}

/// Calls visit(i, key) for this thread's entries, block by block of kThreads: entries behind the last have i >= visible.
template <class Visit>
__device__ __forceinline__ void each_key(const SmemPlan& s, const float* scores, int visible, const Visit& visit) {
#pragma unroll 2
  for (int i = threadIdx.x; i < (visible + kThreads - 1) / kThreads * kThreads; i += kThreads) {
    visit(i, i < kHeld ? s.keys[i] : i < visible ? order_key(scores[i]) : 0);
  }
}

/// Sums of all warps' values and of those of the warps before this one.
struct WarpSums {
  uint32_t before = 0, all = 0;

  __device__ __forceinline__ explicit WarpSums(const uint32_t* warp_total) {
    const int warp = threadIdx.x / 32;
#pragma unroll
    for (int w = 0; w < kWarps; w += 4) {
      const uint4 v = *reinterpret_cast<const uint4*>(warp_total + w);
      const uint32_t value[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        all += value[i];
        if (w + i < warp) before += value[i];
      }
    }
  }
};

/// Finds the digit in which the `wanted`-th largest key lies; s.digit, s.remaining (of that digit still wanted), s.found (there).
__device__ __forceinline__ void find_digit(SmemPlan& s, const uint32_t* histogram, uint32_t wanted) {
  // Thread t owns bins from the top: kBins - 1 - (t * kBinsPerThread + i).
  const uint4 v = *reinterpret_cast<const uint4*>(histogram + kBins - kBinsPerThread * (threadIdx.x + 1));
  const uint32_t own[kBinsPerThread] = {v.w, v.z, v.y, v.x};
  const uint32_t sum = own[0] + own[1] + own[2] + own[3];
  const int lane = threadIdx.x % 32;
  uint32_t above = sum;
#pragma unroll
  for (int d = 1; d < 32; d <<= 1) {
    const uint32_t lower = __shfl_up_sync(kFullWarp, above, d);
    if (lane >= d) above += lower;
  }
  if (lane == 31) s.warp_total[threadIdx.x / 32] = above;
  __syncthreads();
  above += WarpSums(s.warp_total).before - sum;
#pragma unroll
  for (int i = 0; i < kBinsPerThread; ++i) {
    if (above < wanted && above + own[i] >= wanted) {
      s.digit = kBins - 1 - (threadIdx.x * kBinsPerThread + i);
      s.remaining = wanted - above;
      s.found = own[i];
    }
    above += own[i];
  }
  __syncthreads();
}

__global__ void __launch_bounds__(kThreads) topk_kernel(const __grid_constant__ TopkParams p) {
  __shared__ SmemPlan s;
  static_assert(kBinsPerThread == 4);
  for (int i = threadIdx.x; i < kPasses * kBins / 4; i += kThreads) {
    reinterpret_cast<uint4*>(s.histogram)[i] = make_uint4(0, 0, 0, 0);
  }
  const int token = p.first_token + blockIdx.x;
  int32_t* out = p.selection + static_cast<size_t>(token) * p.topk;
  const int visible = p.batch.token_row[token] < 0 ? 0 : (p.batch.cache_position[token] + 1) / kCsaRatio;
  wait_for_previous_kernel();
  let_next_kernel_start();
  if (p.batch.token_row[token] < 0) return;
  if (visible <= p.topk) {
    for (int i = threadIdx.x; i < p.topk; i += kThreads) out[i] = i < visible ? i : -1;
    return;
  }
  const float* scores = p.scores + blockIdx.x * p.stride;
#pragma unroll 4
  for (int i = threadIdx.x; i < min(visible, kHeld); i += kThreads) s.keys[i] = order_key(scores[i]);
  __syncthreads();
  uint32_t prefix = 0, wanted = p.topk;
  int shift = 32;
#pragma unroll 1
  for (int pass = 0; pass < kPasses; ++pass) {
    const int bits = pass == 2 ? 10 : 11;
    const int above = shift;  // bits from here on up are decided
    shift -= bits;
    each_key(s, scores, visible, [&](int i, uint32_t key) {
      if (i >= visible || (pass > 0 && (key >> above) != prefix)) return;
      atomicAdd(&s.histogram[pass][(key >> shift) & ((1u << bits) - 1)], 1u);
    });
    __syncthreads();
    find_digit(s, s.histogram[pass], wanted);
    prefix = (prefix << bits) | s.digit;
    wanted = s.remaining;
    if (s.found == wanted) break;  // all keys that begin like this are kept
  }
  // prefix is the begin of the k-th largest key; `wanted` of the keys that begin with it are kept, the first ones.
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const uint32_t below = (1u << lane) - 1;
  uint32_t kept = 0, ties = 0;  // before this stretch of kThreads entries
  each_key(s, scores, visible, [&](int i, uint32_t key) {
    const uint32_t begin = key >> shift;
    const bool over = i < visible && begin > prefix, tie = i < visible && begin == prefix;
    const uint32_t over_mask = __ballot_sync(kFullWarp, over), tie_mask = __ballot_sync(kFullWarp, tie);
    if (lane == 0) s.warp_total[warp] = __popc(over_mask) | __popc(tie_mask) << 16;
    __syncthreads();
    const WarpSums sums(s.warp_total);
    const uint32_t ties_before = ties + (sums.before >> 16) + __popc(tie_mask & below);
    const uint32_t overs_before = (sums.before & 0xffff) + __popc(over_mask & below);
    const uint32_t at = kept + overs_before + min(ties_before, wanted) - min(ties, wanted);
    if (over || (tie && ties_before < wanted)) out[at] = i;
    const uint32_t ties_all = sums.all >> 16;
    kept += (sums.all & 0xffff) + min(ties + ties_all, wanted) - min(ties, wanted);
    ties += ties_all;
    __syncthreads();
  });
}

}  // namespace

void run_topk(const TopkParams& p, cudaStream_t queue) {
  if (p.tokens == 0) return;
  launch_dependent({p.tokens, kThreads, 0, queue}, topk_kernel, p);
}

}  // namespace twelvex::cuda
