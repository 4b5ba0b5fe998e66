// SPDX-License-Identifier: MIT
// Exact top-k of one token's scores by radix selection on the float bits.
//
// Block (token), 512 threads. Three histogram passes over digits of 11, 11 and 10 bits (from the top) find the k-th largest
// key; a last pass walks the entries in order and keeps keys above it, and of equal keys the first ones, so the result is
// ascending, exact and the same on every run.
#include "common/check.h"
#include "common/reduce.cuh"
#include "indexer/indexer.h"

namespace twelvex::cuda {

namespace {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;
constexpr int kBins = 2048;
constexpr int kBinsPerThread = kBins / kThreads;

struct SmemPlan {
  uint32_t histogram[kBins];
  uint32_t warp_total[kWarps];
  uint32_t warp_ties[kWarps];
  uint32_t digit, remaining;
};

/// Larger float -> larger key.
__device__ __forceinline__ uint32_t order_key(float score) {
  const uint32_t bits = __float_as_uint(score);
  return bits ^ ((bits >> 31) ? 0xffffffffu : 0x80000000u);
}

/// Inclusive sum over the block's threads.
__device__ __forceinline__ uint32_t block_scan(uint32_t v, uint32_t* warp_total) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
  for (int d = 1; d < 32; d <<= 1) {
    const uint32_t below = __shfl_up_sync(kFullWarp, v, d);
    if (lane >= d) v += below;
  }
  if (lane == 31) warp_total[warp] = v;
  __syncthreads();
  for (int w = 0; w < warp; ++w) v += warp_total[w];
  return v;
}

/// Finds the digit in which the `wanted`-th largest key lies; s.digit, s.remaining (of that digit still wanted).
__device__ __forceinline__ void find_digit(SmemPlan& s, uint32_t wanted) {
  // Thread t owns bins from the top: kBins - 1 - (t * kBinsPerThread + i).
  uint32_t own[kBinsPerThread], sum = 0;
#pragma unroll
  for (int i = 0; i < kBinsPerThread; ++i) sum += own[i] = s.histogram[kBins - 1 - (threadIdx.x * kBinsPerThread + i)];
  uint32_t above = block_scan(sum, s.warp_total) - sum;
#pragma unroll
  for (int i = 0; i < kBinsPerThread; ++i) {
    if (above < wanted && above + own[i] >= wanted) {
      s.digit = kBins - 1 - (threadIdx.x * kBinsPerThread + i);
      s.remaining = wanted - above;
    }
    above += own[i];
  }
  __syncthreads();
}

__global__ void __launch_bounds__(kThreads) topk_kernel(const __grid_constant__ TopkParams p) {
  __shared__ SmemPlan s;
  const int token = p.first_token + blockIdx.x;
  int32_t* out = p.selection + static_cast<size_t>(token) * p.topk;
  if (p.batch.token_row[token] < 0) return;
  const int visible = (p.batch.cache_position[token] + 1) / kCsaRatio;
  if (visible <= p.topk) {
    for (int i = threadIdx.x; i < p.topk; i += kThreads) out[i] = i < visible ? i : -1;
    return;
  }
  const float* scores = p.scores + blockIdx.x * p.stride;
  uint32_t prefix = 0, wanted = p.topk;
  int shift = 32;
#pragma unroll
  for (int pass = 0; pass < 3; ++pass) {
    const int bits = pass == 2 ? 10 : 11;
    const int above = shift;  // bits from here on up are decided
    shift -= bits;
    for (int i = threadIdx.x; i < kBins; i += kThreads) s.histogram[i] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < visible; i += kThreads) {
      const uint32_t key = order_key(scores[i]);
      if (pass == 0 || (key >> above) == prefix) atomicAdd(&s.histogram[(key >> shift) & ((1u << bits) - 1)], 1u);
    }
    __syncthreads();
    find_digit(s, wanted);
    prefix = (prefix << bits) | s.digit;
    wanted = s.remaining;
    __syncthreads();
  }
  // prefix is the k-th largest key; `wanted` of the keys equal to it are kept, the first ones.
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  uint32_t kept = 0, ties = 0;  // before this stretch of kThreads entries
  for (int base = 0; base < visible; base += kThreads) {
    const int i = base + threadIdx.x;
    const uint32_t key = i < visible ? order_key(scores[i]) : 0;
    const bool over = i < visible && key > prefix, tie = i < visible && key == prefix;
    const uint32_t over_mask = __ballot_sync(kFullWarp, over), tie_mask = __ballot_sync(kFullWarp, tie);
    if (lane == 0) s.warp_total[warp] = __popc(over_mask), s.warp_ties[warp] = __popc(tie_mask);
    __syncthreads();
    uint32_t overs_before = 0, ties_before = ties, overs_all = 0, ties_all = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      if (w < warp) overs_before += s.warp_total[w], ties_before += s.warp_ties[w];
      overs_all += s.warp_total[w], ties_all += s.warp_ties[w];
    }
    const uint32_t below = (1u << lane) - 1;
    ties_before += __popc(tie_mask & below);
    const uint32_t ties_kept_before = min(ties_before, wanted);
    const uint32_t at = kept + overs_before + __popc(over_mask & below) + ties_kept_before - min(ties, wanted);
    if (over || (tie && ties_before < wanted)) out[at] = i;
    kept += overs_all + min(ties + ties_all, wanted) - min(ties, wanted);
    ties += ties_all;
    __syncthreads();
  }
}

}  // namespace

void run_topk(const TopkParams& p, cudaStream_t queue) {
  if (p.tokens == 0) return;
  topk_kernel<<<p.tokens, kThreads, 0, queue>>>(p);
  check_launch("topk_kernel");
}

}  // namespace twelvex::cuda
