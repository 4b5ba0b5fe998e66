// SPDX-License-Identifier: MIT
#include "gemm/stream_launch.cuh"

namespace twelvex::cuda::stream {

void run_fp8(const GemmParams& p, const StreamPlan& plan, int tile_rows_m) {
  constexpr WeightFormat kFp8 = WeightFormat::kFp8Block128;
  if (p.paired) {
    launch<kFp8, 1, true, false>(p, plan);
  } else {
    tile_rows_m == 8 ? launch<kFp8, 1, false, false>(p, plan) : launch<kFp8, 2, false, false>(p, plan);
  }
}

}  // namespace twelvex::cuda::stream
