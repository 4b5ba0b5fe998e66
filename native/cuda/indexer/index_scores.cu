// SPDX-License-Identifier: MIT
// Indexer scores on tensor cores.
//
// Block: 256 entries x a group of up to 16 tokens of one batch row; eight warps, 32 entries each. The entries pass through
// shared memory once (128 at a time, fp8 widened) into B fragments that stay in registers; then the tokens' queries follow,
// double-buffered: [heads x 128] as A, relu, weight, sum over heads. One float per (token, entry) leaves the block.
// An fp8 entry's scale is positive, so it multiplies the finished score.
#include "arch/async_copy.cuh"
#include "arch/mma.cuh"
#include "common/check.h"
#include "common/convert.cuh"
#include "common/device.h"
#include "indexer/head_sums.cuh"
#include "indexer/indexer.h"

namespace twelvex::cuda {

namespace {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * 32;
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
__device__ __forceinline__ void load_entries(const IndexScoreParams& p, SmemPlan& s, int row, int first, int visible, int half) {
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

/// Queries of one token; rows past the real heads stay zero.
__device__ __forceinline__ void load_query(const IndexScoreParams& p, SmemPlan& s, int buffer, int token) {
  const auto* query = p.query + static_cast<size_t>(token) * p.heads * kIndexDim;
  for (int i = threadIdx.x; i < p.heads * 16; i += kThreads) {
    cp_async_16(smem_address(s.query[buffer][i / 16] + i % 16 * 16), query + i * 8);
  }
  if (static_cast<int>(threadIdx.x) < p.heads) {
    s.weights[buffer][threadIdx.x] = __bfloat162float(p.weights[static_cast<size_t>(token) * p.heads + threadIdx.x]) * p.scale;
  }
}

__device__ __forceinline__ float score_token(const SmemPlan& s, int buffer, int head_tiles, const uint32_t (&b)[2][8][4],
                                             int lane) {
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

__global__ void __launch_bounds__(kThreads, 2) index_scores_kernel(const __grid_constant__ IndexScoreParams p) {
  __shared__ SmemPlan s;
  const int first = p.groups.first[blockIdx.y], count = p.groups.count[blockIdx.y];
  if (count <= 0) return;
  const int row = p.batch.token_row[first], warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int visible = (p.batch.cache_position[first + count - 1] + 1) / kCsaRatio;
  if (row < 0 || visible <= p.topk) return;
  const int head_tiles = (p.heads + 15) / 16;
  for (int tile = blockIdx.x; tile * kScoreTile < visible; tile += gridDim.x) {
    uint32_t b[2][8][4];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      __syncthreads();
      load_entries(p, s, row, tile * kScoreTile + half * 128, visible, half);
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
    __syncthreads();
    for (int i = p.heads * 16 + threadIdx.x; i < head_tiles * 256; i += kThreads) {  // padding heads
      *reinterpret_cast<uint4*>(s.query[0][i / 16] + i % 16 * 16) = make_uint4(0, 0, 0, 0);
      *reinterpret_cast<uint4*>(s.query[1][i / 16] + i % 16 * 16) = make_uint4(0, 0, 0, 0);
    }
    for (int i = p.heads + threadIdx.x; i < kMaxIndexHeads; i += kThreads) s.weights[0][i] = s.weights[1][i] = 0;
    const int entry = warp * 32 + summed_entry(lane);
    const float scale = s.entry_scale[entry];
    load_query(p, s, 0, first);
    cp_async_commit();
    for (int i = 0; i < count; ++i) {
      if (i + 1 < count) load_query(p, s, (i + 1) % 2, first + i + 1);
      cp_async_commit();
      cp_async_wait<1>();
      __syncthreads();
      const float score = score_token(s, i % 2, head_tiles, b, lane) * scale;
      const int e = tile * kScoreTile + entry;
      if (e < (p.batch.cache_position[first + i] + 1) / kCsaRatio) p.scores[(first + i - p.first_token) * p.stride + e] = score;
      __syncthreads();
    }
  }
}

// Block (token): one thread a pair of one head.
__global__ void __launch_bounds__(256) rotate_index_kernel(const __grid_constant__ RotateIndexParams p) {
  const int token = p.first_token + blockIdx.x;
  if (p.batch.token_row[token] < 0) return;
  for (int i = threadIdx.x; i < p.heads * (kRopeDim / 2); i += blockDim.x) {
    const int head = i / (kRopeDim / 2), pair = i % (kRopeDim / 2);
    auto* at =
        reinterpret_cast<uint32_t*>(p.query + (static_cast<size_t>(token) * p.heads + head) * kIndexDim + kIndexDim - kRopeDim) +
        pair;
    const float2 turn = p.batch.rope_long[static_cast<size_t>(token) * (kRopeDim / 2) + pair], v = unpack_bf16(*at);
    *at = pack_bf16(v.x * turn.x - v.y * turn.y, v.x * turn.y + v.y * turn.x);
  }
}

}  // namespace

void run_index_scores(const IndexScoreParams& p, cudaStream_t queue) {
  if (p.groups.groups == 0 || p.entry_limit <= p.topk) return;
  TWELVEX_NEED_LE(p.heads, kMaxIndexHeads);
  const int tiles = (p.entry_limit + kScoreTile - 1) / kScoreTile;
  const dim3 grid(tiles < 64 ? tiles : 64, p.groups.groups);
  if (p.query_fp8) return launch_index_scores_fp8(p, grid, queue);
  index_scores_kernel<<<grid, kThreads, 0, queue>>>(p);
  check_launch("index_scores_kernel");
}

void run_rotate_index(const RotateIndexParams& p, cudaStream_t queue) {
  if (p.tokens == 0) return;
  rotate_index_kernel<<<p.tokens, 256, 0, queue>>>(p);
  check_launch("rotate_index_kernel");
}

}  // namespace twelvex::cuda
