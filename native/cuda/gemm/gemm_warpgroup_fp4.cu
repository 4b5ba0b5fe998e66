// SPDX-License-Identifier: MIT
#include "gemm/gemm_warpgroup.cuh"

namespace twelvex::cuda::warpgroup {

void run_fp4(const GemmParams& p, const TilePlan& plan) {
  p.paired ? launch<WeightFormat::kFp4Group32, true, true>(p, plan) : launch<WeightFormat::kFp4Group32, false, true>(p, plan);
}

}  // namespace twelvex::cuda::warpgroup
