// SPDX-License-Identifier: MIT
// Many rows on FP8 tensor cores: a block computes 128 weight rows x kRowsM activation rows, of experts 256 x 64 (paired: half of
// the weight rows are gate, half are up rows), K in stages of 128 columns, the reach of an activation scale, through a ring of
// shared-memory stages filled by cp.async.
//   stage:  the weights' cells, [row tile][vector][lane], as they lie in memory; of the activations' cells (fp8_cells.h) the 128
//           bytes of values, whose 16-byte chunk c lies at c ^ (row & 1), so that the two rows and four lanes of a quarter warp
//           hit all banks, and the scale; of fp4 weights their scales.
//   step:   wait for the oldest stage, barrier, refill the stage that was read before, multiply.
// Eight warps; a warp owns a quarter of the weight rows, 32 at a time, x kRowsM / 2 activation rows. Both operands go to the
// tensor cores as they are stored (fp4: two shifts a word put e2m1 into bytes), scales included. The sum of a stage starts at
// zero and joins the totals at its end: a sum over 128 columns with its scales, then f32 additions in ascending order, which is
// what the specification says of quantised products. Four token tiles at a time share one word of scales a lane, as the
// instruction selects the lane.
// Grouped: block y names a run of sorted rows of one expert; rows of x are gathered by the copies. A paired block then has whole
// groups of 128 output columns, which the epilogue can write as cells for the next product.
#pragma once

#include "arch/async_copy.cuh"
#include "arch/mma_fp8.cuh"
#include "common/device.h"
#include "gemm/fp8_cells.cuh"
#include "gemm/fp8_gemm.h"
#include "gemm/output_tile.cuh"
#include "gemm/weight_order.cuh"

namespace twelvex::cuda::fp8 {

inline constexpr int kStageCols = kScaleBlock;              // 128
inline constexpr int kStageCells = kStageCols / kCellCols;  // 2
inline constexpr int kQuadTiles = 4;                        // token tiles whose scales a lane's word selects

constexpr int block_tiles(bool grouped) { return (grouped ? kFp8GroupBlockRows : kFp8BlockRows) / kCellRows; }

template <WeightFormat kFormat, int kRowsM, bool kPaired, bool kGrouped>
struct SmemPlan {
  static constexpr int kBlockTilesN = block_tiles(kGrouped);
  static constexpr int kOutRows = kBlockTilesN * kCellRows / (kPaired ? 2 : 1);
  static constexpr int kOutStride = kOutRows + 8;  // bf16; a row of the output tile, 16-byte aligned, banks spread
  static constexpr bool kFp4 = kFormat == WeightFormat::kFp4Group32;
  static constexpr int kTileVectors = kStageCells * cell_bytes(kFormat) / 16;  // of a row tile in a stage
  struct Stage {
    uint4 weights[kBlockTilesN][kTileVectors];
    uint4 x[kRowsM][8];
    uint32_t scales[kFp4 ? kBlockTilesN : 0][kStageCells][8];  // fp4
    uint32_t x_scale[kRowsM];
  };
  static constexpr int kFit = (kMaxSharedBytes - 512) / static_cast<int>(sizeof(Stage));
  static constexpr int kStages = kFit > 4 ? 4 : kFit;
  union {
    Stage stages[kStages];
    __nv_bfloat16 out[kRowsM][kOutStride];
  };
  uint8_t scales[2][256];  // fp8: scale bytes of the block's (paired: both) row blocks; K <= 32,768
};

template <int kRowsM, bool kPaired, bool kGrouped>
using Outputs = OutputTile<block_tiles(kGrouped), kRowsM, 2, kPaired, kGrouped>;

template <WeightFormat kFormat, int kRowsM, bool kPaired, bool kGrouped>
struct Tile : Outputs<kRowsM, kPaired, kGrouped> {
  using Smem = SmemPlan<kFormat, kRowsM, kPaired, kGrouped>;
  using Stage = typename Smem::Stage;
  static_assert(sizeof(Smem) <= kMaxSharedBytes);
  static constexpr bool kFp4 = Smem::kFp4;
  static constexpr bool kFolded = kWeightOrder == WeightOrder::kFolded;
  static constexpr int kStages = Smem::kStages;
  static constexpr int kBlockTilesN = Smem::kBlockTilesN;
  using Out = Outputs<kRowsM, kPaired, kGrouped>;
  using Out::kWarpTilesM, Out::kWarpTilesN;
  using Out::p, Out::segment, Out::first_row, Out::group, Out::lane, Out::warp_n;
  using Out::tile_row, Out::tile_segment, Out::tile_token;
  static constexpr int kPairs = kWarpTilesN / 2;  // of row tiles; paired: a gate and an up tile
  static constexpr int kQuads = kWarpTilesM / kQuadTiles;
  static_assert(kWarpTilesN % 2 == 0 && kWarpTilesM % kQuadTiles == 0);

  Smem& smem;
  const int steps = p.cols / kStageCols;
  // What this thread copies.
  static constexpr int kWeightCopies = kBlockTilesN * Smem::kTileVectors / kTileThreads;
  static constexpr int kXCopies = kRowsM * 8 / kTileThreads;
  static constexpr int kCopyTiles = kBlockTilesN / kWeightCopies;  // row tiles between a thread's copies
  static constexpr uint32_t kNoRow = 0xffffffffu;
  const uint8_t* weights_from;            // its first vector; the others follow kCopyTiles row tiles apart
  int weight_row;                         // weight row of the first
  const uint8_t* x_base;                  // cells of the segment's first row
  uint32_t x_from[kXCopies];              // its chunks' offsets there, in units of 16 bytes; kNoRow: none
  uint32_t x_scale_from = kNoRow;         // of the row whose scales this thread copies
  const uint8_t* scales_from = nullptr;   // fp4

  typename Out::Sums total;

  __device__ Tile(const GemmParams& params, Smem& shared) : Out(params), smem(shared) {}

  /// Where row `m` of the block lies, in units of 16 bytes.
  __device__ uint32_t row_offset(int m) const {
    if (m >= group.rows) return kNoRow;
    int64_t row = group.first + m;
    if (kGrouped && p.gather != nullptr) row = __ldg(p.gather + row);
    return static_cast<uint32_t>(row * p.ldx / 8);
  }

  __device__ void prepare_copies() {
    const int tile = threadIdx.x / Smem::kTileVectors;
    const int64_t tile_bytes = cells_per_row(p.cols) * cell_bytes(kFormat);
    weight_row = tile_row(tile);
    weights_from = tile_segment(tile).weights + group.expert * p.expert_weight_bytes + weight_row / kCellRows * tile_bytes +
                   threadIdx.x % Smem::kTileVectors * 16;
    x_base = reinterpret_cast<const uint8_t*>(p.segments[segment].x);
#pragma unroll
    for (int i = 0; i < kXCopies; ++i) {
      x_from[i] = row_offset((threadIdx.x + i * kTileThreads) / 8);
      if (x_from[i] != kNoRow) x_from[i] += threadIdx.x % 8;
    }
    if (threadIdx.x < kRowsM) x_scale_from = row_offset(threadIdx.x);
    if constexpr (kFp4) {
      const int row = tile_row(threadIdx.x / 4 % kBlockTilesN);
      const GemmSegment& s = tile_segment(threadIdx.x / 4 % kBlockTilesN);
      if (threadIdx.x < kBlockTilesN * 4 && row < s.rows) {
        scales_from = s.scales + group.expert * p.expert_scale_bytes + row / kCellRows * cells_per_row(p.cols) * 32 +
                      threadIdx.x % 4 * 16;
      }
    } else {
      for (int i = threadIdx.x; i < steps * (kPaired ? 2 : 1); i += kTileThreads) {
        const GemmSegment& s = p.segments[kPaired ? i / steps : segment];
        smem.scales[i / steps][i % steps] = s.scales[first_row / kScaleBlock * steps + i % steps];
      }
    }
  }

  __device__ void copy_stage(int step) {
    if (step < steps) {
      Stage& stage = smem.stages[step % kStages];
      constexpr int kRowStep = kPaired ? kCopyTiles / 2 : kCopyTiles;
      const int64_t tile_bytes = cells_per_row(p.cols) * cell_bytes(kFormat);
#pragma unroll
      for (int i = 0; i < kWeightCopies; ++i) {
        const int tile = kPaired ? threadIdx.x / Smem::kTileVectors : 0;
        const bool valid = weight_row + i * kRowStep * kCellRows < tile_segment(tile).rows;
        const uint8_t* from = weights_from + (valid ? i * kRowStep * tile_bytes + step * (Smem::kTileVectors * 16) : 0);
        cp_async_16(smem_address(&stage.weights[0][0] + threadIdx.x + i * kTileThreads), from, valid);
      }
      // Rows that are not there name the first one: an address that is not read is still translated.
#pragma unroll
      for (int i = 0; i < kXCopies; ++i) {
        const int m = (threadIdx.x + i * kTileThreads) / 8;
        const bool valid = x_from[i] != kNoRow;
        const uint8_t* from = x_base + (valid ? static_cast<size_t>(x_from[i]) * 16 + step * kFp8CellBytes : 0);
        cp_async_16(smem_address(&stage.x[m][threadIdx.x % 8 ^ (m & 1)]), from, valid);
      }
      if (threadIdx.x < kRowsM) {
        const bool valid = x_scale_from != kNoRow;
        const size_t at = static_cast<size_t>(x_scale_from) * 16 + step * kFp8CellBytes + kFp8CellScale;
        cp_async_4(smem_address(&stage.x_scale[threadIdx.x]), x_base + (valid ? at : 0), valid);
      }
      if constexpr (kFp4) {
        if (threadIdx.x < kBlockTilesN * 4) {
          const bool valid = scales_from != nullptr;
          cp_async_16(smem_address(&stage.scales[0][0][0] + threadIdx.x * 4),
                      valid ? scales_from + static_cast<size_t>(step) * 64 : p.segments[segment].scales, valid);
        }
      }
    }
    cp_async_commit();
  }

  /// A pair of the warp's row tiles in a stage, [tile][block of 32 columns][word], and their scales as mma_scaled takes them.
  /// Where the instruction is emulated, weights are stored for others.
  __device__ void load_weights(const Stage& stage, int step, int pair, uint32_t (&a)[2][4][4], uint32_t (&scales)[2]) {
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const int tile = warp_n * kWarpTilesN + pair * 2 + n;
      if constexpr (kFp4) {
#pragma unroll
        for (int cell = 0; cell < kStageCells; ++cell) {
          const uint4 v = stage.weights[tile][cell * 32 + lane];
          const uint32_t words[4] = {v.x, v.y, v.z, v.w};  // [block][row g, g + 8]
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const uint32_t word = kFolded ? unfold_fp4(words[i]) : words[i];
            a[n][2 * cell + i / 2][i % 2] = (word << 2) & 0x3c3c3c3cu;
            a[n][2 * cell + i / 2][2 + i % 2] = (word >> 2) & 0x3c3c3c3cu;
          }
        }
        // Lanes 0, 1 of a quad hold rows g and g + 8 of the first cell, lanes 2, 3 of the second, in bytes 0 and 2.
        const uint32_t word = stage.scales[tile][lane % 4 / 2][lane / 4];
        scales[n] = (kFolded ? unfold_scales(word) : word) >> (8 * (lane & 1));
      } else {
#pragma unroll
        for (int block = 0; block < 4; ++block) {
          const uint4 v = stage.weights[tile][block * 32 + lane];
          const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
          for (int i = 0; i < 4; ++i) a[n][block][i] = kFolded ? unfold_fp8(words[i]) : words[i];
        }
        scales[n] = smem.scales[kPaired ? n : 0][step];
      }
    }
  }

  /// One block of 32 columns of a quad of token tiles.
  template <int kBlock>
  __device__ void multiply_block(const uint32_t (&a)[2][4][4], const uint32_t (&scales)[2], const uint4 (&x)[kQuadTiles],
                                 uint32_t x_scale, float (&sum)[2][kQuadTiles][4]) {
    constexpr ElementA kElement = kFp4 ? ElementA::kE2M1 : ElementA::kE4M3;
    constexpr int kByte = kFp4 ? kBlock % 2 * 2 : 0, kPair = kFp4 ? kBlock / 2 : 0;
    constexpr float kZero[4] = {0, 0, 0, 0};
    const auto one = [&]<int kTile>() {
      const uint32_t b0 = kBlock % 2 == 0 ? x[kTile].x : x[kTile].z, b1 = kBlock % 2 == 0 ? x[kTile].y : x[kTile].w;
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        if constexpr (kBlock == 0) {
          mma_scaled<kElement, kByte, kPair, kTile>(sum[n][kTile], a[n][kBlock], b0, b1, kZero, scales[n], x_scale);
        } else {
          mma_scaled<kElement, kByte, kPair, kTile>(sum[n][kTile], a[n][kBlock], b0, b1, sum[n][kTile], scales[n], x_scale);
        }
      }
    };
    one.template operator()<0>(), one.template operator()<1>(), one.template operator()<2>(), one.template operator()<3>();
  }

  /// A pair of row tiles x a quad of token tiles; their sums join the totals.
  __device__ void multiply_quad(const Stage& stage, const uint32_t (&a)[2][4][4], const uint32_t (&scales)[2], int pair,
                                int quad) {
    const uint32_t x_scale = stage.x_scale[tile_token(quad * kQuadTiles + lane % 4) + lane / 4];
    float sum[2][kQuadTiles][4];
    uint4 x[kQuadTiles];
    const auto load = [&](int half) {
#pragma unroll
      for (int m = 0; m < kQuadTiles; ++m) {
        const int row = tile_token(quad * kQuadTiles + m) + lane / 4;
        x[m] = stage.x[row][(lane % 4 * 2 + half) ^ (row & 1)];
      }
    };
    load(0);
    multiply_block<0>(a, scales, x, x_scale, sum);
    multiply_block<1>(a, scales, x, x_scale, sum);
    load(1);
    multiply_block<2>(a, scales, x, x_scale, sum);
    multiply_block<3>(a, scales, x, x_scale, sum);
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int m = 0; m < kQuadTiles; ++m) {
#pragma unroll
        for (int i = 0; i < 4; ++i) total[pair * 2 + n][quad * kQuadTiles + m][i] += sum[n][m][i];
      }
    }
  }

  __device__ void multiply_stage(const Stage& stage, int step) {
#pragma unroll
    for (int pair = 0; pair < kPairs; ++pair) {
      uint32_t a[2][4][4], scales[2];
      load_weights(stage, step, pair, a, scales);
#pragma unroll
      for (int quad = 0; quad < kQuads; ++quad) {
        if (tile_token(quad * kQuadTiles) >= group.rows) break;
        multiply_quad(stage, a, scales, pair, quad);
      }
    }
  }

  __device__ void multiply() {
#pragma unroll
    for (int n = 0; n < kWarpTilesN; ++n) {
#pragma unroll
      for (int m = 0; m < kWarpTilesM; ++m) {
#pragma unroll
        for (int i = 0; i < 4; ++i) total[n][m][i] = 0;
      }
    }
#pragma unroll
    for (int s = 0; s < kStages - 1; ++s) copy_stage(s);
    for (int step = 0; step < steps; ++step) {
      cp_async_wait<kStages - 2>();
      __syncthreads();
      copy_stage(step + kStages - 1);
      multiply_stage(smem.stages[step % kStages], step);
    }
    cp_async_wait<0>();
    __syncthreads();
  }

  /// Sixteen lanes a token; the segment's rows are whole groups.
  __device__ void store_cells() const {
    const GemmSegment& s = p.segments[segment];
    for (int token = threadIdx.x / 16; token < kRowsM; token += kTileThreads / 16) {
      const int column = threadIdx.x % 16;
      bf16* y = static_cast<bf16*>(s.y) + static_cast<int64_t>(group.first + token) * s.ldy + first_row;
      write_cell(token < group.rows ? reinterpret_cast<uint8_t*>(y) : nullptr, column,
                 *reinterpret_cast<const uint4*>(&smem.out[token][column * 8]));
    }
  }

  __device__ void run() {
    if (kGrouped && blockIdx.y >= *p.tile_count) return;
    Out::find_place();
    prepare_copies();
    multiply();
    if (!kPaired && p.segments[segment].f32) return Out::store_f32(total);
    Out::stage(total, smem.out);
    if constexpr (kPaired && kGrouped) {
      if (p.y_fp8) return store_cells();
    }
    Out::store_bf16(smem.out);
  }
};

template <WeightFormat kFormat, int kRowsM, bool kPaired, bool kGrouped>
__global__ void __launch_bounds__(kTileThreads, 1) gemm_fp8_kernel(const __grid_constant__ GemmParams p) {
  extern __shared__ __align__(16) uint8_t smem_bytes[];
  Tile<kFormat, kRowsM, kPaired, kGrouped>(p, *reinterpret_cast<SmemPlan<kFormat, kRowsM, kPaired, kGrouped>*>(smem_bytes)).run();
}

/// Launches one instance.
template <WeightFormat kFormat, int kRowsM, bool kPaired, bool kGrouped>
void launch(const GemmParams& p, const TilePlan& plan) {
  const auto kernel = gemm_fp8_kernel<kFormat, kRowsM, kPaired, kGrouped>;
  constexpr int kBytes = sizeof(SmemPlan<kFormat, kRowsM, kPaired, kGrouped>);
  allow_shared_bytes(kernel, kBytes);
  kernel<<<dim3(plan.grid_n, plan.grid_m), kTileThreads, kBytes, p.stream>>>(p);
  check_launch("gemm_fp8_kernel");
}

}  // namespace twelvex::cuda::fp8
