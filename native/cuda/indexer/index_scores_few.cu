// SPDX-License-Identifier: MIT
// Indexer scores of few tokens on tensor cores: the sums of index_scores.cu, spread so that a token's way through them is short.
//
// Block (64 entries, token): entries, head weights and turns are in shared memory and registers before the launch before this
// one has ended; the token's queries follow, all at once. Warp (32 entries, 16 heads): the terms of its heads; those of the warps
// of other heads meet them in `terms` and are added in order. A block takes 32 entries where so every block has one turn.
#include "arch/dependent_launch.cuh"
#include "arch/mma.cuh"
#include "common/check.h"
#include "common/convert.cuh"
#include "common/device.h"
#include "elementwise/norm_rope.cuh"
#include "indexer/head_sums.cuh"
#include "indexer/indexer.h"

namespace twelvex::cuda {

namespace {

constexpr int kHeadTiles = kMaxIndexHeads / 16;
constexpr int kGroups = kFewScoreTile / 32;  // of 32 entries
constexpr int kThreads = kHeadTiles * kGroups * 32;
constexpr int kStride = kIndexDim * 2 + 16;  // 272 = 17 x 16 bytes, 17 odd: conflict-free ldmatrix
constexpr int kEntryThreads = kThreads / kFewScoreTile;  // four threads an entry

struct alignas(128) SmemPlan {
  uint8_t query[kMaxIndexHeads][kStride];
  uint8_t entries[kFewScoreTile][kStride];
  float4 terms[kHeadTiles - 1][kGroups][2][32];
  float weights[kMaxIndexHeads];
  float entry_scale[kFewScoreTile];
};
static_assert(sizeof(SmemPlan) <= 48 * 1024);

/// Entries [first, first + 64) -> shared memory, fp8 widened. Rows past `visible` become zeros.
__device__ __forceinline__ void load_entries(const IndexScoreParams& p, SmemPlan& s, int row, int first, int visible) {
  constexpr int kBytes = kIndexDim / kEntryThreads;  // of fp8
  const int r = threadIdx.x / kEntryThreads, part = threadIdx.x % kEntryThreads, e = first + r;
  auto* out = reinterpret_cast<uint4*>(s.entries[r] + part * kBytes * 2);
  float scale = 1.0f;
  if (e >= visible) {
#pragma unroll
    for (int i = 0; i < kBytes / 8; ++i) out[i] = make_uint4(0, 0, 0, 0);
  } else {
    const int block = context_block(p.batch, row, e / kCsaRowsPerBlock), at = e % kCsaRowsPerBlock;
    if (p.entries.format != RowFormat::kFp8) {
      const auto* in = reinterpret_cast<const uint4*>(p.entries.index_bf16(block, at)) + part * kBytes / 8;
#pragma unroll
      for (int i = 0; i < kBytes / 8; ++i) out[i] = __ldg(in + i);
    } else {
      scale = *p.entries.index_scale_fp8(block, at);
      const auto* in = reinterpret_cast<const uint4*>(p.entries.index_fp8(block, at) + part * kBytes);
#pragma unroll
      for (int i = 0; i < kBytes / 16; ++i) {
        const uint4 v = __ldg(in + i);
        const uint2 a = e4m3x4_to_bf16x4(v.x), b = e4m3x4_to_bf16x4(v.y), c = e4m3x4_to_bf16x4(v.z), d = e4m3x4_to_bf16x4(v.w);
        out[2 * i] = make_uint4(a.x, a.y, b.x, b.y);
        out[2 * i + 1] = make_uint4(c.x, c.y, d.x, d.y);
      }
    }
  }
  if (part == 0) s.entry_scale[r] = scale;
}

/// A token's queries on their way from memory to shared memory: eight threads a head's first half, then as many its second half,
/// whose rotation so keeps all lanes of a warp busy.
class Queries {
 public:
  __device__ __forceinline__ Queries(const IndexScoreParams& p, SmemPlan& s, int token) : p_(p), s_(s), token_(token), turns_{} {
    if (p.raw_query) {
      const float2* turns = p.batch.rope_long + static_cast<size_t>(token) * (kRopeDim / 2) + part() * 4;
#pragma unroll
      for (int i = 0; i < 4; ++i) turns_[i] = turns[i];
    }
    if (threadIdx.x < kMaxIndexHeads) {
      const int head = threadIdx.x;
      s.weights[head] =
          head < p.heads ? __bfloat162float(p.weights[static_cast<size_t>(token) * p.heads + head]) * p.scale : 0.0f;
    }
  }

  __device__ __forceinline__ void load() const {
    constexpr int kHeadsAtOnce = kThreads / 8, kOwn = kMaxIndexHeads / kHeadsAtOnce;
    static_assert(kRopeDim == kIndexDim / 2 && kIndexDim / 8 == 16);
    const auto* query = reinterpret_cast<const uint4*>(p_.query + static_cast<size_t>(token_) * p_.heads * kIndexDim) + part();
    const int head = threadIdx.x / 8;
    uint4 raw[2][kOwn];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int i = 0; i < kOwn; ++i) {
        const int h = head + i * kHeadsAtOnce;
        raw[half][i] = h < p_.heads ? query[h * 16 + half * 8] : make_uint4(0, 0, 0, 0);
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int i = 0; i < kOwn; ++i) {
        if (p_.raw_query && half == 1) raw[half][i] = rotate_index_part(raw[half][i], turns_);
        reinterpret_cast<uint4*>(s_.query[head + i * kHeadsAtOnce])[half * 8 + part()] = raw[half][i];
      }
    }
  }

 private:
  __device__ __forceinline__ static int part() { return threadIdx.x % 8; }

  const IndexScoreParams& p_;
  SmemPlan& s_;
  const int token_;
  float2 turns_[4];
};

/// What this warp's heads add to entries n * 8 + 2 q + {0, 1}, n = 0 .. 3, of its 32: this lane's two heads.
__device__ __forceinline__ void head_terms(const SmemPlan& s, int group, int tile, float (&terms)[8]) {
  const int lane = threadIdx.x % 32;
  const uint32_t query = smem_address(s.query) + (tile * 16 + lane % 16) * kStride + (lane / 16) * 16;
  const uint32_t entries =
      smem_address(s.entries) + (group * 32 + lane % 8 + lane / 16 * 8) * kStride + (lane / 8 % 2) * 16;
  float acc[4][4] = {};
#pragma unroll
  for (int k = 0; k < kIndexDim / 16; ++k) {
    uint32_t a[4], b[2][4];
    ldmatrix_x4(a, query + k * 32);
#pragma unroll
    for (int n = 0; n < 2; ++n) ldmatrix_x4(b[n], entries + n * 16 * kStride + k * 32);
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      mma_bf16(acc[2 * n], a, b[n][0], b[n][1]);
      mma_bf16(acc[2 * n + 1], a, b[n][2], b[n][3]);
    }
  }
  const float low = s.weights[tile * 16 + lane / 4], high = s.weights[tile * 16 + lane / 4 + 8];
#pragma unroll
  for (int n = 0; n < 4; ++n) {
    terms[2 * n] = low * fmaxf(acc[n][0], 0.0f) + high * fmaxf(acc[n][2], 0.0f);
    terms[2 * n + 1] = low * fmaxf(acc[n][1], 0.0f) + high * fmaxf(acc[n][3], 0.0f);
  }
}

__global__ void __launch_bounds__(kThreads) index_scores_few_kernel(const __grid_constant__ IndexScoreParams p) {
  __shared__ SmemPlan s;
  const int token = p.first_token + blockIdx.y, row = p.batch.token_row[token];
  const int visible = row >= 0 ? (p.batch.cache_position[token] + 1) / kCsaRatio : 0;
  // Entries that half tiles cover at once are spread over twice as many blocks, half of whose warps have no entries.
  const int end = visible > p.topk ? visible : 0, half = kFewScoreTile / 2;
  const int width = end <= static_cast<int>(gridDim.x) * half ? half : kFewScoreTile, begin = blockIdx.x * width;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = warp / kHeadTiles, tile = warp % kHeadTiles;
  if (begin >= end) {
    wait_for_previous_kernel();
    return let_next_kernel_start();
  }
  const Queries queries(p, s, token);
  load_entries(p, s, row, begin, min(visible, begin + width));
  wait_for_previous_kernel();
  let_next_kernel_start();
  queries.load();
  for (int first = begin; first < end; first += gridDim.x * width) {
    if (first > begin) load_entries(p, s, row, first, min(visible, first + width));
    __syncthreads();
    const bool scores = group * 32 < width;
    float terms[8];
    if (scores) head_terms(s, group, tile, terms);
    if (scores && tile > 0) {
      s.terms[tile - 1][group][0][lane] = make_float4(terms[0], terms[1], terms[2], terms[3]);
      s.terms[tile - 1][group][1][lane] = make_float4(terms[4], terms[5], terms[6], terms[7]);
    }
    const int own = group * 32 + summed_entry(lane);
    const float scale = s.entry_scale[own];
    __syncthreads();
    if (!scores || tile > 0) continue;
    float sums[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) sums[i] = 0.0f + terms[i];
#pragma unroll
    for (int t = 1; t < kHeadTiles; ++t) {
      if (t * 16 >= p.heads) break;
      const float4 low = s.terms[t - 1][group][0][lane], high = s.terms[t - 1][group][1][lane];
      const float others[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
      for (int i = 0; i < 8; ++i) sums[i] += others[i];
    }
    const float score = sum_heads(sums, lane) * scale;
    if (first + own >= visible) continue;
    if (p.awaited != nullptr && visible <= kAwaitedEntries) {
      const uint32_t word = __float_as_uint(score);
      uint32_t* const place = p.awaited + blockIdx.y * kAwaitedEntries + first + own;
      asm volatile("st.relaxed.gpu.global.u32 [%0], %1;\n" ::"l"(place), "r"(word == kNotThere ? word >> 1 : word) : "memory");
    }
    p.scores[blockIdx.y * p.stride + first + own] = score;
  }
}

}  // namespace

void launch_index_scores_few(const IndexScoreParams& p, int blocks, cudaStream_t queue) {
  LaunchShape shape = {.grid = dim3(blocks, p.tokens), .block = kThreads, .stream = queue};
  if (blocks * p.tokens <= 3 * p.multiprocessors) shape.carveout = shared_carveout(132, device_info().arch);  // three fit
  launch_dependent(shape, index_scores_few_kernel, p);
}

}  // namespace twelvex::cuda
