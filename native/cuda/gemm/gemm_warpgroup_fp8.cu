// SPDX-License-Identifier: MIT
#include "gemm/gemm_warpgroup.cuh"

namespace twelvex::cuda::warpgroup {

void run_fp8(const GemmParams& p, const TilePlan& plan) {
  p.paired ? launch<WeightFormat::kFp8Block128, true, false>(p, plan) : launch<WeightFormat::kFp8Block128, false, false>(p, plan);
}

}  // namespace twelvex::cuda::warpgroup
