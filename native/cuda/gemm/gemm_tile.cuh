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
#include "gemm/epilogue.cuh"
#include "gemm/gemm.h"
#include "gemm/widen.cuh"

namespace twelvex::cuda::tile {

inline constexpr int kWarps = 8;
inline constexpr int kThreads = kWarps * 32;
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

template <WeightFormat kFormat, int kRowsM, bool kPaired, bool kGrouped>
struct Tile {
  using Smem = SmemPlan<kFormat, kRowsM>;
  static_assert(sizeof(Smem) <= kMaxSharedBytes);
  static constexpr int kStages = Smem::kStages;
  static constexpr int kVectors = cell_bytes(kFormat) / 512;
  static constexpr int kWarpsM = kRowsM >= 64 ? 2 : 1;
  static constexpr int kWarpsN = kWarps / kWarpsM;
  static constexpr int kWarpTilesN = kBlockTilesN / kWarpsN;  // 2, or 1 with 32 rows
  static constexpr int kWarpTilesM = kRowsM / kWarpsM / 8;
  static_assert(!kPaired || kWarpTilesN == 2);

  const GemmParams& p;
  Smem& smem;
  const int lane = threadIdx.x % 32;
  const int warp_n = threadIdx.x / 32 % kWarpsN;
  const int warp_m = threadIdx.x / 32 / kWarpsN;
  const int cells = static_cast<int>(cells_per_row(p.cols));
  int segment = 0;
  int first_row = 0;  // of the block in its segment (paired: in both)
  GroupTile group;
  // What this thread copies.
  static constexpr int kWeightCopies = kBlockTilesN * kVectors * 32 / kThreads;
  static constexpr int kXCopies = kRowsM * 8 / kThreads;
  static constexpr int kCopyTiles = kBlockTilesN / kWeightCopies;  // row tiles between a thread's copies
  const uint8_t* weights_from;   // its first vector; the others follow kCopyTiles row tiles apart
  int weight_row;                // weight row of the first
  uint32_t x_from[kXCopies];     // its columns' offset in x, in units of eight; kNoRow: none
  static constexpr uint32_t kNoRow = 0xffffffffu;
  const uint8_t* scales_from = nullptr;

  float acc[kWarpTilesN][kWarpTilesM][4];
  float total[kWarpTilesN][kWarpTilesM][4];

  __device__ Tile(const GemmParams& params, Smem& shared) : p(params), smem(shared) {}

  /// Weight row of tile `tile` of the block, and the segment it is in. Paired: even tiles are gate, odd tiles up rows.
  __device__ int tile_row(int tile) const { return kPaired ? first_row + tile / 2 * kCellRows : first_row + tile * kCellRows; }
  __device__ const GemmSegment& tile_segment(int tile) const { return p.segments[kPaired ? tile % 2 : segment]; }

  __device__ void locate() {
    constexpr int kRows = kPaired ? kBlockRows / 2 : kBlockRows;
    int block = blockIdx.x;
    if constexpr (!kPaired) {
      while (block >= ceil_div(p.segments[segment].rows, kRows))
        block -= static_cast<int>(ceil_div(p.segments[segment++].rows, kRows));
    }
    first_row = block * kRows;
    if constexpr (kGrouped) {
      group = p.tiles[blockIdx.y];
    } else {
      group = GroupTile{0, static_cast<int>(blockIdx.y) * kRowsM, min(kRowsM, p.rows - static_cast<int>(blockIdx.y) * kRowsM)};
    }
  }

  __device__ void prepare_copies() {
    const int tile = threadIdx.x / (kVectors * 32);
    weight_row = tile_row(tile);
    weights_from = tile_segment(tile).weights + group.expert * p.expert_weight_bytes +
                   static_cast<size_t>(weight_row / kCellRows) * cells * cell_bytes(kFormat) + threadIdx.x % (kVectors * 32) * 16;
#pragma unroll
    for (int i = 0; i < kXCopies; ++i) {
      const int m = (threadIdx.x + i * kThreads) / 8;
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
      for (int i = threadIdx.x; i < blocks * (kPaired ? 2 : 1); i += kThreads) {
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
        cp_async_16(smem_address(&stage.weights[0][0][0] + threadIdx.x + i * kThreads), from, valid);
      }
      const bool in_row = cell * kCellCols + static_cast<int>(threadIdx.x) % 8 * 8 < p.cols;
#pragma unroll
      for (int i = 0; i < kXCopies; ++i) {
        const int m = (threadIdx.x + i * kThreads) / 8;
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
      const uint32_t scale = scale_pair<kFp8ScaleBias>(smem.scales[kPaired ? n : 0][cell / 2]);
      fragment_fp8<kStep>(stage.weights[tile][kBlock][lane], scale, a);
    } else {
      fragment_fp4<kBlock, kStep>(stage.weights[tile][0][lane], stage.scales[tile][lane / 4], a);
    }
  }

  /// First activation row of the warp's tile `m`: the warps take tiles in turn, so that a short group loads them evenly.
  __device__ int tile_token(int m) const { return (m * kWarpsM + warp_m) * 8; }

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

  /// f32 outputs straight from registers: eight lanes write 32 consecutive bytes of a row.
  __device__ void store_f32() const {
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

  /// bf16 outputs through shared memory: [token][row], then 16-byte stores.
  __device__ void store_bf16() {
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
      for (int n = 0; n < (kPaired ? 1 : kWarpTilesN); ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int row = (kPaired ? warp_n : warp_n * kWarpTilesN + n) * kCellRows + lane / 4 + i / 2 * 8;
          float value = total[n][m][i];
          if constexpr (kPaired) value = swiglu(value, total[1][m][i], p.limit) * weight[i % 2];
          smem.out[token + i % 2][row] = __float2bfloat16_rn(value);
        }
      }
    }
    __syncthreads();
    constexpr int kRows = kPaired ? kBlockRows / 2 : kBlockRows;
    const GemmSegment& s = p.segments[segment];
    const int rows = min(kRows, s.rows - first_row);
    for (int i = threadIdx.x; i < group.rows * (kRows / 8); i += kThreads) {
      const int token = i / (kRows / 8), row = i % (kRows / 8) * 8;
      bf16* y = static_cast<bf16*>(s.y) + static_cast<int64_t>(group.first + token) * s.ldy + first_row + row;
      if (row + 8 <= rows && s.ldy % 8 == 0) {
        *reinterpret_cast<uint4*>(y) = *reinterpret_cast<const uint4*>(&smem.out[token][row]);
      } else {
        for (int j = 0; j < 8 && row + j < rows; ++j) y[j] = smem.out[token][row + j];
      }
    }
  }

  __device__ void run() {
    if (kGrouped && blockIdx.y >= *p.tile_count) return;
    locate();
    prepare_copies();
    multiply();
    if (!kPaired && p.segments[segment].f32) {
      store_f32();
    } else {
      store_bf16();
    }
  }
};

template <WeightFormat kFormat, int kRowsM, bool kPaired, bool kGrouped>
__global__ void __launch_bounds__(kThreads, bound_of(kRowsM)) gemm_tile_kernel(const __grid_constant__ GemmParams p) {
  extern __shared__ __align__(16) uint8_t smem_bytes[];
  Tile<kFormat, kRowsM, kPaired, kGrouped>(p, *reinterpret_cast<SmemPlan<kFormat, kRowsM>*>(smem_bytes)).run();
}

/// Launches one instance.
template <WeightFormat kFormat, int kRowsM, bool kPaired, bool kGrouped>
void launch(const GemmParams& p, const TilePlan& plan) {
  const auto kernel = gemm_tile_kernel<kFormat, kRowsM, kPaired, kGrouped>;
  constexpr int kBytes = sizeof(SmemPlan<kFormat, kRowsM>);
  allow_shared_bytes(kernel, kBytes);
  kernel<<<dim3(plan.grid_n, plan.grid_m), kThreads, kBytes, p.stream>>>(p);
  check_launch("gemm_tile_kernel");
}

}  // namespace twelvex::cuda::tile
