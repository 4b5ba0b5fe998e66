// SPDX-License-Identifier: MIT
// Few rows: every weight is read once, from global memory straight to registers.
//
// A block's warps are `row_groups` x `split`. A warp owns one 256-column chunk (`rounds` of them when K is long) of a row
// unit (kUnitTiles tiles of 16 weight rows). Blocks walk consecutive units; the loads of the next unit are issued while
// the current one is multiplied, through a ring of 16-byte vectors a lane: four for each of 32 warps of a multiprocessor or eight
// for each of 16, 64 KB in all.
//   unit:    ring -> widen -> mma with the activations -> partial sums [chunk][token][row] in shared memory
//   barrier: all chunks of the unit are there; its row group's threads add them in ascending order and write y (SwiGLU when
//            paired). Who adds comes late to the next barrier, where all wait for it: everything it needs besides the sums it has
//            before, and it reads many sums at once (bench/results/2026-11-23-adding.md)
// With two buffers of partial sums one barrier a unit suffices: a buffer is written again two units later, behind the
// barrier that every reader of it has passed.
// Before it waits for the kernel before it, a block fetches its first weights (dependent_launch.cuh).
// With 8 activation rows (kTilesM = 1, 16 warps) every warp stages its chunk's activations in shared memory, quantised, when they
// change; with 16 (8 warps, for their registers) it reads them, quantised before, for every unit.
//
// Widening and multiplying quantised weights takes a multiprocessor half as long as reading them, and whatever a warp does beside
// it counts: two blocks of 64 registers a thread share a multiprocessor, nothing is divided, and where units lie is kept in
// shared memory (bench/results/2026-11-23-decode.md).
#pragma once

#include "arch/async_copy.cuh"
#include "arch/dependent_launch.cuh"
#include "arch/mma.cuh"
#include "common/device.h"
#include "common/reduce.cuh"
#include "gemm/epilogue.cuh"
#include "gemm/gemm.h"
#include "gemm/quantise.cuh"
#include "gemm/stream_loads.cuh"
#include "gemm/stream_plan.h"
#include "gemm/widen.cuh"

namespace twelvex::cuda::stream {

inline constexpr int kBlocks = kChunkCols / 32;  // blocks of 32 columns in a chunk
inline constexpr int kSlots = 8;                 // tokens of a fragment, as places among the partial sums

template <WeightFormat kFormat, int kTilesM, bool kPaired, bool kGrouped, int kResidents>
struct Stream {
  static constexpr bool kStaged = kTilesM == 1;
  static constexpr int kThreads = stream_warps(kTilesM * 8) * 32;
  static constexpr int kUnitTiles = kPaired || kFormat == WeightFormat::kFp4Group32 ? 2 : 1;
  static constexpr bool kApart = kPaired && !kGrouped;  // gate and up are matrices of their own
  static constexpr int kPerCell = cell_bytes(kFormat) / 512;  // vectors of a lane
  static constexpr int kRing = kResidents > 1 ? 4 : 8;
  static constexpr int kCycles = kChunkCells * kPerCell * kUnitTiles / kRing;  // rounds of the ring in a chunk
  static constexpr int kCycleBlocks = kBlocks / kCycles;
  static constexpr int kScaleBlocks = kFormat == WeightFormat::kFp4Group32 ? 2 : 4;  // blocks of 32 columns that share a scale
  static constexpr int kScales = kFormat == WeightFormat::kBF16 ? 0 : (kCycleBlocks + kScaleBlocks - 1) / kScaleBlocks;
  static constexpr int kPartial = kTilesM * kSlots * kCellRows;  // floats of one warp's partial sums of a tile
  static constexpr int kAtOnce = 16;  // chunks of 4,096 columns: an output's partial sums are read before one is added

  const GemmParams& p;
  const StreamPlan& plan;
  float* const partial_sums;
  Place* const places;  // of this warp's unit and the next
  uint4* const staged;  // this warp's activations: [token][32]; odd tokens swap neighbouring blocks of 32 columns, for the banks
  const int lane = threadIdx.x % 32;
  const int warp = __shfl_sync(kFullWarp, threadIdx.x / 32, 0);  // so that the compiler knows it to be uniform
  uint32_t staged_x;  // address of this lane's operand of the first block of 32 columns
  uint4 ring[kRing];
  uint32_t scale[kUnitTiles][kScales > 0 ? kScales : 1];
  float acc[kUnitTiles][kTilesM][4];

  __device__ Stream(const GemmParams& params, const StreamPlan& stream_plan, float* smem)
      : p(params),
        plan(stream_plan),
        partial_sums(smem),
        places(reinterpret_cast<Place*>(smem + stream_plan.partial_floats) + threadIdx.x / 32 * 2),
        staged(reinterpret_cast<uint4*>(smem + stream_plan.partial_floats) + kThreads / 32 * (kStreamPlaces / 16) +
               threadIdx.x / 32 * stream_plan.tokens * 32) {
    const int token = lane / 4 < plan.tokens ? lane / 4 : 0;  // columns of the product behind the last token are not read
    staged_x = smem_address(&staged[token * 32 + lane % 8]);
    // Kept: the compiler would compute it again for every unit. With fp8 weights it has no register for it.
    if constexpr (kFormat == WeightFormat::kFp4Group32) asm volatile("" : "+r"(staged_x));
  }

  /// Units of a group's second segment (gemm.h) are a group of their own.
  __device__ int segment_bits() const { return kGrouped && !kPaired ? p.num_segments - 1 : 0; }
  __device__ const GemmSegment& segment_of(int key) const { return p.segments[kGrouped ? key & segment_bits() : key]; }
  __device__ int units_of(int key) const { return kGrouped || kPaired ? plan.key_units[0] : plan.key_units[key]; }

  /// Groups or segments of the launch.
  __device__ int keys() const { return kGrouped ? *p.tile_count << segment_bits() : kPaired ? 1 : p.num_segments; }

  __device__ GroupTile fetch_tile(int tile) const {
    GroupTile group = p.tiles[tile];
    // Used here, not where it is needed: the compiler would wait there for all loads under way, in every unit.
    group.expert = __shfl_sync(kFullWarp, group.expert, 0);
    return group;
  }

  /// Finds the unit `index` of `key`, or of those behind it; kNone behind the last. tile_at(i): tile i of a grouped launch.
  template <class TileAt>
  __device__ void locate(int key, int index, int keys, Place& place, const TileAt& tile_at) const {
    while (key < keys && index >= units_of(key)) index -= units_of(key++);
    place.key = key < keys ? key : kNone;
    place.index = index;
    if constexpr (kGrouped) {
      if (key >= keys) return;
      const GroupTile group = tile_at(key >> segment_bits());
      place.expert = group.expert;
      place.rows = group.first << Place::kTokenBits | group.rows;
    } else {
      place.rows = p.rows;
    }
  }

  /// Where its weights lie.
  __device__ void aim(Place& place) const {
    place.segment = 0;
    if (place.key == kNone) return;
    const uint32_t expert = kGrouped ? place.expert : 0;
    const int row_tile = place.index * (kPaired ? 1 : kUnitTiles);
    const int cell = row_tile * plan.cells + first_chunk() * kChunkCells;
    place.segment = kPaired ? 0 : kGrouped ? place.key & segment_bits() : place.key;
    place.weights = expert * static_cast<uint32_t>(p.expert_weight_bytes / 16) + cell * (cell_bytes(kFormat) / 16);
    if constexpr (kPaired) {
      place.second = plan.pair_offset;
    } else {
      place.second = kUnitTiles > 1 && (row_tile + 1) * kCellRows < p.segments[place.segment].rows
                         ? plan.cells * (cell_bytes(kFormat) / 16)
                         : 0;
    }
    place.scales = kFormat == WeightFormat::kFp8Block128
                       ? row_tile / (kScaleBlock / kCellRows) * ((plan.cells + 1) / 2) + first_chunk() * (kChunkCells / 2)
                       : expert * static_cast<uint32_t>(p.expert_scale_bytes) + cell * 32;
  }

  /// Of this warp.
  __device__ int first_chunk() const { return warp & (plan.split - 1); }

  /// The chunk `skipped` chunks behind this warp's first.
  __device__ Source source(const Place& place, int skipped) const {
    Source from;
    from.weights = place.weights + skipped * (kChunkCells * cell_bytes(kFormat) / 16) + lane;
    from.scales = place.scales + (kFormat == WeightFormat::kFp8Block128 ? skipped * (kChunkCells / 2)
                                                                        : skipped * (kChunkCells * 32) + lane / 4 * 4);
    from.second = place.second;
    from.segment = kPaired ? 0 : place.segment;
    from.cells = place.key == kNone ? 0 : plan.cells - (first_chunk() + skipped) * kChunkCells;
    return from;
  }

  /// Vector `position` of a cycle: tiles innermost, so that one activation operand serves all tiles.
  __device__ void load(int position, int cycle, const Source& from) {
    const int tile = position % kUnitTiles, vector = cycle * (kRing / kUnitTiles) + position / kUnitTiles;
    const uint8_t* base = p.segments[kApart ? tile : from.segment].weights;
    const uint32_t at = from.weights + (kApart ? 0 : tile * from.second);
    load_weights(ring[position], base + static_cast<size_t>(at) * 16 + vector * 512, vector / kPerCell < from.cells);
  }

  /// Scale `i` of a cycle: of 128 columns (fp8) or of a cell (fp4).
  __device__ void load_scale(int tile, int i, int cycle, const Source& from) {
    const uint8_t* base = p.segments[kApart ? tile : from.segment].scales;
    if constexpr (kFormat == WeightFormat::kFp8Block128) {
      const int at = cycle * kCycleBlocks / 4 + i;
      if (at * 2 < from.cells) scale[tile][i] = __ldg(base + from.scales + at);
    } else if constexpr (kFormat == WeightFormat::kFp4Group32) {
      const int at = cycle * kCycleBlocks / 2 + i;
      const uint32_t row = from.scales + tile * from.second;  // 32 bytes of scales to 512 of weights
      load_scale_word(scale[tile][i], base + row + at * 32, at < from.cells);
    }
  }

  /// Row `token` of the unit's activations.
  __device__ const bf16* x_row(const Place& place, int token) const {
    int64_t row = place.first() + token;
    if constexpr (kGrouped) {
      if (p.gather != nullptr) row = __ldg(p.gather + row);
    }
    return segment_of(place.key).x + row * p.ldx;
  }

  __device__ uint4& staged_at(int token, int vector) const { return staged[token * 32 + (vector ^ (token % 2 * 4))]; }

  /// The chunk's activations into shared memory, quantised per 128 columns (16 lanes).
  __device__ void stage(const Place& place, int chunk) const {
    const int column = chunk * kChunkCols + lane * 8;
    __syncwarp();
#pragma unroll 1
    for (int token = 0; token < place.tokens(); ++token) {
      cp_async_16(smem_address(&staged_at(token, lane)), x_row(place, token) + column, column < p.cols);
    }
    cp_async_wait_all();
#pragma unroll 1
    for (int token = 0; p.quantise && token < place.tokens(); ++token) {
      uint4& v = staged_at(token, lane);
      v = requantise_bf16x8(v, activation_scale(warp_max<16>(amax_bf16x8(v))));
    }
    __syncwarp();
  }

  /// Activations of one block of 32 columns (kTilesM > 1, dense).
  __device__ void load_block_x(uint4 (&operand)[kTilesM], const Place& place, int chunk, int block) const {
#pragma unroll
    for (int m = 0; m < kTilesM; ++m) {
      const int token = m * 8 + lane / 4;
      const int column = chunk * kChunkCols + block * 32 + lane % 4 * 8;
      operand[m] = load_activations(p.segments[place.segment].x + token * p.ldx + column, token < p.rows && column < p.cols);
    }
  }

  template <int kStep>
  __device__ void fragment(int block, int tile, uint32_t (&a)[4]) const {
    if constexpr (kFormat == WeightFormat::kBF16) {
      const uint4& v = ring[(block * 2 + kStep) * kUnitTiles + tile];
      a[0] = v.x, a[1] = v.y, a[2] = v.z, a[3] = v.w;
    } else if constexpr (kFormat == WeightFormat::kFp8Block128) {
      fragment_fp8<kStep>(ring[block * kUnitTiles + tile], scale_pair<kFp8ScaleBias>(scale[tile][block / 4] & 0xffu), a);
    } else if (block % 2 == 0) {
      fragment_fp4<0, kStep>(ring[block / 2 * kUnitTiles + tile], scale[tile][block / 2], a);
    } else {
      fragment_fp4<1, kStep>(ring[block / 2 * kUnitTiles + tile], scale[tile][block / 2], a);
    }
  }

  /// Multiplies the chunk in the ring and refills the ring from the chunk `skipped` chunks behind the first one of `next`.
  __device__ void multiply(const Place& place, int chunk, const Place& next, int skipped) {
#pragma unroll
    for (int tile = 0; tile < kUnitTiles; ++tile) {
#pragma unroll
      for (int m = 0; m < kTilesM; ++m) {
#pragma unroll
        for (int i = 0; i < 4; ++i) acc[tile][m][i] = 0;
      }
    }
    multiply_cycles<0>(place, chunk, next, skipped);
  }

  template <int kCycle>
  __device__ __forceinline__ void multiply_cycles(const Place& place, int chunk, const Place& next, int skipped) {
    if constexpr (kCycle < kCycles) {
      const Source from = kCycle + 1 == kCycles ? source(next, skipped) : source(place, chunk - first_chunk());
      multiply_blocks<kCycle, 0>(place, chunk, from);
      multiply_cycles<kCycle + 1>(place, chunk, next, skipped);
    }
  }

  template <int kCycle, int kBlock>
  __device__ __forceinline__ void multiply_blocks(const Place& place, int chunk, const Source& from) {
    if constexpr (kBlock < kCycleBlocks) {
      constexpr int kColumnBlock = kCycle * kCycleBlocks + kBlock, kNext = kCycle + 1 == kCycles ? 0 : kCycle + 1;
      uint4 operand[kTilesM];
      if constexpr (kStaged) {
        const uint32_t x = kColumnBlock % 2 == 0 ? staged_x : staged_x + (lane / 4 % 2 == 0 ? 64 : -64);  // see staged_at
        operand[0] = load_shared<kColumnBlock / 2 * 128>(x);
      } else {
        load_block_x(operand, place, chunk, kColumnBlock);
      }
      step<0>(kBlock, operand, kNext, from);
      step<1>(kBlock, operand, kNext, from);
      multiply_blocks<kCycle, kBlock + 1>(place, chunk, from);
    }
  }

  template <int kStep>
  __device__ __forceinline__ void step(int block, const uint4 (&operand)[kTilesM], int cycle, const Source& from) {
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
        load(vector * kUnitTiles + tile, cycle, from);
      }
      if (kScales > 0 && kStep == 1 && ((block + 1) % kScaleBlocks == 0 || block + 1 == kCycleBlocks)) {
        load_scale(tile, block / kScaleBlocks, cycle, from);
      }
    }
  }

  /// Place of a token and weight row among a tile's partial sums: the four tokens that a warp stores at once, and two neighbours
  /// that are read, lie in different banks.
  static __device__ int partial_at(int slot, int row) { return slot * kCellRows + (row ^ (slot % 4 / 2 * 8)); }

  __device__ void store_partial(float* partial) const {
    float* const low = partial + partial_at(lane % 4, lane / 4);
    float* const high = partial + partial_at(lane % 4, lane / 4 + 8);
#pragma unroll
    for (int tile = 0; tile < kUnitTiles; ++tile) {
#pragma unroll
      for (int m = 0; m < kTilesM; ++m) {
        const int at = tile * plan.chunk_places * kPartial + m * kSlots * kCellRows;
#pragma unroll
        for (int i = 0; i < 4; ++i) (i < 2 ? low : high)[at + i % 2 * 4 * kCellRows] = acc[tile][m][i];
      }
    }
  }

  /// Adds the chunks of one output in ascending order.
  __device__ float total(const float* partial, int tile, int at) const {
    const float* from = partial + tile * plan.chunk_places * kPartial + at;
    float sum = 0;
    if (plan.chunks == kAtOnce) {
      float sums[kAtOnce];
#pragma unroll
      for (int c = 0; c < kAtOnce; ++c) sums[c] = from[c * kPartial];
#pragma unroll
      for (int c = 0; c < kAtOnce; ++c) sum += sums[c];
      return sum;
    }
#pragma unroll 4
    for (int c = 0; c < plan.chunks; ++c) sum += from[c * kPartial];
    return sum;
  }

  /// Threads of a row group: outputs of the unit that it has just computed.
  __device__ void reduce(const float* partial, const Place& place) const {
    const int threads = 32 << plan.split_log;
#pragma unroll 1
    for (int o = threadIdx.x & (threads - 1); o < place.tokens() * kUnitTiles * kCellRows; o += threads) {
      const int row_in_tile = o % kCellRows, tile = o / kCellRows % kUnitTiles, token = o / (kCellRows * kUnitTiles);
      const int slot = token / kSlots * kSlots + token % kSlots / 2 + token % 2 * 4;
      float value = total(partial, tile, partial_at(slot, row_in_tile));
      const GemmSegment& s = segment_of(place.key);
      const int row = (kPaired ? place.index : place.index * kUnitTiles + tile) * kCellRows + row_in_tile;
      const int y_row = place.first() + token;
      if constexpr (kPaired) {  // half of a warp has the gate of 16 rows, half has up
        value = swiglu(value, __shfl_down_sync(kFullWarp, value, kCellRows), p.limit);
        if (tile > 0) continue;
        if (p.row_weight != nullptr) value *= __ldg(p.row_weight + y_row);
      } else if (row >= s.rows) {
        continue;
      }
      const int64_t to = static_cast<int64_t>(y_row) * s.ldy + row;
      if (s.f32) {
        static_cast<float*>(s.y)[to] = value;
      } else {
        static_cast<bf16*>(s.y)[to] = __float2bfloat16_rn(value);
      }
    }
  }

  /// Of the warps of a row group; barrier 0 is the block's.
  __device__ void row_group_barrier(int row_group) const {
    plan.split_log == 0 ? __syncwarp() : named_barrier(1 + row_group, 32 << plan.split_log);
  }

  /// The part of block `block`. `early`: activations may be read before the kernel before has ended.
  __device__ void run(int block, bool early) {
    if (kGrouped && p.fresh_tiles) wait_for_previous_kernel();
    GroupTile near;  // tile `lane`: asked for with the tiles' count, not behind it
    if (kGrouped && lane < p.max_tiles) near = p.tiles[lane];
    const int units = kGrouped ? keys() * plan.key_units[0] : plan.units;
    const int row_group = warp >> plan.split_log;
    // A row group takes every row_groups-th unit of the block's share, so a block advances over neighbouring rows.
    const int steps = (units + (1 << plan.groups_log) - 1) >> plan.groups_log;
    const int first_step = plan.first_step(steps, block);
    int left = plan.first_step(steps, block + 1) - first_step;
    const int begin = (first_step << plan.groups_log) + row_group;
    const int begin_key = kGrouped ? plan.keys.divide(begin) : 0;

    {
      Place place;
      locate(left > 0 ? begin_key : kNone, begin - begin_key * plan.key_units[0], keys(), place, [&](int tile) {
        return tile < 32 ? GroupTile{__shfl_sync(kFullWarp, near.expert, tile), __shfl_sync(kFullWarp, near.first, tile),
                                     __shfl_sync(kFullWarp, near.rows, tile)}
                         : fetch_tile(tile);
      });
      aim(place);
      if (lane == 0) places[left & 1] = place;
      __syncwarp();
    }
    const bool computes = places[left & 1].key != kNone && first_chunk() < plan.chunks;
    // What is not loaded is multiplied by zeros: any weights that are numbers will do.
#pragma unroll
    for (uint4& vector : ring) vector = make_uint4(0, 0, 0, 0);
#pragma unroll
    for (int i = 0; i < kScales * kUnitTiles; ++i) scale[i % kUnitTiles][i / kUnitTiles] = 0x7f7f7f7fu;
    if (computes) {
      const Source from = source(places[left & 1], 0);
#pragma unroll
      for (int i = 0; i < kRing; ++i) load(i, 0, from);
#pragma unroll
      for (int i = 0; i < kScales * kUnitTiles; ++i) load_scale(i % kUnitTiles, i / kUnitTiles, 0, from);
    }
    if (!early) {
      wait_for_previous_kernel();
      let_next_kernel_start();
    } else if (p.ready != nullptr) {
      if (threadIdx.x == 0) wait_for_count(p.ready, p.ready_count);
      __syncthreads();
    }
    const int group_floats = kUnitTiles * plan.chunk_places * kPartial;  // partial sums of a row group
    int loaded = -1;  // the key of the staged activations
#pragma unroll 1
    for (; left > 0; --left) {
      float* partial = partial_sums + (row_group * plan.buffers + (left & (plan.buffers - 1))) * group_floats;
      __syncwarp();
      const Place& place = places[left & 1];
      Place& following = places[~left & 1];
      {
        Place next = place;
        next.index += 1 << plan.groups_log;
        if (left == 1) {
          next.key = kNone;
        } else if (place.key != kNone && next.index >= units_of(place.key)) {
          locate(place.key, next.index, keys(), next, [&](int tile) { return fetch_tile(tile); });
        }
        aim(next);
        if (lane == 0) following = next;
        __syncwarp();
      }
#pragma unroll 1
      for (int chunk = first_chunk(); place.key != kNone && chunk < plan.chunks;) {
        const int behind = chunk + plan.split;
        const bool last = behind >= plan.chunks;
        if (kStaged && (loaded != place.key || plan.rounds > 1)) {
          stage(place, chunk);
          loaded = place.key;
        }
        multiply(place, chunk, last ? following : place, last ? 0 : behind - first_chunk());
        store_partial(partial + chunk * kPartial);
        chunk = behind;
      }
      const Place done = place;  // read before the barrier
      row_group_barrier(row_group);
      if (done.key != kNone) reduce(partial, done);
      if (plan.buffers == 1) row_group_barrier(row_group);
    }
  }
};

}  // namespace twelvex::cuda::stream
