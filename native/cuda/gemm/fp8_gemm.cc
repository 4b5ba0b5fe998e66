// SPDX-License-Identifier: MIT
#include "gemm/fp8_gemm.h"

#include "common/check.h"
#include "gemm/fp8_cells.h"

namespace twelvex::cuda {

// One per weight format: the files that instantiate the kernels.
namespace fp8 {
void run_fp8(const GemmParams& p, const TilePlan& plan);
void run_fp4(const GemmParams& p, const TilePlan& plan);
}  // namespace fp8

namespace {

int input_cols(const GemmParams& p) { return p.x_cols ? p.x_cols : p.cols; }

/// Rows [first, first + rows) of a dense product.
GemmParams rows_of(const GemmParams& p, int first, int rows) {
  GemmParams part = p;
  part.rows = part.x_rows = rows;
  part.x_cols = input_cols(p);
  part.decode_rows = 0;
  if (p.quantised != nullptr) part.quantised += static_cast<int64_t>(first) * part.x_cols;
  for (int s = 0; s < p.num_segments; ++s) {
    GemmSegment& segment = part.segments[s];
    segment.x += static_cast<int64_t>(first) * p.ldx;
    segment.y = static_cast<uint8_t*>(segment.y) + static_cast<int64_t>(first) * segment.ldy * (segment.f32 ? 4 : 2);
  }
  return part;
}

/// The same product on cells of its input.
GemmParams with_cells(const GemmParams& p) {
  TWELVEX_NEED(p.gather == nullptr, true);
  GemmParams q = on_copied_input(p);
  run_quantise_fp8(
      {.rows = q.x_rows, .cols = q.x_cols, .ldx = p.ldx, .x = p.segments[0].x, .y = p.quantised, .stream = p.stream});
  q.x_fp8 = true;
  return q;
}

void run_tiles(const GemmParams& p) {
  TWELVEX_NEED(p.cols % kScaleBlock, 0);
  TWELVEX_NEED(p.ldx % kScaleBlock, 0);
  const TilePlan plan = plan_fp8(p);
  if (plan.grid_n == 0) return;
  (p.format == WeightFormat::kFp8Block128 ? fp8::run_fp8 : fp8::run_fp4)(p, plan);
}

}  // namespace

void run_fp8_gemm(const GemmParams& p) {
  if (p.tiles != nullptr) return run_tiles(p.x_fp8 ? p : with_cells(p));
  if (p.decode_rows > 0) {
    GemmParams decode = rows_of(p, 0, p.decode_rows);
    decode.arch = 0;
    decode.x_fp8 = false;
    run_gemm(decode);
  }
  const GemmParams rest = rows_of(p, p.decode_rows, p.rows - p.decode_rows);
  run_tiles(p.x_fp8 ? rest : with_cells(rest));
}

}  // namespace twelvex::cuda
