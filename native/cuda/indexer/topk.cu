// SPDX-License-Identifier: MIT
// Exact top-k of one token's scores by radix selection on the float bits.
//
// Block (token), 512 threads. Up to three histogram passes over digits of 11, 11 and 10 bits (from the top) find the k-th largest
// key, or as much of it as tells which keys are kept. Then each warp counts what it keeps of its stretch of entries, and with the
// counts of the warps before it knows the places of those. Equal scores go to the lower entry, so the result is ascending, exact
// and the same on every run. The first 4,096 scores stay in shared memory. Loops are not unrolled: for one token a block runs
// this once, and fetching instructions takes longer than they do.
#include "arch/async_copy.cuh"
#include "arch/dependent_launch.cuh"
#include "common/reduce.cuh"
#include "indexer/indexer.h"

namespace twelvex::cuda {

namespace {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;
constexpr int kBins = 2048;
constexpr int kHeld = 4096;  // scores in shared memory

struct SmemPlan {
  alignas(16) uint32_t histogram[kBins];  // zeros where a selection begins
  alignas(16) float scores[kHeld];        // of the first entries; the others are read again
  alignas(16) uint32_t warp_total[kWarps];
  uint32_t digit, remaining, found;
};

/// Larger float -> larger key.
__device__ __forceinline__ uint32_t order_key(float score) {
  const uint32_t bits = __float_as_uint(score);
  return bits ^ ((bits >> 31) ? 0xffffffffu : 0x80000000u);
}

struct TopSelect {
  /// `token_scores`: aligned to 16 bytes, with room for a multiple of four.
  __device__ __forceinline__ TopSelect(SmemPlan& smem, const float* token_scores, int count)
      : s(smem), scores(token_scores), visible(count) {}

  /// A barrier must follow.
  __device__ __forceinline__ static void clear(SmemPlan& s) {
    for (int i = threadIdx.x; i < kBins / 4; i += kThreads) {
      reinterpret_cast<uint4*>(s.histogram)[i] = make_uint4(0, 0, 0, 0);
    }
  }

  /// Calls keep(place, entry) for the `k` best of more than `k` entries, each by some thread.
  template <class Keep>
  __device__ __forceinline__ void choose(uint32_t k, const Keep& keep) {
#pragma unroll 1
    for (int i = threadIdx.x * 4; i < min(visible, kHeld); i += kThreads * 4) cp_async_16(smem_address(s.scores + i), scores + i);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    wanted = k;
#pragma unroll 1
    do {
      const int bits = shift == 10 ? 10 : 11, above = shift;
      shift -= bits;
#pragma unroll 1
      for (int i = threadIdx.x; i < visible; i += kThreads) {
        const uint32_t key = key_of(i);
        if (above < 32 && key >> above != prefix) continue;
        atomicAdd(&s.histogram[(key >> shift) & ((1u << bits) - 1)], 1u);
      }
      __syncthreads();
      find_digit();
      prefix = (prefix << bits) | s.digit;
      wanted = s.remaining;
    } while (s.found != wanted && shift > 0);
    keep_chosen(keep);
  }

  static constexpr int kOwnBins = kBins / kThreads;
  static_assert(kOwnBins % 4 == 0 && kWarps % 4 == 0 && kHeld % 4 == 0);

  __device__ __forceinline__ uint32_t key_of(int i) const { return order_key(i < kHeld ? s.scores[i] : scores[i]); }

  /// Sum of warp_total[w] for w before this warp.
  __device__ __forceinline__ uint32_t warps_before() const {
    const int warp = threadIdx.x / 32;
    uint32_t before = 0;
#pragma unroll
    for (int w = 0; w < kWarps; w += 4) {
      const uint4 v = *reinterpret_cast<const uint4*>(s.warp_total + w);
      const uint32_t value[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
      for (int i = 0; i < 4; ++i)
        if (w + i < warp) before += value[i];
    }
    return before;
  }

  /// Finds the digit in which the `wanted`-th largest key lies, and clears the histogram: s.digit, s.remaining (of that digit
  /// still wanted), s.found (there).
  __device__ __forceinline__ void find_digit() {
    // Thread t owns bins from the top: kBins - 1 - (t * kOwnBins + i).
    auto* bins = reinterpret_cast<uint4*>(s.histogram + kBins - kOwnBins * (threadIdx.x + 1));
    uint32_t own[kOwnBins], sum = 0;
#pragma unroll
    for (int i = 0; i < kOwnBins; i += 4) {
      const uint4 v = bins[(kOwnBins - 4 - i) / 4];
      bins[(kOwnBins - 4 - i) / 4] = make_uint4(0, 0, 0, 0);
      own[i] = v.w, own[i + 1] = v.z, own[i + 2] = v.y, own[i + 3] = v.x;
      sum += v.x + v.y + v.z + v.w;
    }
    const int lane = threadIdx.x % 32;
    uint32_t above = sum;
#pragma unroll
    for (int d = 1; d < 32; d <<= 1) {
      const uint32_t lower = __shfl_up_sync(kFullWarp, above, d);
      if (lane >= d) above += lower;
    }
    if (lane == 31) s.warp_total[threadIdx.x / 32] = above;
    __syncthreads();
    above += warps_before() - sum;
    if (above < wanted && above + sum >= wanted) {
#pragma unroll
      for (int i = 0; i < kOwnBins; ++i) {
        if (above < wanted && above + own[i] >= wanted) {
          s.digit = kBins - 1 - (threadIdx.x * kOwnBins + i);
          s.remaining = wanted - above;
          s.found = own[i];
        }
        above += own[i];
      }
    }
    __syncthreads();
  }

  /// prefix is the begin of the k-th largest key, from bit `shift` on; `wanted` of the keys that begin with it are kept, the
  /// first ones. The first walk counts, the second keeps.
  template <class Keep>
  __device__ __forceinline__ void keep_chosen(const Keep& keep) {
    const int lane = threadIdx.x % 32, stretch = (visible + kThreads - 1) / kThreads * 32;
    const int begin = static_cast<int>(threadIdx.x / 32) * stretch, end = min(visible, begin + stretch);
    const uint32_t below = (1u << lane) - 1;
    uint32_t overs = 0, ties = 0;
#pragma unroll 1
    for (int walk = 0; walk < 2; ++walk) {
      if (walk > 0) {
        // Sums of both fit 16 bits: k entries at most are above, and more ties than are kept need no count.
        if (lane == 0) s.warp_total[threadIdx.x / 32] = overs | min(ties, wanted) << 16;
        __syncthreads();
        const uint32_t before = warps_before();
        overs = before & 0xffff, ties = before >> 16;
      }
#pragma unroll 1
      for (int first = begin; first < end; first += 32) {
        const int i = first + lane;
        const uint32_t digits = i < end ? key_of(i) >> shift : 0;
        const bool over = i < end && digits > prefix, tie = i < end && digits == prefix;
        const uint32_t over_mask = __ballot_sync(kFullWarp, over), tie_mask = __ballot_sync(kFullWarp, tie);
        const uint32_t ties_before = ties + __popc(tie_mask & below);
        if (walk > 0 && (over || (tie && ties_before < wanted))) {
          keep(overs + __popc(over_mask & below) + min(ties_before, wanted), i);
        }
        overs += __popc(over_mask);
        ties += __popc(tie_mask);
      }
    }
  }

  SmemPlan& s;
  const float* scores;
  const int visible;
  uint32_t prefix = 0, wanted = 0;
  int shift = 32;
};

__global__ void __launch_bounds__(kThreads) topk_kernel(const __grid_constant__ TopkParams p) {
  __shared__ SmemPlan s;
  TopSelect::clear(s);
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
  __syncthreads();
  TopSelect select(s, p.scores + blockIdx.x * p.stride, visible);
  select.choose(p.topk, [&](uint32_t place, int entry) { out[place] = entry; });
}

}  // namespace

void run_topk(const TopkParams& p, cudaStream_t queue) {
  if (p.tokens == 0) return;
  launch_dependent({p.tokens, kThreads, 0, queue}, topk_kernel, p);
}

}  // namespace twelvex::cuda
