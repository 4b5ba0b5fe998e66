// SPDX-License-Identifier: MIT
#include "gemm/stream_launch.cuh"

namespace twelvex::cuda::stream {

void run_bf16(const GemmParams& p, const StreamPlan& plan, int tile_rows_m) {
  constexpr WeightFormat kBf16 = WeightFormat::kBF16;
  tile_rows_m == 8 ? launch<kBf16, 1, false, false>(p, plan) : launch<kBf16, 2, false, false>(p, plan);
}

}  // namespace twelvex::cuda::stream
