// SPDX-License-Identifier: MIT
#include "gemm/fp8_tile.cuh"

namespace twelvex::cuda::fp8 {

void run_fp4(const GemmParams& p, const TilePlan& plan) {
  constexpr WeightFormat kFp4 = WeightFormat::kFp4Group32;
  p.paired ? launch<kFp4, kFp8GroupRows, true, true>(p, plan) : launch<kFp4, kFp8GroupRows, false, true>(p, plan);
}

}  // namespace twelvex::cuda::fp8
