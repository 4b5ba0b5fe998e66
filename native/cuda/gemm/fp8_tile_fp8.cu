// SPDX-License-Identifier: MIT
#include "gemm/fp8_tile.cuh"

namespace twelvex::cuda::fp8 {

void run_fp8(const GemmParams& p, const TilePlan& plan) {
  constexpr WeightFormat kFp8 = WeightFormat::kFp8Block128;
  if (p.paired) {
    plan.rows_m == 64 ? launch<kFp8, 64, true, false>(p, plan) : launch<kFp8, 128, true, false>(p, plan);
  } else {
    plan.rows_m == 64 ? launch<kFp8, 64, false, false>(p, plan) : launch<kFp8, 128, false, false>(p, plan);
  }
}

}  // namespace twelvex::cuda::fp8
