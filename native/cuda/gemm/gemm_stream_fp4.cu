// SPDX-License-Identifier: MIT
#include "gemm/stream_launch.cuh"

namespace twelvex::cuda::stream {

void run_fp4(const GemmParams& p, const StreamPlan& plan, int) {
  constexpr WeightFormat kFp4 = WeightFormat::kFp4Group32;
  p.paired ? launch<kFp4, 1, true, true>(p, plan) : launch<kFp4, 1, false, true>(p, plan);
}

}  // namespace twelvex::cuda::stream
