// SPDX-License-Identifier: MIT
#include "gemm/gemm_warpgroup.cuh"

namespace twelvex::cuda::warpgroup {

void run_bf16(const GemmParams& p, const TilePlan& plan) {
  launch<WeightFormat::kBF16, false, false>(p, plan);
}

}  // namespace twelvex::cuda::warpgroup
