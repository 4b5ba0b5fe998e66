// SPDX-License-Identifier: MIT
#include <algorithm>

#include "common/device.h"
#include "gemm/fp8_gemm.h"
#include "gemm/gemm.h"
#include "gemm/stream_plan.h"
#include "gemm/warpgroup_gemm.h"

namespace twelvex::cuda {

int group_tile_rows(int rows, int experts, int arch) {
  // Weights are read once per tile of rows: eight rows while most experts have no more, then tiles that fill the tensor cores.
  if (rows <= 8 * experts) return 8;
  if (arch == kWarpgroupArch) return kGroupRows;
  if (arch >= kFirstFp8Arch) return kFp8GroupRows;
  return rows < 96 * experts ? 64 : 128;
}

int stream_rows(const GemmParams& p) {
  if (p.tiles != nullptr) return group_tile_rows(p.rows, p.experts, p.arch) == 8 ? 8 : 0;
  if (p.rows <= 8) return 8;
  return p.rows <= 16 && !p.paired ? 16 : 0;
}

namespace {

/// Shared memory of a multiprocessor; `arch` 0: of the smallest.
int shared_of_multiprocessor(int arch) { return (arch == kWarpgroupArch ? 228 : 100) * 1024; }

/// How many blocks share a multiprocessor, and how many buffers of partial sums a block has: blocks come first.
void plan_shared_memory(const GemmParams& p, int tile_rows_m, int unit_tiles, StreamPlan& plan) {
  constexpr int kReserved = 1024;  // of a block
  const int warps = stream_warps(tile_rows_m);
  const int bytes = (unit_tiles * plan.chunk_places * tile_rows_m * kCellRows * 4) << plan.groups_log;  // of one buffer
  int others = warps * kStreamPlaces;
  if (tile_rows_m == 8) others += warps * plan.tokens * kChunkCols * 2;
  plan.residents = stream_residents(p.format, tile_rows_m);
  const auto room = [&] { return std::min(kMaxSharedBytes, shared_of_multiprocessor(p.arch) / plan.residents - kReserved); };
  if (bytes + others > room()) plan.residents = 1;
  plan.buffers = 2 * bytes + others <= room() ? 2 : 1;
  plan.partial_floats = plan.buffers * bytes / 4;
  plan.smem_bytes = plan.buffers * bytes + others;
}

}  // namespace

StreamPlan plan_stream(const GemmParams& p, int tile_rows_m) {
  const int unit_tiles = p.paired || p.format == WeightFormat::kFp4Group32 ? 2 : 1, warps = stream_warps(tile_rows_m);
  StreamPlan plan;
  plan.cells = static_cast<int>(cells_per_row(p.cols));
  plan.chunks = static_cast<int>(ceil_div(p.cols, kChunkCols));
  while (1 << plan.split_log < std::min(plan.chunks, warps)) ++plan.split_log;
  plan.split = 1 << plan.split_log;
  while (plan.split << plan.groups_log < warps) ++plan.groups_log;
  plan.rounds = static_cast<int>(ceil_div(plan.chunks, plan.split));
  plan.chunk_places = plan.split * plan.rounds;
  for (int s = 0; s < (p.paired ? 1 : p.num_segments); ++s) {
    const int64_t tiles = row_tiles(p.segments[s].rows);
    plan.key_units[s] = static_cast<int>(p.paired ? tiles : ceil_div(tiles, unit_tiles));
    plan.units += plan.key_units[s];
  }
  if (p.paired && p.tiles != nullptr) {
    plan.pair_offset = static_cast<uint32_t>((p.segments[1].weights - p.segments[0].weights) / 16);
  }
  plan.keys = Divider(std::max(plan.key_units[0], 1));
  plan.tokens = p.tiles != nullptr ? p.group_rows : p.rows;
  plan_shared_memory(p, tile_rows_m, unit_tiles, plan);
  const int64_t units = static_cast<int64_t>(plan.units) * (p.tiles != nullptr ? p.max_tiles : 1);
  plan.grid = static_cast<int>(std::min<int64_t>(ceil_div(units, 1 << plan.groups_log), plan.residents * p.num_sms));
  plan.blocks = Divider(std::max(plan.grid, 1));
  // Experts of several tokens have many steps; the first blocks, which begin with the shared expert's, have time for one more.
  plan.last_longer = p.tiles == nullptr || p.group_rows == 1;
  return plan;
}

namespace {

/// What the blocks of a streaming launch divide: rounds of their row groups over all units, and the weights of one.
struct StreamWork {
  int64_t steps = 0, step_bytes = 0;

  StreamWork(const GemmParams& p, const StreamPlan& plan)
      : steps(ceil_div(static_cast<int64_t>(plan.units) * (p.tiles != nullptr ? p.max_tiles : 1), 1 << plan.groups_log)) {
    const int unit_tiles = p.paired || p.format == WeightFormat::kFp4Group32 ? 2 : 1, rows = unit_tiles * kCellRows;
    const auto bytes = static_cast<int64_t>(weight_bytes(p.format, rows, p.cols) + scale_bytes(p.format, rows, p.cols));
    step_bytes = bytes << plan.groups_log;
  }

  /// The most that a block of so many reads.
  int64_t longest(int blocks) const { return ceil_div(steps, blocks) * step_bytes; }
};

}  // namespace

BesidePlan plan_beside(const GemmParams& first, const GemmParams& second) {
  const bool experts = second.tiles != nullptr && second.format == WeightFormat::kFp4Group32 && !second.x_fp8;
  const bool dense = second.tiles == nullptr && second.format == WeightFormat::kBF16 && !second.paired;
  const bool fit = first.tiles == nullptr && first.format == WeightFormat::kFp8Block128 && first.paired == second.paired &&
                   (experts || dense) && stream_rows(first) == 8 && stream_rows(second) == 8;
  if (!fit || first.rows == 0 || second.rows == 0 || first.cols == 0 || second.cols == 0) return {};
  BesidePlan plan;
  plan.first = plan_stream(first, 8);
  plan.second = plan_stream(second, 8);
  const StreamWork one(first, plan.first), other(second, plan.second);
  if (one.steps == 0 || other.steps == 0) return {};
  // The kernel is built for as many as the second product's format takes.
  const int residents = std::min({plan.first.residents, plan.second.residents, stream_residents(second.format, 8)});
  const int64_t most = static_cast<int64_t>(residents) * first.num_sms;
  plan.first.last_longer = plan.second.last_longer;
  plan.early = first.input_ready;
  if (plan.early) {
    plan.grid = static_cast<int>(std::min(std::max(one.steps, other.steps), most));
    plan.first_blocks = static_cast<int>(std::min<int64_t>(one.steps, plan.grid));
    plan.first.blocks = Divider(plan.first_blocks);
    plan.second.blocks = Divider(plan.grid);
    // A first product that begins before its input is there hardly counts: who has done a step of it is not far behind those who
    // waited for the second one's tiles (bench/results/2026-11-23-crossing-router.md).
    if (one.steps <= plan.grid) plan.second.busy_blocks = plan.first_blocks / (first.ready != nullptr ? 8 : 1);
    return plan;
  }
  plan.grid = static_cast<int>(std::min(one.steps + other.steps, most));
  int64_t least = 0;
  for (int blocks = 1; blocks < plan.grid; ++blocks) {
    const int64_t longest = std::max(one.longest(blocks), other.longest(plan.grid - blocks));
    if (blocks > 1 && longest >= least) continue;
    least = longest;
    plan.first_blocks = blocks;
  }
  plan.first.blocks = Divider(std::max(plan.first_blocks, 1));
  plan.second.blocks = Divider(std::max(plan.grid - plan.first_blocks, 1));
  return plan.first_blocks > 0 ? plan : BesidePlan{};
}

TilePlan plan_tile(const GemmParams& p) {
  TilePlan plan;
  const int block_rows = p.paired ? 64 : 128;
  for (int s = 0; s < (p.paired ? 1 : p.num_segments); ++s)
    plan.grid_n += static_cast<int>(ceil_div(p.segments[s].rows, block_rows));
  if (p.tiles != nullptr) {
    plan.rows_m = group_tile_rows(p.rows, p.experts, p.arch);
    plan.grid_m = p.max_tiles;
    return plan;
  }
  // Blocks of 128 rows once they fill the device; smaller ones spread a short prompt over more multiprocessors.
  plan.rows_m = p.rows <= 32 && !p.paired ? 32 : 64;
  if (ceil_div(p.rows, 128) * plan.grid_n >= p.num_sms) plan.rows_m = 128;
  plan.grid_m = static_cast<int>(ceil_div(p.rows, plan.rows_m));
  return plan;
}

namespace {

// Rows whose bf16 products take as long as reading fp8 (fp4) weights once: 350 TFLOP/s against 1.6 TB/s on the RTX PRO 6000. FP8
// products take half as long, and running decode rows apart reads their weights twice.
constexpr int kRowsPerRead = 112, kRowsPerFp4Read = 60;

}  // namespace

bool takes_fp8(const GemmParams& p) {
  if (p.x_fp8) return true;
  if (p.arch < kFirstFp8Arch || !p.quantise || p.format == WeightFormat::kBF16) return false;
  if (p.cols % kScaleBlock != 0 || (p.x_cols ? p.x_cols : p.cols) % kScaleBlock != 0) return false;
  return p.decode_rows > 0 ? p.rows - p.decode_rows > 2 * kRowsPerRead : stream_rows(p) == 0;
}

bool experts_apart(int decode_slots, int other_slots, int experts) {
  const int reading = kRowsPerFp4Read * experts;
  const int gain = std::max(other_slots, reading) - std::max(other_slots / 2, reading);
  return gain > kRowsPerFp4Read * std::min(decode_slots, experts);
}

TilePlan plan_fp8(const GemmParams& p) {
  TilePlan plan = plan_tile(p);
  if (p.tiles != nullptr) {
    plan.grid_n = 0;
    for (int s = 0; s < (p.paired ? 1 : p.num_segments); ++s)
      plan.grid_n += static_cast<int>(ceil_div(p.segments[s].rows, kFp8GroupBlockRows / (p.paired ? 2 : 1)));
    return plan;
  }
  // A block of 128 rows takes about 16 / 11 of the time of one of 64, which loads more than it multiplies; rounds are whole.
  const auto rounds = [&](int rows_m) { return ceil_div(ceil_div(p.rows, rows_m) * plan.grid_n, p.num_sms); };
  plan.rows_m = rounds(64) * 11 <= rounds(128) * 16 ? 64 : 128;
  plan.grid_m = static_cast<int>(ceil_div(p.rows, plan.rows_m));
  return plan;
}

bool takes_warpgroup(const GemmParams& p) {
  if (p.x_ordered) return true;
  return p.arch == kWarpgroupArch && stream_rows(p) == 0 && p.quantised != nullptr;
}

TilePlan plan_warpgroup(const GemmParams& p) {
  TilePlan plan = plan_tile(p);
  if (p.tiles != nullptr) return plan;
  // Time follows rounds of blocks times what a block costs: its rows and what comes with any.
  constexpr int kFixedRows = 32;
  int64_t least = 0;
  for (const int rows : {32, 64, 96, 128}) {
    const int64_t blocks = ceil_div(p.rows, rows), cost = ceil_div(blocks * plan.grid_n, p.num_sms) * (rows + kFixedRows);
    if (least != 0 && cost > least) continue;
    least = cost;
    plan.rows_m = rows;
    plan.grid_m = static_cast<int>(blocks);
  }
  return plan;
}

}  // namespace twelvex::cuda
