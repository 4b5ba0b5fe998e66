// SPDX-License-Identifier: MIT
// Exact top-k of one token's scores by radix selection on the float bits.
//
// Block (token), 1,024 threads. Up to three histogram passes over digits of 11, 11 and 10 bits (from the top) find the k-th
// largest key, or as much of it as tells which keys are kept. Then every thread counts what it keeps of its four neighbouring
// entries, and with the counts of the threads before it knows the places of those. Equal scores go to the lower entry, so the
// result is ascending, exact and the same on every run. The first 4,096 scores stay in registers.
//
// Few tokens' scores are read as they come, while the launch that writes them still runs (indexer.h): from their last store to
// the first digit it takes less than the end of that launch and the loads behind it.
#include "arch/dependent_launch.cuh"
#include "common/reduce.cuh"
#include "indexer/indexer.h"

namespace twelvex::cuda {

namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / 32;
constexpr int kBins = 2048;
constexpr int kOwn = 4;                    // neighbouring entries of a thread
constexpr int kStretch = kThreads * kOwn;  // entries of a block at once; the first ones stay in registers, others are read again
static_assert(kAwaitedEntries <= kStretch);
static_assert(kWarps == 32 && kBins == 2 * kThreads);  // lanes stand for warps; a thread clears two bins

struct SmemPlan {
  alignas(16) uint32_t histogram[kBins];  // zeros where a selection begins
  uint32_t unused[32];                    // counts what no bin counts
  uint32_t warp_total[2][kWarps];
  uint32_t digit, remaining, found;
};

/// Larger float -> larger key: ordered_key without its care for NaN, of which scores have none.
__device__ __forceinline__ uint32_t order_key(float score) {
  const uint32_t bits = __float_as_uint(score);
  return bits ^ ((bits >> 31) ? 0xffffffffu : 0x80000000u);
}

class TopSelect {
 public:
  /// `token_scores`: aligned to 16 bytes, with room for a multiple of four; so are those that are awaited instead, no more than
  /// kStretch, or null.
  __device__ __forceinline__ TopSelect(SmemPlan& smem, const float* token_scores, uint32_t* awaited_scores, int count)
      : s(smem), scores(token_scores), awaited(awaited_scores), visible(count) {}

  /// A barrier must follow.
  __device__ __forceinline__ static void clear(SmemPlan& s) {
    reinterpret_cast<uint2*>(s.histogram)[threadIdx.x] = make_uint2(0, 0);
  }

  /// Calls keep(place, entry) for the `k` best of more than `k` entries, each by some thread.
  template <class Keep>
  __device__ __forceinline__ void choose(uint32_t k, const Keep& keep) {
    awaited != nullptr ? await(first_keys) : load(0, first_keys);
    wanted = k;
#pragma unroll 1
    do {
      const int bits = shift == 10 ? 10 : 11, above = shift;
      shift -= bits;
#pragma unroll 1
      for (int first = 0; first < visible; first += kStretch) {
        if (first + warp_entry() >= visible) break;
        uint32_t keys[kOwn];
        load_again(first, keys);
        // A branch around each addition would take longer than additions that do not count.
#pragma unroll
        for (int i = 0; i < kOwn; ++i) {
          const bool counts = first + own_entry() + i < visible && (above == 32 || keys[i] >> above == prefix);
          uint32_t* bin = &s.histogram[(keys[i] >> shift) & ((1u << bits) - 1)];
          atomicAdd(counts ? bin : &s.unused[threadIdx.x % 32], 1u);
        }
      }
      __syncthreads();
      find_digit();
      prefix = (prefix << bits) | s.digit;
      wanted = s.remaining;
    } while (s.found != wanted && shift > 0);
    keep_chosen(k, keep);
  }

 private:
  __device__ __forceinline__ static int own_entry() { return static_cast<int>(threadIdx.x) * kOwn; }

  /// The warp's first one.
  __device__ __forceinline__ static int warp_entry() { return static_cast<int>(threadIdx.x) / 32 * 32 * kOwn; }

  /// Keys of this thread's entries of the stretch at `first`.
  __device__ __forceinline__ void load(int first, uint32_t (&keys)[kOwn]) const {
    float4 v = make_float4(0, 0, 0, 0);
    if (first + own_entry() < visible) v = *reinterpret_cast<const float4*>(scores + first + own_entry());
    keys[0] = order_key(v.x), keys[1] = order_key(v.y), keys[2] = order_key(v.z), keys[3] = order_key(v.w);
  }
  /// The same of all entries, each once it is there, and nothing left in its place.
  __device__ __forceinline__ void await(uint32_t (&keys)[kOwn]) const {
    auto* const place = reinterpret_cast<uint4*>(awaited + own_entry());
    const int own = visible - own_entry();
    uint4 v = make_uint4(0, 0, 0, 0);
    bool waits = own > 0;
    while (waits) {
      asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];\n"
                   : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                   : "l"(place)
                   : "memory");
      waits = v.x == kNotThere || (own > 1 && v.y == kNotThere) || (own > 2 && v.z == kNotThere) || (own > 3 && v.w == kNotThere);
    }
    if (own > 0) *place = make_uint4(kNotThere, kNotThere, kNotThere, kNotThere);
    keys[0] = order_key(__uint_as_float(v.x)), keys[1] = order_key(__uint_as_float(v.y));
    keys[2] = order_key(__uint_as_float(v.z)), keys[3] = order_key(__uint_as_float(v.w));
  }
  __device__ __forceinline__ void load_again(int first, uint32_t (&keys)[kOwn]) const {
#pragma unroll
    for (int i = 0; i < kOwn; ++i) keys[i] = first_keys[i];
    if (first > 0) load(first, keys);
  }

  /// Sum of the totals of the warps before this one.
  __device__ __forceinline__ static uint32_t sum_before_warp(const uint32_t (&totals)[kWarps]) {
    const uint32_t lane = threadIdx.x % 32;
    return __reduce_add_sync(kFullWarp, lane < threadIdx.x / 32 ? totals[lane] : 0);
  }

  /// Finds the digit in which the `wanted`-th largest key lies, and clears the histogram: s.digit, s.remaining (of that digit
  /// still wanted), s.found (there). The other half of the threads only waits: all warps together would issue for longer.
  __device__ __forceinline__ void find_digit() {
    constexpr int kFinders = kBins / 4;
    const bool finds = threadIdx.x < kFinders;
    // Thread t owns four bins, threads from the top.
    uint4 v = make_uint4(0, 0, 0, 0);
    uint32_t sum = 0, above = 0;
    if (finds) {
      uint4& bins = reinterpret_cast<uint4*>(s.histogram)[kFinders - 1 - threadIdx.x];
      v = bins;
      bins = make_uint4(0, 0, 0, 0);
      sum = v.x + v.y + v.z + v.w;
      above = warp_scan(sum);
      if (threadIdx.x % 32 == 31) s.warp_total[0][threadIdx.x / 32] = above;
    }
    __syncthreads();
    if (finds) {
      above += sum_before_warp(s.warp_total[0]) - sum;
      if (above < wanted && above + sum >= wanted) {
        const uint32_t own[4] = {v.w, v.z, v.y, v.x};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          if (above < wanted && above + own[i] >= wanted) {
            s.digit = kBins - 1 - (threadIdx.x * 4 + i);
            s.remaining = wanted - above;
            s.found = own[i];
          }
          above += own[i];
        }
      }
    }
    __syncthreads();
  }

  /// prefix is the begin of the k-th largest key, from bit `shift` on; `wanted` of the keys that begin with it are kept, the
  /// first ones.
  template <class Keep>
  __device__ __forceinline__ void keep_chosen(uint32_t k, const Keep& keep) {
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    uint32_t overs_before = 0, ties_before = 0, turn = 1;
#pragma unroll 1
    for (int first = 0;; first += kStretch, turn ^= 1) {
      const bool works = first + warp_entry() < visible;
      // What a thread keeps for sure counts in the lower half, ties in the upper one: a stretch has no more than 4,096 of either.
      uint32_t kinds[kOwn] = {}, own = 0, up_to = 0;
      if (works) {
        uint32_t keys[kOwn];
        load_again(first, keys);
#pragma unroll
        for (int i = 0; i < kOwn; ++i) {
          const uint32_t digits = keys[i] >> shift;
          const bool there = first + own_entry() + i < visible;
          own += kinds[i] = !there || digits < prefix ? 0 : digits > prefix ? 1 : 1u << 16;
        }
        up_to = warp_scan(own);
      }
      if (lane == 31) s.warp_total[turn][warp] = up_to;
      __syncthreads();
      if (works) {
        const uint32_t before = sum_before_warp(s.warp_total[turn]) + up_to - own;
        uint32_t overs = overs_before + (before & 0xffff), ties = ties_before + (before >> 16);
#pragma unroll
        for (int i = 0; i < kOwn; ++i) {
          if (kinds[i] == 1 || (kinds[i] > 1 && ties < wanted)) keep(overs + min(ties, wanted), first + own_entry() + i);
          overs += kinds[i] & 1, ties += kinds[i] >> 16;
        }
      }
      if (first + kStretch >= visible) return;
      const uint32_t all = __reduce_add_sync(kFullWarp, s.warp_total[turn][lane]);
      overs_before += all & 0xffff, ties_before += all >> 16;
      if (overs_before + min(ties_before, wanted) >= k) return;
    }
  }

  SmemPlan& s;
  const float* scores;
  uint32_t* const awaited;
  const int visible;
  uint32_t first_keys[kOwn], prefix = 0, wanted = 0;
  int shift = 32;
};

__global__ void __launch_bounds__(kThreads) topk_kernel(const __grid_constant__ TopkParams p) {
  __shared__ SmemPlan s;
  TopSelect::clear(s);
  const int token = p.first_token + blockIdx.x;
  int32_t* out = p.selection + static_cast<size_t>(token) * p.topk;
  const int visible = p.batch.token_row[token] < 0 ? 0 : (p.batch.cache_position[token] + 1) / kCsaRatio;
  __syncthreads();
  // Who awaits scores waits for the kernel before at its own end, so that what comes later is behind that all the same.
  const bool awaits = p.awaited != nullptr && visible > p.topk && visible <= kAwaitedEntries;
  if (!awaits) wait_for_previous_kernel();
  let_next_kernel_start();
  if (p.batch.token_row[token] < 0) return;
  if (visible <= p.topk) {
    for (int i = threadIdx.x; i < p.topk; i += kThreads) out[i] = i < visible ? i : -1;
    return;
  }
  TopSelect select(s, p.scores + blockIdx.x * p.stride, awaits ? p.awaited + blockIdx.x * kAwaitedEntries : nullptr, visible);
  select.choose(p.topk, [&](uint32_t place, int entry) { out[place] = entry; });
  if (awaits) wait_for_previous_kernel();
}

}  // namespace

void run_topk(const TopkParams& p, cudaStream_t queue) {
  if (p.tokens == 0) return;
  launch_dependent({p.tokens, kThreads, 0, queue}, topk_kernel, p);
}

}  // namespace twelvex::cuda
