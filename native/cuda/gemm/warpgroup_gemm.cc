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
  GemmParams q = on_copied_input(p);
  run_quantise({.rows = q.x_rows, .cols = q.x_cols, .ldx = p.ldx, .x = p.segments[0].x, .y = p.quantised, .round = p.quantise,
                .operand_order = true, .stream = p.stream});
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
