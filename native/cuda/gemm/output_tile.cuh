// SPDX-License-Identifier: MIT
// The outputs of a block of the tile kernels (gemm_tile.cuh, fp8_tile.cuh): which they are, which thread holds the sum of which,
// and how the sums are stored.
#pragma once

#include "gemm/epilogue.cuh"
#include "gemm/gemm.h"

namespace twelvex::cuda {

/// What a block computes: rows of one segment (paired: of both) for a run of activation rows.
struct Place {
  int segment = 0;
  int first_row = 0;  // of the segment
  GroupTile group;
};

/// Block `n` along the rows of all segments, kRows each, and block `m` along the activation rows, rows_m each.
template <int kRows, bool kPaired, bool kGrouped>
__device__ __forceinline__ Place locate(const GemmParams& p, int n, int m, int rows_m) {
  Place place;
  if constexpr (!kPaired) {
    while (n >= ceil_div(p.segments[place.segment].rows, kRows))
      n -= static_cast<int>(ceil_div(p.segments[place.segment++].rows, kRows));
  }
  place.first_row = n * kRows;
  place.group = kGrouped ? p.tiles[m] : GroupTile{0, m * rows_m, min(rows_m, p.rows - m * rows_m)};
  return place;
}

inline constexpr int kTileWarps = 8, kTileThreads = kTileWarps * 32;

/// Eight warps: kWarpsM along kRowsM activation rows, the others along kTilesN tiles of 16 weight rows (paired: gate and up tiles
/// in turn). A warp's sums lie as mma.m16n8k16 leaves them.
template <int kTilesN, int kRowsM, int kWarpsM, bool kPaired, bool kGrouped>
struct OutputTile : Place {
  static constexpr int kWarpsN = kTileWarps / kWarpsM;
  static constexpr int kWarpTilesN = kTilesN / kWarpsN, kWarpTilesM = kRowsM / kWarpsM / 8;
  static constexpr int kWarpOutTilesN = kPaired ? kWarpTilesN / 2 : kWarpTilesN;
  static constexpr int kOutRows = kWarpsN * kWarpOutTilesN * kCellRows;
  static_assert(!kPaired || kWarpTilesN % 2 == 0);
  using Sums = float[kWarpTilesN][kWarpTilesM][4];

  const GemmParams& p;
  const int lane = threadIdx.x % 32;
  const int warp_n = threadIdx.x / 32 % kWarpsN;
  const int warp_m = threadIdx.x / 32 / kWarpsN;

  __device__ explicit OutputTile(const GemmParams& params) : p(params) {}

  /// Before anything below is asked.
  __device__ void find_place() {
    static_cast<Place&>(*this) = locate<kOutRows, kPaired, kGrouped>(p, blockIdx.x, blockIdx.y, kRowsM);
  }

  /// Weight row of tile `tile` of the block, and the segment it is in. Paired: even tiles are gate, odd tiles up rows.
  __device__ int tile_row(int tile) const { return kPaired ? first_row + tile / 2 * kCellRows : first_row + tile * kCellRows; }
  __device__ const GemmSegment& tile_segment(int tile) const { return p.segments[kPaired ? tile % 2 : segment]; }
  /// First activation row of the warp's tile `m`: the warps take tiles in turn, so that a short group loads them evenly.
  __device__ int tile_token(int m) const { return (m * kWarpsM + warp_m) * 8; }

  /// f32 outputs straight from registers: eight lanes write 32 consecutive bytes of a row.
  __device__ void store_f32(const Sums& total) const {
    const GemmSegment& s = p.segments[segment];
#pragma unroll
    for (int n = 0; n < kWarpTilesN; ++n) {
#pragma unroll
      for (int m = 0; m < kWarpTilesM; ++m) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int row = first_row + (warp_n * kWarpTilesN + n) * kCellRows + lane / 4 + i / 2 * 8;
          const int token = tile_token(m) + lane % 4 * 2 + i % 2;
          if (row < s.rows && token < group.rows) {
            static_cast<float*>(s.y)[static_cast<int64_t>(group.first + token) * s.ldy + row] = total[n][m][i];
          }
        }
      }
    }
  }

  /// Sums to shared memory as bf16, [token][row]; paired: silu(gate) * up [* routing weight].
  template <int kStride>
  __device__ void stage(const Sums& total, bf16 (&out)[kRowsM][kStride]) const {
#pragma unroll
    for (int m = 0; m < kWarpTilesM; ++m) {
      const int token = tile_token(m) + lane % 4 * 2;
      float weight[2] = {1.0f, 1.0f};
      if constexpr (kPaired) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          if (p.row_weight != nullptr && token + i < group.rows) weight[i] = __ldg(p.row_weight + group.first + token + i);
        }
      }
#pragma unroll
      for (int n = 0; n < kWarpOutTilesN; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int row = (warp_n * kWarpOutTilesN + n) * kCellRows + lane / 4 + i / 2 * 8;
          float value = total[kPaired ? 2 * n : n][m][i];
          if constexpr (kPaired) value = swiglu(value, total[2 * n + 1][m][i], p.limit) * weight[i % 2];
          out[token + i % 2][row] = __float2bfloat16_rn(value);
        }
      }
    }
    __syncthreads();
  }

  /// What `stage` wrote, in 16-byte stores.
  template <int kStride>
  __device__ void store_bf16(const bf16 (&out)[kRowsM][kStride]) const {
    const GemmSegment& s = p.segments[segment];
    for (int i = threadIdx.x; i < group.rows * (kOutRows / 8); i += kTileThreads) {
      const int token = i / (kOutRows / 8), row = i % (kOutRows / 8) * 8;
      store_eight(s, group.first + token, first_row + row, &out[token][row]);
    }
  }
};

}  // namespace twelvex::cuda
