// SPDX-License-Identifier: MIT
#include "gemm/gemm.h"

#include "common/check.h"
#include "gemm/fp8_gemm.h"
#include "gemm/quantise.h"
#include "gemm/stream_plan.h"
#include "gemm/warpgroup_gemm.h"

namespace twelvex::cuda {

// One per weight format: the files that instantiate the kernels.
namespace stream {
void run_fp8(const GemmParams& p, const StreamPlan& plan, int tile_rows_m);
void run_bf16(const GemmParams& p, const StreamPlan& plan, int tile_rows_m);
void run_fp4(const GemmParams& p, const StreamPlan& plan, int tile_rows_m);
void run_beside(const GemmParams& first, const GemmParams& second, const BesidePlan& plan);
}  // namespace stream
namespace tile {
void run_fp8(const GemmParams& p, const TilePlan& plan);
void run_bf16(const GemmParams& p, const TilePlan& plan);
void run_fp4(const GemmParams& p, const TilePlan& plan);
}  // namespace tile

namespace {

void check_shapes(const GemmParams& p) {
  TWELVEX_NEED(p.cols % 32, 0);
  TWELVEX_NEED(p.ldx % 8, 0);
  TWELVEX_NEED_LE(p.num_segments, kMaxSegments);
  TWELVEX_NEED_LE(p.cols, 32768);
  TWELVEX_NEED(p.format == WeightFormat::kFp4Group32, p.tiles != nullptr);  // fp4 weights are experts'
  TWELVEX_NEED_LE(p.format == WeightFormat::kF32, 0);
  if (!p.paired) return;
  TWELVEX_NEED(p.num_segments, 2);
  TWELVEX_NEED_LE(p.format == WeightFormat::kBF16, 0);
  TWELVEX_NEED(p.segments[0].rows, p.segments[1].rows);
  TWELVEX_NEED(p.segments[0].rows % kCellRows, 0);
  if (p.tiles == nullptr || stream_rows(p) == 0) return;
  TWELVEX_NEED((p.segments[1].scales - p.segments[0].scales) * 16, p.segments[1].weights - p.segments[0].weights);
}

/// The same product on a quantised copy of its input.
GemmParams with_quantised_input(const GemmParams& p) {
  const GemmParams q = on_copied_input(p);
  run_quantise({.rows = q.x_rows, .cols = q.x_cols, .ldx = p.ldx, .x = p.segments[0].x, .y = p.quantised, .stream = p.stream});
  return q;
}

}  // namespace

GemmParams on_copied_input(const GemmParams& p) {
  TWELVEX_NEED(p.quantised != nullptr, true);
  GemmParams q = p;
  q.x_rows = p.x_rows ? p.x_rows : p.rows;
  q.ldx = q.x_cols = p.x_cols ? p.x_cols : p.cols;
  q.quantise = false;
  for (int s = 0; s < p.num_segments; ++s) q.segments[s].x = p.quantised + (p.segments[s].x - p.segments[0].x);
  return q;
}

void run_gemm(const GemmParams& p) {
  if (p.rows == 0 || p.cols == 0 || (p.tiles != nullptr && p.max_tiles == 0)) return;
  check_shapes(p);
  if (takes_fp8(p)) return run_fp8_gemm(p);
  if (takes_warpgroup(p)) return run_warpgroup_gemm(p);
  const int rows_m = stream_rows(p);
  if (p.quantise && rows_m != 8) return run_gemm(with_quantised_input(p));
  if (rows_m != 0) {
    const StreamPlan plan = plan_stream(p, rows_m);
    if (plan.grid == 0) return;
    const auto run = p.format == WeightFormat::kBF16          ? stream::run_bf16
                     : p.format == WeightFormat::kFp8Block128 ? stream::run_fp8
                                                              : stream::run_fp4;
    return run(p, plan, rows_m);
  }
  const TilePlan plan = plan_tile(p);
  if (plan.grid_n == 0) return;
  const auto run = p.format == WeightFormat::kBF16          ? tile::run_bf16
                   : p.format == WeightFormat::kFp8Block128 ? tile::run_fp8
                                                            : tile::run_fp4;
  run(p, plan);
}

bool run_gemm_beside(const GemmParams& first, const GemmParams& second) {
  const BesidePlan plan = plan_beside(first, second);
  if (plan.grid == 0) {
    run_gemm(first);
    GemmParams behind = second;
    behind.fresh_tiles = false;
    run_gemm(behind);
    return false;
  }
  check_shapes(first);
  check_shapes(second);
  stream::run_beside(first, second, plan);
  return true;
}

}  // namespace twelvex::cuda
