// SPDX-License-Identifier: MIT
// Many rows: a block computes 128 weight rows x kRowsM activation rows (paired: 64 gate and 64 up rows), K in stages of 64
// columns through a ring of shared-memory stages filled by cp.async.
//   stage:  8 row tiles' cells of weights, [row tile][vector][lane], and kRowsM rows of 128 bytes of activations, whose 16-byte
//           chunk c lies at c ^ 4 (row & 1): the eight lanes of a quarter warp (two rows, four chunks) then hit all banks.
//   step:   wait for the oldest stage, barrier, refill the stage that was read before, multiply.
// Eight warps; a warp owns 16 kWarpTilesN weight rows x 8 kWarpTilesM activation rows, reads both operands as 16-byte vectors and
// widens its weights in registers. Every kChunkCells stages the sums of the chunk join the totals (gemm.h: same bits as
// streaming). Grouped: block y names a run of sorted rows of one expert; rows of x are gathered by the copies.
#pragma once

#include "arch/async_copy.cuh"
#include "arch/mma.cuh"
#include "common/device.h"
#include "gemm/output_tile.cuh"
#include "gemm/widen.cuh"

namespace twelvex::cuda::tile {

inline constexpr int kBlockTilesN = 8;                          // row tiles of a block
inline constexpr int kBlockRows = kBlockTilesN * kCellRows;     // 128
inline constexpr int kOutStride = kBlockRows + 8;               // bf16; a row of the output tile, 16-byte aligned, banks spread

/// Blocks of a multiprocessor: two where their sums leave room, so that one multiplies while the other waits.
constexpr int blocks_of(int rows_m) { return rows_m <= 64 ? 2 : 1; }

/// What the register allocation has to allow; sm_12x code for 64 rows does not fit into half of the registers.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1200
constexpr int bound_of(int rows_m) { return rows_m <= 32 ? 2 : 1; }
#else
constexpr int bound_of(int rows_m) { return blocks_of(rows_m); }
#endif

/// Quantised weights leave shared memory for two blocks on sm_12x too (100 KiB a multiprocessor, 1 KiB of it a block's own).
constexpr int stages_of(WeightFormat format, int rows_m) {
  const int stage = kBlockTilesN * cell_bytes(format) + rows_m * kCellCols * 2 + (format == WeightFormat::kFp4Group32 ? 256 : 0);
  const int blocks = format == WeightFormat::kBF16 ? 1 : blocks_of(rows_m);
  const int most = (kMaxSharedBytes / blocks - 1024) / stage;
  return most > 6 ? 6 : most;
}

template <WeightFormat kFormat, int kRowsM>
struct SmemPlan {
  static constexpr int kStages = stages_of(kFormat, kRowsM);
  static constexpr bool kFp4 = kFormat == WeightFormat::kFp4Group32;
  struct Stage {
    uint4 weights[kBlockTilesN][cell_bytes(kFormat) / 512][32];
    uint4 x[kRowsM][8];
    uint32_t scales[kFp4 ? kBlockTilesN : 0][8];  // fp4
  };
  union {
    Stage stages[kStages];
    __nv_bfloat16 out[kRowsM][kOutStride];
  };
  uint8_t scales[2][256];  // fp8: scale bytes of the block's (paired: both) row blocks; K <= 32,768
};

template <int kRowsM, bool kPaired, bool kGrouped>
using Outputs = OutputTile<kBlockTilesN, kRowsM, kRowsM >= 64 ? 2 : 1, kPaired, kGrouped>;

template <WeightFormat kFormat, int kRowsM, bool kPaired, bool kGrouped>
struct Tile : Outputs<kRowsM, kPaired, kGrouped> {
  using Smem = SmemPlan<kFormat, kRowsM>;
  static_assert(sizeof(Smem) <= kMaxSharedBytes);
  static constexpr int kStages = Smem::kStages;
  static constexpr int kVectors = cell_bytes(kFormat) / 512;
  using Out = Outputs<kRowsM, kPaired, kGrouped>;
  using Out::kWarpTilesM, Out::kWarpTilesN;  // two tiles of weight rows, or one with 32 activation rows
  using Out::p, Out::segment, Out::first_row, Out::group, Out::lane, Out::warp_n;
  using Out::tile_row, Out::tile_segment, Out::tile_token;

  Smem& smem;
  const int cells = static_cast<int>(cells_per_row(p.cols));
  // What this thread copies.
  static constexpr int kWeightCopies = kBlockTilesN * kVectors * 32 / kTileThreads;
  static constexpr int kXCopies = kRowsM * 8 / kTileThreads;
  static constexpr int kCopyTiles = kBlockTilesN / kWeightCopies;  // row tiles between a thread's copies
  const uint8_t* weights_from;   // its first vector; the others follow kCopyTiles row tiles apart
  int weight_row;                // weight row of the first
  uint32_t x_from[kXCopies];     // its columns' offset in x, in units of eight; kNoRow: none
  static constexpr uint32_t kNoRow = 0xffffffffu;
  const uint8_t* scales_from = nullptr;

  typename Out::Sums acc, total;

  __device__ Tile(const GemmParams& params, Smem& shared) : Out(params), smem(shared) {}

  __device__ void prepare_copies() {
    const int tile = threadIdx.x / (kVectors * 32);
    weight_row = tile_row(tile);
    weights_from = tile_segment(tile).weights + group.expert * p.expert_weight_bytes +
                   static_cast<size_t>(weight_row / kCellRows) * cells * cell_bytes(kFormat) + threadIdx.x % (kVectors * 32) * 16;
#pragma unroll
    for (int i = 0; i < kXCopies; ++i) {
      const int m = (threadIdx.x + i * kTileThreads) / 8;
      int64_t row = group.first + m;
      if (kGrouped && p.gather != nullptr && m < group.rows) row = __ldg(p.gather + row);
      x_from[i] = m < group.rows ? static_cast<uint32_t>(row * p.ldx / 8) + threadIdx.x % 8 : kNoRow;
    }
    if constexpr (kFormat == WeightFormat::kFp4Group32) {
      if (threadIdx.x < kBlockTilesN * 2) {
        const int tile = threadIdx.x / 2;
        const GemmSegment& s = tile_segment(tile);
        if (tile_row(tile) < s.rows) {
          scales_from = s.scales + group.expert * p.expert_scale_bytes +
                        static_cast<size_t>(tile_row(tile) / kCellRows) * cells * 32 + threadIdx.x % 2 * 16;
        }
      }
    } else if constexpr (kFormat == WeightFormat::kFp8Block128) {
      const int blocks = static_cast<int>(ceil_div(p.cols, kScaleBlock));
      for (int i = threadIdx.x; i < blocks * (kPaired ? 2 : 1); i += kTileThreads) {
        const GemmSegment& s = p.segments[kPaired ? i / blocks : segment];
        smem.scales[i / blocks][i % blocks] = s.scales[first_row / kScaleBlock * blocks + i % blocks];
      }
    }
  }

  __device__ void copy_stage(int cell) {
    if (cell < cells) {
      typename Smem::Stage& stage = smem.stages[cell % kStages];
      constexpr int kRowStep = (kPaired ? kCopyTiles / 2 : kCopyTiles);
#pragma unroll
      for (int i = 0; i < kWeightCopies; ++i) {
        const bool valid = weight_row + i * kRowStep * kCellRows < tile_segment(kPaired ? threadIdx.x / (kVectors * 32) : 0).rows;
        const uint8_t* from =
            weights_from + (valid ? (static_cast<int64_t>(i) * kRowStep * cells + cell) * cell_bytes(kFormat) : 0);
        cp_async_16(smem_address(&stage.weights[0][0][0] + threadIdx.x + i * kTileThreads), from, valid);
      }
      const bool in_row = cell * kCellCols + static_cast<int>(threadIdx.x) % 8 * 8 < p.cols;
#pragma unroll
      for (int i = 0; i < kXCopies; ++i) {
        const int m = (threadIdx.x + i * kTileThreads) / 8;
        // Rows that are not there name the first one: an address that is not read is still translated.
        const bool valid = x_from[i] != kNoRow && in_row;
        const bf16* from = p.segments[segment].x + (valid ? static_cast<size_t>(x_from[i]) * 8 + cell * kCellCols : 0);
        cp_async_16(smem_address(&stage.x[m][threadIdx.x % 8 ^ (m & 1) << 2]), from, valid);
      }
      if constexpr (kFormat == WeightFormat::kFp4Group32) {
        if (threadIdx.x < kBlockTilesN * 2) {
          cp_async_16(smem_address(&stage.scales[threadIdx.x / 2][threadIdx.x % 2 * 4]),
                      scales_from + static_cast<size_t>(cell) * 32, scales_from != nullptr);
        }
      }
    }
    cp_async_commit();
  }

  template <int kBlock, int kStep>
  __device__ void fragment(const typename Smem::Stage& stage, int n, int cell, uint32_t (&a)[4]) const {
    const int tile = warp_n * kWarpTilesN + n;
    if constexpr (kFormat == WeightFormat::kBF16) {
      const uint4 v = stage.weights[tile][kBlock * 2 + kStep][lane];
      a[0] = v.x, a[1] = v.y, a[2] = v.z, a[3] = v.w;
    } else if constexpr (kFormat == WeightFormat::kFp8Block128) {
      const bf162 scale = scale_pair<kFp8ScaleBias>(smem.scales[kPaired ? n : 0][cell / 2]);
      fragment_fp8<kStep>(stage.weights[tile][kBlock][lane], scale, a);
    } else {
      fragment_fp4<kBlock, kStep>(stage.weights[tile][0][lane], stage.scales[tile][lane / 4], a);
    }
  }

  /// kAll: every tile of the warp has rows.
  template <int kBlock, bool kAll>
  __device__ void multiply_block(const typename Smem::Stage& stage, int cell) {
    uint32_t a[kWarpTilesN][2][4];
#pragma unroll
    for (int n = 0; n < kWarpTilesN; ++n) {
      fragment<kBlock, 0>(stage, n, cell, a[n][0]);
      fragment<kBlock, 1>(stage, n, cell, a[n][1]);
    }
    // Groups of tiles, first step 0 of all, then step 1: other products lie between two that add to the same sums.
    constexpr int kMost = kFormat == WeightFormat::kFp4Group32 && kRowsM == 64 ? 2 : 4;  // two: 128 registers a thread
    constexpr int kGroup = kWarpTilesM < kMost ? kWarpTilesM : kMost;
#pragma unroll
    for (int first = 0; first < kWarpTilesM; first += kGroup) {
      if (!kAll && tile_token(first) >= group.rows) break;  // whole groups only: a branch a product costs more than the product
      uint4 x[kGroup];
#pragma unroll
      for (int m = 0; m < kGroup; ++m) {
        const int row = tile_token(first + m) + lane / 4;
        x[m] = stage.x[row][(kBlock * 4 + lane % 4) ^ (row & 1) << 2];
      }
#pragma unroll
      for (int step = 0; step < 2; ++step) {
#pragma unroll
        for (int m = 0; m < kGroup; ++m) {
#pragma unroll
          for (int n = 0; n < kWarpTilesN; ++n) {
            mma_bf16(acc[n][first + m], a[n][step], step == 0 ? x[m].x : x[m].z, step == 0 ? x[m].y : x[m].w);
          }
        }
      }
    }
  }

  __device__ void end_chunk() {
#pragma unroll
    for (int n = 0; n < kWarpTilesN; ++n) {
#pragma unroll
      for (int m = 0; m < kWarpTilesM; ++m) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          total[n][m][i] += acc[n][m][i];
          acc[n][m][i] = 0;
        }
      }
    }
  }

  __device__ void multiply() {
#pragma unroll
    for (int n = 0; n < kWarpTilesN; ++n) {
#pragma unroll
      for (int m = 0; m < kWarpTilesM; ++m) {
#pragma unroll
        for (int i = 0; i < 4; ++i) acc[n][m][i] = total[n][m][i] = 0;
      }
    }
#pragma unroll
    for (int s = 0; s < kStages - 1; ++s) copy_stage(s);
    const bool all = tile_token(kWarpTilesM - 1) < group.rows;
    for (int cell = 0; cell < cells; ++cell) {
      cp_async_wait<kStages - 2>();
      __syncthreads();
      copy_stage(cell + kStages - 1);
      const typename Smem::Stage& stage = smem.stages[cell % kStages];
      if (all) {
        multiply_block<0, true>(stage, cell);
        multiply_block<1, true>(stage, cell);
      } else {
        multiply_block<0, false>(stage, cell);
        multiply_block<1, false>(stage, cell);
      }
      if (cell % kChunkCells == kChunkCells - 1 || cell + 1 == cells) end_chunk();
    }
    cp_async_wait<0>();
    __syncthreads();
  }

  __device__ void run() {
    if (kGrouped && blockIdx.y >= *p.tile_count) return;
    Out::find_place();
    prepare_copies();
    multiply();
    if (!kPaired && p.segments[segment].f32) {
      Out::store_f32(total);
    } else {
      Out::stage(total, smem.out);
      Out::store_bf16(smem.out);
    }
  }
};

template <WeightFormat kFormat, int kRowsM, bool kPaired, bool kGrouped>
__global__ void __launch_bounds__(kTileThreads, bound_of(kRowsM)) gemm_tile_kernel(const __grid_constant__ GemmParams p) {
  extern __shared__ __align__(16) uint8_t smem_bytes[];
  Tile<kFormat, kRowsM, kPaired, kGrouped>(p, *reinterpret_cast<SmemPlan<kFormat, kRowsM>*>(smem_bytes)).run();
}

/// Launches one instance.
template <WeightFormat kFormat, int kRowsM, bool kPaired, bool kGrouped>
void launch(const GemmParams& p, const TilePlan& plan) {
  const auto kernel = gemm_tile_kernel<kFormat, kRowsM, kPaired, kGrouped>;
  constexpr int kBytes = sizeof(SmemPlan<kFormat, kRowsM>);
  allow_shared_bytes(kernel, kBytes);
  kernel<<<dim3(plan.grid_n, plan.grid_m), kTileThreads, kBytes, p.stream>>>(p);
  check_launch("gemm_tile_kernel");
}

}  // namespace twelvex::cuda::tile
