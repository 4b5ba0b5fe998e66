// SPDX-License-Identifier: MIT
#include "gemm/warpgroup_gemm.h"

#include "common/check.h"
#include "gemm/quantise.h"

namespace twelvex::cuda {

// One per weight format: the files that instantiate the kernels.
namespace warpgroup {
void run_bf16(const GemmParams& p, const TilePlan& plan);
void run_fp8(const GemmParams& p, const TilePlan& plan);
void run_fp4(const GemmParams& p, const TilePlan& plan);
}  // namespace warpgroup

namespace {

/// The same product on a copy of its input in operand order, rounded where the numerics ask for it.
GemmParams with_ordered_input(const GemmParams& p) {
  TWELVEX_NEED(p.gather == nullptr, true);
  GemmParams q = p;
  const int rows = p.x_rows ? p.x_rows : p.rows, cols = p.x_cols ? p.x_cols : p.cols;
  const __nv_bfloat16* from = p.segments[0].x;
  run_quantise({.rows = rows, .cols = cols, .ldx = p.ldx, .x = from, .y = p.quantised, .round = p.quantise,
                .operand_order = true, .stream = p.stream});
  for (int s = 0; s < p.num_segments; ++s) q.segments[s].x = p.quantised + (p.segments[s].x - from);
  q.ldx = cols;
  q.quantise = false;
  q.x_ordered = true;
  return q;
}

}  // namespace

void run_warpgroup_gemm(const GemmParams& p) {
  if (!p.x_ordered) return run_warpgroup_gemm(with_ordered_input(p));
  const TilePlan plan = plan_warpgroup(p);
  if (plan.grid_n == 0) return;
  const auto run = p.format == WeightFormat::kBF16          ? warpgroup::run_bf16
                   : p.format == WeightFormat::kFp8Block128 ? warpgroup::run_fp8
                                                            : warpgroup::run_fp4;
  run(p, plan);
}

}  // namespace twelvex::cuda
