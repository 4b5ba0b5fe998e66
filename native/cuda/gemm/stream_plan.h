// SPDX-License-Identifier: MIT
// How streaming launches (gemm_stream.cuh) divide their work: pure functions of the shape, for host and device.
#pragma once

#include "gemm/gemm.h"

namespace twelvex::cuda {

/// Warps of a streaming block for 8 or 16 activation rows.
TWELVEX_GEMM_HD constexpr int stream_warps(int tile_rows_m) { return tile_rows_m == 8 ? 16 : 8; }

/// Bytes of shared memory in which a warp keeps where its unit and the next one lie.
inline constexpr int kStreamPlaces = 64;

/// Division of numbers n with n * divisor < 2^32 by one that a launch knows.
struct Divider {
  int divisor = 1;
  uint32_t reciprocal = 0;  // ceil(2^32 / divisor); 0: by one

  constexpr Divider() = default;
  constexpr explicit Divider(int by)
      : divisor(by), reciprocal(by == 1 ? 0 : static_cast<uint32_t>(((uint64_t{1} << 32) + by - 1) / by)) {}
  TWELVEX_GEMM_HD constexpr int divide(int n) const {
    return reciprocal == 0 ? n : static_cast<int>(static_cast<uint64_t>(n) * reciprocal >> 32);
  }
  /// Where part `part` of n, cut into `divisor` parts, begins; the first ones have one more.
  TWELVEX_GEMM_HD constexpr int begin(int n, int part) const {
    const int whole = divide(n), rest = n - whole * divisor;
    return part * whole + (part < rest ? part : rest);
  }
};

/// Blocks of a streaming launch that can share a multiprocessor: quantised weights keep many warps busy widening them, bf16
/// weights want many bytes on their way for each of fewer warps.
TWELVEX_GEMM_HD constexpr int stream_residents(WeightFormat format, int tile_rows_m) {
  return tile_rows_m == 8 && format != WeightFormat::kBF16 ? 2 : 1;
}

/// One streaming product; `plan_stream` for 8 or 16 activation rows.
struct StreamPlan {
  int cells = 0;                     // of 64 columns
  int chunks = 0;                    // of kChunkCols columns
  int split = 0, split_log = 0;      // warps along K, a power of two
  int rounds = 0;                    // chunks of a warp
  int chunk_places = 0;              // split * rounds
  int groups_log = 0;                // of row groups: warps / split
  int units = 0;                     // row units of 16 or 32 rows over all segments
  int key_units[kMaxSegments] = {};  // of a segment; grouped and paired: [0] of every one
  uint32_t pair_offset = 0;          // grouped: from gate to up, in units of 16 bytes; their scales are as many bytes apart
  int tokens = 0;                    // most rows of a unit
  int buffers = 0;                   // of partial sums: 2 overlaps a reduction with the next unit
  int partial_floats = 0;            // of all partial sums; places and staged activations lie behind them
  int residents = 0;                 // blocks of a multiprocessor
  Divider keys;                      // by key_units[0]
  Divider blocks;                    // that share the units
  int busy_blocks = 0;               // the first ones, which have done a step of another product before
  // Who takes a step more where blocks do not share them evenly: the last ones, not the first. A multiprocessor may get two of
  // the first blocks, while the last are its second ones (bench/results/2026-11-23-longer-shares.md).
  bool last_longer = false;
  int grid = 0;
  int smem_bytes = 0;

  /// A step is a unit for every row group. The first of all `steps` that `block` takes.
  TWELVEX_GEMM_HD constexpr int first_step(int steps, int block) const {
    const int all = steps + busy_blocks, behind = blocks.divisor - block;
    const int first = last_longer ? all - blocks.begin(all, behind) : blocks.begin(all, block);
    const int done = block < busy_blocks ? block : busy_blocks;
    return first < done ? 0 : first - done;
  }
};
StreamPlan plan_stream(const GemmParams& params, int tile_rows_m);

/// Two streaming products of 8 activation rows in one launch.
struct BesidePlan {
  StreamPlan first, second;
  int first_blocks = 0;  // of the first product
  // The first product's input is ready: its blocks multiply it before they wait, then all blocks the second one.
  bool early = false;
  int grid = 0;          // 0: not side by side
};
BesidePlan plan_beside(const GemmParams& first, const GemmParams& second);

}  // namespace twelvex::cuda
