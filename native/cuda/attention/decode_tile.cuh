// SPDX-License-Identifier: MIT
// What blocks of decode attention do with one tile: (token, head group of 16, 32 candidates), four or eight warps; rows widened
// to bf16 in shared memory.
//   scores: warp w takes dims quarter w % 4 of 16 heads x 32 candidates (16 by eight warps); quarter sums meet in `partial`.
//   values: a warp owns 128 or 64 output columns.
// A tile has its own maximum, sum and output. They are joined in order to those of its split (128 or 512 candidates), the splits
// in order to the token's, whatever the batch: so a token's result does not depend on it.
#pragma once

#include "arch/mma.cuh"
#include "attention/candidates.cuh"
#include "attention/sparse_decode.h"
#include "common/convert.cuh"
#include "common/device.h"
#include "common/reduce.cuh"
#include "elementwise/norm_rope.cuh"

namespace twelvex::cuda::decode_tile {

inline constexpr int kQuarters = 4;
inline constexpr int kWarps = 4, kSpreadWarps = 8;  // with tiles spread over blocks a block's time counts, not how many there are
inline constexpr int kHeads = 16;                   // heads a block
inline constexpr int kTile = kDecodeTile;
inline constexpr int kRowStride = kBf16RowBytes + 16;
inline constexpr float kLog2e = 1.4426950408889634f;

struct alignas(128) SmemPlan {
  uint8_t query[kHeads][kRowStride];
  uint8_t rows[kTile][kRowStride];
  float partial[kQuarters][kHeads][kTile + 8];
  __nv_bfloat16 weights[kHeads][kTile + 8];
  float kept[kHeads], added[kHeads];  // weights of what was there and of the tile
  uint8_t valid[kSpreadWarps];
};
static_assert(sizeof(SmemPlan) <= kMaxSharedBytes, "sm_12x gives one block at most 99 KiB");

/// Rows of one tile on their way, eight or four a warp; invalid candidates become zeros. `load` for the next tile is issued
/// before the current one is worked on.
template <int kBlockWarps>
struct TileRows {
  static constexpr int kRows = kTile / kBlockWarps;
  uint4 chunk[kRows][2];
  uint2 scales;   // of row `lane`, lanes < kRows
  uint32_t mask;

  __device__ __forceinline__ void load(const SparseDecodeParams& p, const CandidateList& list, int first) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int id = -1;
    const uint8_t* data = nullptr;
    scales = make_uint2(0, 0);
    const bool fp8 = p.kv.window.format == RowFormat::kFp8;
    if (lane < kRows) {
      const int c = first + warp * kRows + lane;
      id = list.id(c);
      if (id >= 0) {
        const PagedRow at = paged_row(p.batch, p.kv, list.row, c < list.compressed, id);
        data = fp8 ? at.pages->row_fp8(at.block, at.row) : at.pages->row_bf16(at.block, at.row);
        if (fp8) scales = *reinterpret_cast<const uint2*>(at.pages->scales_fp8(at.block, at.row));
      }
    }
    mask = __ballot_sync(kFullWarp, id >= 0);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const auto* row = reinterpret_cast<const uint4*>(__shfl_sync(kFullWarp, reinterpret_cast<uint64_t>(data), r));
      chunk[r][0] = chunk[r][1] = make_uint4(0, 0, 0, 0);
      if (row == nullptr) continue;
      if (!fp8) {
        chunk[r][0] = row[lane], chunk[r][1] = row[lane + 32];
      } else {
        if (lane < 28) chunk[r][0] = row[lane];      // e4m3
        if (lane < 8) chunk[r][1] = row[28 + lane];  // rotary bf16
      }
    }
  }

  __device__ __forceinline__ void store(SmemPlan& s, bool fp8, int warp, int lane) const {
    if (lane == 0) s.valid[warp] = static_cast<uint8_t>(mask);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      auto* out = reinterpret_cast<uint4*>(s.rows[warp * kRows + r]);
      if (!fp8) {
        out[lane] = chunk[r][0], out[lane + 32] = chunk[r][1];
        continue;
      }
      const uint32_t low = __shfl_sync(kFullWarp, scales.x, r), high = __shfl_sync(kFullWarp, scales.y, r);
      const int group = lane / 4;
      const bf162 scale = __float2bfloat162_rn(e8m0_to_float(((group < 4 ? low : high) >> (group % 4 * 8)) & 0xff));
      const uint4 bytes = chunk[r][0];
      uint2 wide[4] = {e4m3x4_to_bf16x4(bytes.x), e4m3x4_to_bf16x4(bytes.y), e4m3x4_to_bf16x4(bytes.z),
                       e4m3x4_to_bf16x4(bytes.w)};
      auto* pairs = reinterpret_cast<bf162*>(wide);
#pragma unroll
      for (int k = 0; k < 8; ++k) pairs[k] = __hmul2(pairs[k], scale);
      if (lane < 28) {
        out[2 * lane] = make_uint4(wide[0].x, wide[0].y, wide[1].x, wide[1].y);
        out[2 * lane + 1] = make_uint4(wide[2].x, wide[2].y, wide[3].x, wide[3].y);
      }
      if (lane < 8) out[56 + lane] = chunk[r][1];
    }
  }
};

/// Quarter sums of the tile's scores.
template <int kBlockWarps>
__device__ __forceinline__ void score_tile(SmemPlan& s, int warp, int lane) {
  constexpr int kOwn = kTile * kQuarters / kBlockWarps;  // candidates of a warp
  const int quarter = warp % kQuarters, first = warp / kQuarters * kOwn;
  float acc[kOwn / 8][4] = {};
  const uint32_t query = smem_address(s.query) + (lane % 16) * kRowStride + quarter * 256 + (lane / 16) * 16;
  const uint32_t rows =
      smem_address(s.rows) + (first + lane % 8 + lane / 16 * 8) * kRowStride + quarter * 256 + (lane / 8 % 2) * 16;
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    uint32_t a[4];
    ldmatrix_x4(a, query + k * 32);
#pragma unroll
    for (int n = 0; n < kOwn / 16; ++n) {
      uint32_t b[4];
      ldmatrix_x4(b, rows + n * 16 * kRowStride + k * 32);
      mma_bf16(acc[2 * n], a, b[0], b[1]);
      mma_bf16(acc[2 * n + 1], a, b[2], b[3]);
    }
  }
  const int g = lane / 4, column = first + lane % 4 * 2;
#pragma unroll
  for (int n = 0; n < kOwn / 8; ++n) {
    *reinterpret_cast<float2*>(&s.partial[quarter][g][column + n * 8]) = make_float2(acc[n][0], acc[n][1]);
    *reinterpret_cast<float2*>(&s.partial[quarter][g + 8][column + n * 8]) = make_float2(acc[n][2], acc[n][3]);
  }
}

/// How a tile (or split) with maximum `top` joins what has the maximum `before`.
struct Join {
  float top, kept, added;

  __device__ __forceinline__ Join(float before, float tile_top) {
    top = fmaxf(before, tile_top);
    const float base = top == -INFINITY ? 0.0f : top;
    kept = exp2f(before - base);
    added = exp2f(tile_top - base);
  }
  __device__ __forceinline__ static float apply(float before, float kept, float tile, float added) {
    return __fmaf_rn(tile, added, __fmul_rn(before, kept));
  }
};

/// Eight threads a head, four scores a thread, by the first four warps: the tile's weights, its maximum and sum.
template <int kBlockWarps>
__device__ __forceinline__ float2 softmax_tile(SmemPlan& s, float scale) {
  const int row = threadIdx.x / 8, j = threadIdx.x % 8;
  float v[4] = {};
#pragma unroll
  for (int w = 0; w < kQuarters; ++w) {
    const float4 f = *reinterpret_cast<const float4*>(&s.partial[w][row][j * 4]);
    v[0] += f.x, v[1] += f.y, v[2] += f.z, v[3] += f.w;
  }
  constexpr int kRows = kTile / kBlockWarps;
  const uint32_t valid = s.valid[j * 4 / kRows] >> (j * 4 % kRows);
#pragma unroll
  for (int i = 0; i < 4; ++i) v[i] = (valid >> i & 1) ? v[i] * scale : -INFINITY;
  const float top = warp_max<8>(fmaxf(fmaxf(v[0], v[1]), fmaxf(v[2], v[3])));
  const float base = top == -INFINITY ? 0.0f : top;
  float sum = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) sum += v[i] = exp2f(v[i] - base);
  *reinterpret_cast<uint2*>(&s.weights[row][j * 4]) = make_uint2(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]));
  return make_float2(top, warp_sum<8>(sum));
}

/// This warp's columns of weights * rows, 16 at a time: use(n, c) gets columns 8 n + 2 (lane % 4) + {0, 1} of heads lane / 4
/// (c[0], c[1]) and lane / 4 + 8 (c[2], c[3]).
template <int kBlockWarps, class Use>
__device__ __forceinline__ void value_tile(const SmemPlan& s, int warp, int lane, const Use& use) {
  constexpr int kWeightStride = (kTile + 8) * 2, kColumns = kHeadDim / kBlockWarps;
  const uint32_t weights = smem_address(s.weights) + (lane % 16) * kWeightStride + (lane / 16) * 16;
  const uint32_t rows = smem_address(s.rows) + (lane % 16) * kRowStride + warp * kColumns * 2 + (lane / 16) * 16;
  uint32_t a[kTile / 16][4];
#pragma unroll
  for (int k = 0; k < kTile / 16; ++k) ldmatrix_x4(a[k], weights + k * 32);
#pragma unroll
  for (int n = 0; n < kColumns / 16; ++n) {
    float c[2][4] = {};
#pragma unroll
    for (int k = 0; k < kTile / 16; ++k) {
      uint32_t b[4];
      ldmatrix_x4_trans(b, rows + k * 16 * kRowStride + n * 32);
      mma_bf16(c[0], a[k], b[0], b[1]);
      mma_bf16(c[1], a[k], b[2], b[3]);
    }
    use(2 * n, c[0]);
    use(2 * n + 1, c[1]);
  }
}

/// Turns of a lane's pairs of a raw query; read before the wait.
struct QueryTurns {
  float2 own[8];

  __device__ __forceinline__ QueryTurns(const SparseDecodeParams& p, int lane) {
    if (!p.raw_query) return;
#pragma unroll
    for (int i = 0; i < 8; ++i) own[i] = turn_of_row16(p.rope + static_cast<size_t>(blockIdx.x) * (kRopeDim / 2), lane, i);
  }
};

/// Queries of this block's heads, four or two a warp. Raw ones become what run_finish_queries makes of them, to the bit.
template <int kBlockWarps>
__device__ __forceinline__ void load_query(const SparseDecodeParams& p, SmemPlan& s, const QueryTurns& turns) {
  constexpr int kOwn = kHeads / kBlockWarps;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int head0 = blockIdx.y * kHeads + warp * kOwn;
  uint4 raw[kOwn][2];
#pragma unroll
  for (int h = 0; h < kOwn; ++h) {
    const auto* row =
        reinterpret_cast<const uint4*>(p.query + (static_cast<size_t>(blockIdx.x) * p.heads + head0 + h) * kHeadDim) + lane * 2;
    for (int i = 0; i < 2; ++i) raw[h][i] = head0 + h < p.heads ? row[i] : make_uint4(0, 0, 0, 0);
  }
#pragma unroll
  for (int h = 0; h < kOwn; ++h) {
    auto* out = reinterpret_cast<bf16*>(s.query[warp * kOwn + h]);
    if (p.raw_query) {
      float v[16];
      unpack_row16(raw[h], v);
      norm_row16(v, p.eps);
      rotate_own16(v, turns.own, lane);
      store_row16(out, v, lane);
    } else {
      for (int i = 0; i < 2; ++i) reinterpret_cast<uint4*>(out)[lane * 2 + i] = raw[h][i];
    }
  }
}

}  // namespace twelvex::cuda::decode_tile
