// SPDX-License-Identifier: MIT
// Few rows: every weight is read once, from global memory straight to registers.
//
// A block's warps are `row_groups` x `split`. A warp owns one 256-column chunk (`rounds` of them when K is long) of a row
// unit (kUnitTiles tiles of 16 weight rows). Blocks walk consecutive units; the loads of the next unit are issued while
// the current one is multiplied, through a ring of eight 16-byte vectors a lane, so about 4 KB a warp stay in flight.
//   unit:    ring -> widen -> mma with the activations -> partial sums [chunk][token][row] in shared memory
//   barrier: all chunks of the unit are there; threads add them in ascending order and write y (SwiGLU when paired)
// With two buffers of partial sums one barrier a unit suffices: a buffer is written again two units later, behind the
// barrier that every reader of it has passed.
// Before it waits for the kernel before it, a block fetches its first weights (dependent_launch.cuh).
// With 8 activation rows (kTilesM = 1, 16 warps) a warp keeps its chunk's activations in registers, quantised once; with 16
// (8 warps, for their registers) it reads them, quantised before, for every unit.
#pragma once

#include "arch/dependent_launch.cuh"
#include "arch/mma.cuh"
#include "common/device.h"
#include "common/reduce.cuh"
#include "gemm/epilogue.cuh"
#include "gemm/gemm.h"
#include "gemm/quantise.cuh"
#include "gemm/widen.cuh"

namespace twelvex::cuda::stream {

inline constexpr int kRing = 8;
inline constexpr int kBlocks = kChunkCols / 32;      // blocks of 32 columns in a chunk
inline constexpr int kSpreadTokens = 3;              // so few are quantised by all lanes
inline constexpr int kTokenStride = kCellRows + 4;   // floats; 20 spreads the eight tokens of a fragment over all banks

/// Where a unit lies.
struct Unit {
  int segment = 0;
  int row = 0;                       // weight row of tile 0 within its segment
  int group = 0;                     // grouped: index into tiles, times segments
  int tiles = 0;                     // 0: no unit; 1: its second tile is behind the segment's last row
  const uint8_t* weights = nullptr;  // this lane's first vector of tile 0
  uint32_t scales = 0;               // byte offset of tile 0's scales (this lane's word for fp4) in its segment
};

/// 16 bytes, or zeros when `valid` is false: a predicated load, no branch.
__device__ __forceinline__ uint4 load_weights(const uint8_t* address, bool valid) {
  uint4 v;
  asm volatile(
      "{\n .reg .pred valid;\n setp.ne.u32 valid, %5, 0;\n"
      " mov.u32 %0, 0;\n mov.u32 %1, 0;\n mov.u32 %2, 0;\n mov.u32 %3, 0;\n"
      " @valid ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0,%1,%2,%3}, [%4];\n}\n"
      : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
      : "l"(address), "r"(static_cast<uint32_t>(valid)));
  return v;
}

/// The same for activations, which other kernels of the same graph write. Volatile: not hoisted, registers are short.
__device__ __forceinline__ uint4 load_activations(const bf16* address, bool valid) {
  uint4 v;
  asm volatile(
      "{\n .reg .pred valid;\n setp.ne.u32 valid, %5, 0;\n"
      " mov.u32 %0, 0;\n mov.u32 %1, 0;\n mov.u32 %2, 0;\n mov.u32 %3, 0;\n"
      " @valid ld.global.v4.u32 {%0,%1,%2,%3}, [%4];\n}\n"
      : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
      : "l"(address), "r"(static_cast<uint32_t>(valid))
      : "memory");
  return v;
}

template <WeightFormat kFormat, int kTilesM, bool kPaired, bool kGrouped>
struct Stream {
  static constexpr int kThreads = stream_warps(kTilesM * 8) * 32;
  static constexpr int kUnitTiles = kPaired || kFormat == WeightFormat::kFp4Group32 ? 2 : 1;
  static constexpr int kTileVectors = kChunkCells * cell_bytes(kFormat) / 512;  // of a tile and chunk, per lane
  static constexpr int kVectors = kTileVectors * kUnitTiles;
  static constexpr int kScales = kFormat == WeightFormat::kBF16 ? 0 : kFormat == WeightFormat::kFp8Block128 ? 2 : kChunkCells;
  static constexpr int kTokens = kTilesM * 8;
  static constexpr int kPartial = kTokens * kTokenStride;  // floats of one warp's partial sums of a tile

  const GemmParams& p;
  const StreamPlan& plan;
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const int cells = static_cast<int>(cells_per_row(p.cols));
  uint4 ring[kRing];
  uint32_t scale[kUnitTiles][kScales > 0 ? kScales : 1];
  uint4 x[kTilesM == 1 ? kBlocks : kTilesM];
  float acc[kUnitTiles][kTilesM][4];

  __device__ Stream(const GemmParams& params, const StreamPlan& stream_plan) : p(params), plan(stream_plan) {}

  /// Units of a group's second segment (gemm.h) are a group of their own.
  __device__ int segment_bits() const { return kGrouped && !kPaired ? p.num_segments - 1 : 0; }
  __device__ const GemmSegment& segment_of(const Unit& unit) const {
    return p.segments[kGrouped ? unit.group & segment_bits() : unit.segment];
  }

  /// Row units of one group (dense: of the launch).
  __device__ int units_of(int segment) const {
    return kPaired || kUnitTiles == 1 ? static_cast<int>(row_tiles(p.segments[segment].rows))
                                      : static_cast<int>(ceil_div(row_tiles(p.segments[segment].rows), 2));
  }

  /// Finds unit `index` of the launch; false behind the last.
  __device__ bool locate(int index, int units, Unit& unit) const {
    if (index >= units) return false;
    if constexpr (kGrouped) {
      const int per_group = plan.units >> segment_bits();
      unit.group = index / per_group;
      index -= unit.group * per_group;
    } else if constexpr (!kPaired) {
      while (index >= units_of(unit.segment)) index -= units_of(unit.segment++);
    }
    const size_t expert = kGrouped ? group_of(unit).expert : 0;
    unit.row = index * kCellRows * (kPaired ? 1 : kUnitTiles);
    const GemmSegment& s = segment_of(unit);
    const int row_tile = unit.row / kCellRows;
    unit.tiles = kPaired || unit.row + kCellRows < s.rows ? kUnitTiles : 1;
    unit.weights =
        s.weights + expert * p.expert_weight_bytes + static_cast<size_t>(row_tile) * cells * cell_bytes(kFormat) + lane * 16;
    if constexpr (kFormat == WeightFormat::kFp8Block128) {
      unit.scales = static_cast<uint32_t>(unit.row / kScaleBlock * ceil_div(p.cols, kScaleBlock));
    } else if constexpr (kFormat == WeightFormat::kFp4Group32) {
      unit.scales = static_cast<uint32_t>(expert * p.expert_scale_bytes) + row_tile * cells * 32 + lane / 4 * 4;
    }
    return true;
  }

  /// Vector `position` of a unit's chunk: tiles innermost, so that one activation operand serves all tiles.
  __device__ void load(int position, const Unit& unit, int chunk) {
    const int tile = position % kUnitTiles;
    const int vector = position / kUnitTiles;
    constexpr int kPerCell = cell_bytes(kFormat) / 512;
    const int cell = chunk * kChunkCells + vector / kPerCell;
    const int64_t to_tile = kPaired ? p.segments[1].weights - p.segments[0].weights : cells * cell_bytes(kFormat);
    ring[position % kRing] =
        load_weights(unit.weights + tile * to_tile + chunk * (kChunkCells * cell_bytes(kFormat)) + vector * 512,
                     tile < unit.tiles && cell < cells);
  }

  /// Scale `i` of a unit's chunk: of 128 columns (fp8) or of a cell (fp4).
  __device__ void load_scale(int tile, int i, const Unit& unit, int chunk) {
    const uint8_t* scales = (kPaired ? p.segments[tile] : segment_of(unit)).scales + unit.scales;
    const int at = chunk * kScales + i;
    if constexpr (kFormat == WeightFormat::kFp8Block128) {
      scale[tile][i] = tile < unit.tiles && at * kScaleBlock < p.cols ? __ldg(scales + at) : 127;
    } else if constexpr (kFormat == WeightFormat::kFp4Group32) {
      if (!kPaired) scales += tile * cells * 32;
      scale[tile][i] = tile < unit.tiles && at < cells ? __ldg(reinterpret_cast<const uint32_t*>(scales) + at * 8) : 0x7f7f7f7fu;
    }
  }

  /// Token `token` of the group; null behind the last.
  __device__ const bf16* x_row(const Unit& unit, const GroupTile& group, int token) const {
    if (token >= group.rows) return nullptr;
    int64_t row = group.first + token;
    if constexpr (kGrouped) {
      if (p.gather != nullptr) row = __ldg(p.gather + row);
    }
    return segment_of(unit).x + row * p.ldx;
  }

  /// Activations of one block of 32 columns into registers (kTilesM > 1, dense).
  __device__ void load_block_x(const Unit& unit, int chunk, int block) {
#pragma unroll
    for (int m = 0; m < kTilesM; ++m) {
      const int token = m * 8 + lane / 4;
      const int column = chunk * kChunkCols + block * 32 + lane % 4 * 8;
      x[m] = load_activations(segment_of(unit).x + token * p.ldx + column, token < p.rows && column < p.cols);
    }
  }

  /// The chunk's activations into registers; quantised per 128 columns (four blocks, the four lanes of a token).
  __device__ void load_chunk_x(const Unit& unit, const GroupTile& group, int chunk) {
    if constexpr (!kGrouped) {  // the others lack the registers
      if (p.quantise && group.rows <= kSpreadTokens) return spread_chunk_x(unit, group, chunk);
    }
    const bf16* row = x_row(unit, group, lane / 4);
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
      const int column = chunk * kChunkCols + b * 32;
      x[b] = load_activations(row + column + lane % 4 * 8, row != nullptr && column < p.cols);
    }
    if (!p.quantise) return;
#pragma unroll
    for (int half = 0; half < kBlocks / 4; ++half) {
      float amax = 0;
#pragma unroll
      for (int b = 0; b < 4; ++b) amax = fmaxf(amax, amax_bf16x8(x[half * 4 + b]));
      const float2 s = activation_scale(warp_max<4>(amax));
#pragma unroll
      for (int b = 0; b < 4; ++b) x[half * 4 + b] = requantise_bf16x8(x[half * 4 + b], s);
    }
  }

  /// The same for few tokens, whose lanes would work alone: a token's columns are quantised by the whole warp, eight a lane, and
  /// handed to the lanes that multiply them.
  __device__ void spread_chunk_x(const Unit& unit, const GroupTile& group, int chunk) {
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) x[b] = make_uint4(0, 0, 0, 0);
#pragma unroll 1
    for (int token = 0; token < group.rows; ++token) {
      const int column = chunk * kChunkCols + lane * 8;
      uint4 v = load_activations(x_row(unit, group, token) + column, column < p.cols);
      v = requantise_bf16x8(v, activation_scale(warp_max<16>(amax_bf16x8(v))));
#pragma unroll
      for (int b = 0; b < kBlocks; ++b) {
        const int from = b * 4 + lane % 4;
        const uint4 got = make_uint4(__shfl_sync(kFullWarp, v.x, from), __shfl_sync(kFullWarp, v.y, from),
                                     __shfl_sync(kFullWarp, v.z, from), __shfl_sync(kFullWarp, v.w, from));
        if (lane / 4 == token) x[b] = got;
      }
    }
  }

  template <int kStep>
  __device__ void fragment(int block, int tile, uint32_t (&a)[4]) const {
    if constexpr (kFormat == WeightFormat::kBF16) {
      const uint4& v = ring[((block * 2 + kStep) * kUnitTiles + tile) % kRing];
      a[0] = v.x, a[1] = v.y, a[2] = v.z, a[3] = v.w;
    } else if constexpr (kFormat == WeightFormat::kFp8Block128) {
      fragment_fp8<kStep>(ring[(block * kUnitTiles + tile) % kRing], scale_pair<kFp8ScaleBias>(scale[tile][block / 4]), a);
    } else if (block % 2 == 0) {
      fragment_fp4<0, kStep>(ring[(block / 2 * kUnitTiles + tile) % kRing], scale[tile][block / 2], a);
    } else {
      fragment_fp4<1, kStep>(ring[(block / 2 * kUnitTiles + tile) % kRing], scale[tile][block / 2], a);
    }
  }

  /// Multiplies the unit in the ring and refills the ring from `next`.
  __device__ void multiply(const Unit& unit, int chunk, const Unit& next, int next_chunk) {
#pragma unroll
    for (int tile = 0; tile < kUnitTiles; ++tile) {
#pragma unroll
      for (int m = 0; m < kTilesM; ++m) {
#pragma unroll
        for (int i = 0; i < 4; ++i) acc[tile][m][i] = 0;
      }
    }
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
      if constexpr (kTilesM > 1) load_block_x(unit, chunk, block);
      uint4 operand[kTilesM];
#pragma unroll
      for (int m = 0; m < kTilesM; ++m) operand[m] = x[kTilesM == 1 ? block : m];
      step<0>(block, operand, unit, chunk, next, next_chunk);
      step<1>(block, operand, unit, chunk, next, next_chunk);
    }
  }

  template <int kStep>
  __device__ __forceinline__ void step(int block, const uint4 (&operand)[kTilesM], const Unit& unit, int chunk, const Unit& next,
                                       int next_chunk) {
#pragma unroll
    for (int tile = 0; tile < kUnitTiles; ++tile) {
      uint32_t a[4];
      fragment<kStep>(block, tile, a);
#pragma unroll
      for (int m = 0; m < kTilesM; ++m) {
        mma_bf16(acc[tile][m], a, kStep == 0 ? operand[m].x : operand[m].z, kStep == 0 ? operand[m].y : operand[m].w);
      }
      // The last use of a vector frees its place in the ring.
      constexpr bool kFp4 = kFormat == WeightFormat::kFp4Group32;
      if (kFormat == WeightFormat::kBF16 || (kStep == 1 && (!kFp4 || block % 2 == 1))) {
        const int vector = kFormat == WeightFormat::kBF16 ? block * 2 + kStep : kFp4 ? block / 2 : block;
        const int position = vector * kUnitTiles + tile + kRing;
        if (position < kVectors) {
          load(position, unit, chunk);
        } else {
          load(position - kVectors, next, next_chunk);
        }
      }
      constexpr int kBlocksPerScale = kFp4 ? 2 : 4;
      if (kScales > 0 && kStep == 1 && (block + 1) % kBlocksPerScale == 0)
        load_scale(tile, block / kBlocksPerScale, next, next_chunk);
    }
  }

  __device__ void store_partial(float* partial) const {
#pragma unroll
    for (int tile = 0; tile < kUnitTiles; ++tile) {
      float* base = partial + static_cast<size_t>(tile) * plan.split * plan.rounds * kPartial;
#pragma unroll
      for (int m = 0; m < kTilesM; ++m) {
        float* token = base + (m * 8 + lane % 4 * 2) * kTokenStride + lane / 4;
        token[0] = acc[tile][m][0];
        token[kTokenStride] = acc[tile][m][1];
        token[8] = acc[tile][m][2];
        token[kTokenStride + 8] = acc[tile][m][3];
      }
    }
  }

  /// Adds the chunks of one output in ascending order.
  __device__ float total(const float* partial, int tile, int token, int row) const {
    const float* at = partial + static_cast<size_t>(tile) * plan.split * plan.rounds * kPartial + token * kTokenStride + row;
    float sum = 0;
#pragma unroll 2
    for (int c = 0; c < plan.chunks; ++c) sum += at[c * kPartial];
    return sum;
  }

  /// All threads: outputs of the units that the block's row groups have just computed.
  __device__ void reduce(const float* partials, int first_index, int units) const {
    constexpr int kOutputs = kTokens * kCellRows * (kPaired ? 1 : kUnitTiles);
#pragma unroll 1
    for (int o = threadIdx.x; o < plan.row_groups * kOutputs; o += kThreads) {
      Unit unit;
      if (!locate(first_index + o / kOutputs, units, unit)) continue;
      const int row_in_tile = o % kCellRows;
      const int token = o / kCellRows % kTokens;
      const int tile = kPaired ? 0 : o / (kCellRows * kTokens) % kUnitTiles;
      const GemmSegment& s = segment_of(unit);
      const int row = unit.row + tile * kCellRows + row_in_tile;
      const GroupTile group = group_of(unit);
      if (token >= group.rows || row >= s.rows) continue;
      const float* partial = partials + static_cast<size_t>(o / kOutputs) * kUnitTiles * plan.split * plan.rounds * kPartial;
      const int64_t y_row = group.first + token;
      float value = total(partial, tile, token, row_in_tile);
      if constexpr (kPaired) {
        value = swiglu(value, total(partial, 1, token, row_in_tile), p.limit);
        if (p.row_weight != nullptr) value *= __ldg(p.row_weight + y_row);
      }
      if (s.f32) {
        static_cast<float*>(s.y)[y_row * s.ldy + row] = value;
      } else {
        static_cast<bf16*>(s.y)[y_row * s.ldy + row] = __float2bfloat16_rn(value);
      }
    }
  }

  __device__ GroupTile group_of(const Unit& unit) const {
    if constexpr (kGrouped) return p.tiles[unit.group >> segment_bits()];
    return GroupTile{0, 0, p.rows};
  }

  /// The part of block `block` of `blocks`.
  __device__ void run(float* smem, int block, int blocks) {
    if (kGrouped && p.fresh_tiles) wait_for_previous_kernel();
    const int groups = kGrouped ? *p.tile_count : 1;
    const int units = groups * plan.units;
    // A row group takes every row_groups-th unit of the block's range, so a block advances over neighbouring rows.
    const int steps = static_cast<int>(ceil_div(units, plan.row_groups));
    const int first = steps * block / blocks * plan.row_groups;
    const int last = steps * (block + 1) / blocks * plan.row_groups;
    const int row_group = warp / plan.split;
    const int my_chunk = warp % plan.split;
    const size_t group_floats = static_cast<size_t>(kUnitTiles) * plan.split * plan.rounds * kPartial;

    Unit unit;
    bool active = first < last && locate(first + row_group, units, unit) && my_chunk < plan.chunks;
    if (active) {
#pragma unroll
      for (int i = 0; i < kRing; ++i) load(i, unit, my_chunk);
    }
    wait_for_previous_kernel();  // registers are short: activations and scales come after
    let_next_kernel_start();
    if (active) {
#pragma unroll
      for (int i = 0; i < kScales * kUnitTiles; ++i) load_scale(i % kUnitTiles, i / kUnitTiles, unit, my_chunk);
    }
    if (first >= last) return;
    int loaded = -1;  // what the activation registers hold: group or segment, and round
    int buffer = 0;
    for (int base = first; base < last; base += plan.row_groups) {
      float* partials = smem + buffer * plan.row_groups * group_floats;
      Unit following;
      const bool goes_on =
          base + plan.row_groups < last && locate(base + plan.row_groups + row_group, units, following) && my_chunk < plan.chunks;
      for (int round = 0; active && round < plan.rounds; ++round) {
        const int chunk = my_chunk + round * plan.split;
        if (chunk >= plan.chunks) break;
        const bool last_round = round + 1 == plan.rounds || chunk + plan.split >= plan.chunks;
        const GroupTile group = group_of(unit);
        const int wanted = (kGrouped ? unit.group : unit.segment) * plan.rounds + round;
        if (kTilesM == 1 && loaded != wanted) {
          load_chunk_x(unit, group, chunk);
          loaded = wanted;
        }
        const Unit next = last_round ? following : unit;
        multiply(unit, chunk, next, last_round ? my_chunk : chunk + plan.split);
        store_partial(partials + row_group * group_floats + chunk * kPartial);
      }
      __syncthreads();
      reduce(partials, base, units);
      if (plan.buffers == 2) {
        buffer ^= 1;
      } else {
        __syncthreads();
      }
      unit = following;
      active = goes_on;
    }
  }
};

template <WeightFormat kFormat, int kTilesM, bool kPaired, bool kGrouped>
__global__ void __launch_bounds__(stream_warps(kTilesM * 8) * 32, 1)
    gemm_stream_kernel(const __grid_constant__ GemmParams p, const __grid_constant__ StreamPlan plan) {
  extern __shared__ float partial_sums[];
  Stream<kFormat, kTilesM, kPaired, kGrouped>(p, plan).run(partial_sums, blockIdx.x, gridDim.x);
}

/// Launches one instance.
template <WeightFormat kFormat, int kTilesM, bool kPaired, bool kGrouped>
void launch(const GemmParams& p, const StreamPlan& plan) {
  const auto kernel = gemm_stream_kernel<kFormat, kTilesM, kPaired, kGrouped>;
  allow_shared_bytes(kernel, plan.smem_bytes);
  const auto bytes = static_cast<size_t>(plan.smem_bytes);
  launch_dependent({plan.grid, stream_warps(kTilesM * 8) * 32, bytes, p.stream}, kernel, p, plan);
}

}  // namespace twelvex::cuda::stream
