// SPDX-License-Identifier: MIT
#include "gemm/fp8_tile.cuh"

namespace twelvex::cuda::fp8 {

void run_fp4(const GemmParams& p, const TilePlan& plan) {
  constexpr WeightFormat kFp4 = WeightFormat::kFp4Group32;
  if (p.paired) {
    plan.rows_m == 64 ? launch<kFp4, 64, true, true>(p, plan) : launch<kFp4, 128, true, true>(p, plan);
  } else {
    plan.rows_m == 64 ? launch<kFp4, 64, false, true>(p, plan) : launch<kFp4, 128, false, true>(p, plan);
  }
}

}  // namespace twelvex::cuda::fp8
