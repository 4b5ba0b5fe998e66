// SPDX-License-Identifier: MIT
#include "gemm/gemm_tile.cuh"

namespace twelvex::cuda::tile {

void run_bf16(const GemmParams& p, const TilePlan& plan) {
  constexpr WeightFormat kBf16 = WeightFormat::kBF16;
  plan.rows_m == 32   ? launch<kBf16, 32, false, false>(p, plan)
  : plan.rows_m == 64 ? launch<kBf16, 64, false, false>(p, plan)
                      : launch<kBf16, 128, false, false>(p, plan);
}

}  // namespace twelvex::cuda::tile
