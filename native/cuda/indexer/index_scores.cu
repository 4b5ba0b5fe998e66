// SPDX-License-Identifier: MIT
// Indexer scores on tensor cores (the loop: score_loop.cuh).
//
// A block's entries pass through shared memory once, 128 at a time, fp8 widened.
#include "arch/mma.cuh"
#include "common/check.h"
#include "common/convert.cuh"
#include "common/device.h"
#include "elementwise/norm_rope.cuh"
#include "indexer/score_loop.cuh"

namespace twelvex::cuda {

namespace {

constexpr int kThreads = kScoreThreads;
constexpr int kStride = kIndexDim * 2 + 16;  // 272 = 17 x 16 bytes, 17 odd: conflict-free ldmatrix

struct alignas(128) SmemPlan {
  union {
    uint8_t query[2][kMaxIndexHeads][kStride];
    uint8_t entries[2 * kMaxIndexHeads][kStride];  // half a tile
  };
  float weights[2][kMaxIndexHeads];
  float entry_scale[kScoreTile];
};
static_assert(sizeof(SmemPlan) <= 48 * 1024);

/// Entries [first, first + 128) -> shared memory, two threads a row. Rows past `visible` become zeros.
__device__ __forceinline__ void load_half(const IndexScoreParams& p, SmemPlan& s, int row, int first, int visible, int half) {
  const int r = threadIdx.x / 2, part = threadIdx.x % 2, e = first + r;
  auto* out = reinterpret_cast<uint4*>(s.entries[r] + part * 128);
  const bool fp8 = p.entries.format == RowFormat::kFp8;
  float scale = 1.0f;
  if (e >= visible) {
#pragma unroll
    for (int i = 0; i < 8; ++i) out[i] = make_uint4(0, 0, 0, 0);
  } else {
    const int block = context_block(p.batch, row, e / kCsaRowsPerBlock), at = e % kCsaRowsPerBlock;
    if (!fp8) {
      const auto* in = reinterpret_cast<const uint4*>(p.entries.index_bf16(block, at) + part * 128);
#pragma unroll
      for (int i = 0; i < 8; ++i) out[i] = __ldg(in + i);
    } else {
      scale = *p.entries.index_scale_fp8(block, at);
      const auto* in = reinterpret_cast<const uint4*>(p.entries.index_fp8(block, at) + part * 64);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const uint4 v = __ldg(in + i);
        const uint2 a = e4m3x4_to_bf16x4(v.x), b = e4m3x4_to_bf16x4(v.y), c = e4m3x4_to_bf16x4(v.z), d = e4m3x4_to_bf16x4(v.w);
        out[2 * i] = make_uint4(a.x, a.y, b.x, b.y);
        out[2 * i + 1] = make_uint4(c.x, c.y, d.x, d.y);
      }
    }
  }
  if (part == 0) s.entry_scale[half * 128 + r] = scale;
}

/// Half a row of an entry on its way into L2.
__device__ __forceinline__ void prefetch_entry(const IndexScoreParams& p, int row, int entry, int visible) {
  if (entry >= visible) return;
  const int block = context_block(p.batch, row, entry / kCsaRowsPerBlock), at = entry % kCsaRowsPerBlock, part = threadIdx.x % 2;
  const bool fp8 = p.entries.format == RowFormat::kFp8;
  const uint8_t* from = fp8 ? p.entries.index_fp8(block, at) + part * 64 : p.entries.index_bf16(block, at) + part * 128;
  asm volatile("prefetch.global.L2 [%0];\n" ::"l"(from));
}

struct Scores {
  const IndexScoreParams& p;
  SmemPlan& s;
  uint32_t b[2][8][4];
  float entry_scale;

  __device__ __forceinline__ void load_entries(int row, int first, int visible) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    prefetch_entry(p, row, first + 128 + threadIdx.x / 2, visible);  // while the first half is on its way
#pragma unroll 1
    for (int half = 0; half < 2; ++half) {
      __syncthreads();
      load_half(p, s, row, first + half * 128, visible, half);
      __syncthreads();
      if (warp / 4 == half) {
        const uint32_t base =
            smem_address(s.entries) + ((warp % 4) * 32 + lane % 8 + lane / 16 * 8) * kStride + (lane / 8 % 2) * 16;
#pragma unroll
        for (int n = 0; n < 2; ++n)
#pragma unroll
          for (int k = 0; k < 8; ++k) ldmatrix_x4(b[n][k], base + n * 16 * kStride + k * 32);
      }
    }
    entry_scale = s.entry_scale[warp * 32 + summed_entry(lane)];
    __syncthreads();
  }

  __device__ __forceinline__ void clear_queries() {
    for (int i = p.heads * 16 + threadIdx.x; i < (p.heads + 15) / 16 * 256; i += kThreads) {
      *reinterpret_cast<uint4*>(s.query[0][i / 16] + i % 16 * 16) = make_uint4(0, 0, 0, 0);
      *reinterpret_cast<uint4*>(s.query[1][i / 16] + i % 16 * 16) = make_uint4(0, 0, 0, 0);
    }
    for (int i = p.heads + threadIdx.x; i < kMaxIndexHeads; i += kThreads) s.weights[0][i] = s.weights[1][i] = 0;
  }

  __device__ __forceinline__ void load_query(int buffer, int token) {
    const auto* query = p.query + static_cast<size_t>(token) * p.heads * kIndexDim;
    constexpr int kHeadsAtOnce = kThreads / 16;
    const int part = threadIdx.x % 16, head = threadIdx.x / 16;  // sixteen threads a head
    if (p.raw_query && part >= 8) {
      const float2* turns = p.batch.rope_long + static_cast<size_t>(token) * (kRopeDim / 2);
#pragma unroll 1
      for (int first = head; first < p.heads; first += 2 * kHeadsAtOnce) {
        uint4 raw[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int h = first + i * kHeadsAtOnce;
          if (h < p.heads) raw[i] = reinterpret_cast<const uint4*>(query + h * kIndexDim)[part];
        }
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int h = first + i * kHeadsAtOnce;
          if (h < p.heads) reinterpret_cast<uint4*>(s.query[buffer][h])[part] = rotate_index_part(raw[i], part, turns);
        }
      }
    } else {
      for (int h = head; h < p.heads; h += kHeadsAtOnce) {
        cp_async_16(smem_address(s.query[buffer][h] + part * 16), query + h * kIndexDim + part * 8);
      }
    }
    if (static_cast<int>(threadIdx.x) < p.heads) {
      s.weights[buffer][threadIdx.x] = __bfloat162float(p.weights[static_cast<size_t>(token) * p.heads + threadIdx.x]) * p.scale;
    }
  }

  __device__ __forceinline__ float score(int buffer) const {
    const int lane = threadIdx.x % 32, head_tiles = (p.heads + 15) / 16;
    float sums[8] = {};  // entries n * 8 + 2 q + {0, 1}, n = 0 .. 3, over this lane's heads
    const uint32_t base = smem_address(s.query[buffer]) + (lane % 16) * kStride + (lane / 16) * 16;
    for (int m = 0; m < head_tiles; ++m) {
      float acc[4][4] = {};
#pragma unroll
      for (int k = 0; k < 8; ++k) {
        uint32_t a[4];
        ldmatrix_x4(a, base + m * 16 * kStride + k * 32);
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          mma_bf16(acc[2 * n], a, b[n][k][0], b[n][k][1]);
          mma_bf16(acc[2 * n + 1], a, b[n][k][2], b[n][k][3]);
        }
      }
      const float low = s.weights[buffer][m * 16 + lane / 4], high = s.weights[buffer][m * 16 + lane / 4 + 8];
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        sums[2 * n] += low * fmaxf(acc[n][0], 0.0f) + high * fmaxf(acc[n][2], 0.0f);
        sums[2 * n + 1] += low * fmaxf(acc[n][1], 0.0f) + high * fmaxf(acc[n][3], 0.0f);
      }
    }
    return sum_heads(sums, lane);
  }
};

__global__ void __launch_bounds__(kThreads, 2) index_scores_kernel(const __grid_constant__ IndexScoreParams p) {
  __shared__ SmemPlan s;
  Scores scores{p, s};
  score_entries(p, scores);
}

}  // namespace

void run_index_scores(const IndexScoreParams& p, cudaStream_t queue) {
  if (p.groups.groups == 0 || p.entry_limit <= p.topk) return;
  TWELVEX_NEED_LE(p.heads, kMaxIndexHeads);
  if (const int blocks = few_score_blocks(p); blocks > 0) return launch_index_scores_few(p, blocks, queue);
  const int tiles = (p.entry_limit + kScoreTile - 1) / kScoreTile;
  const dim3 grid(tiles < 64 ? tiles : 64, p.groups.groups);
  if (p.query_fp8) return launch_index_scores_fp8(p, grid, queue);
  launch_dependent({grid, kThreads, 0, queue}, index_scores_kernel, p);
}

}  // namespace twelvex::cuda
