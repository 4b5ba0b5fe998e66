// SPDX-License-Identifier: MIT
// One streaming product (gemm_stream.cuh) as a launch of its own.
#pragma once

#include "gemm/gemm_stream.cuh"

namespace twelvex::cuda::stream {

template <WeightFormat kFormat, int kTilesM, bool kPaired, bool kGrouped>
__global__ void __launch_bounds__(stream_warps(kTilesM * 8) * 32, stream_residents(kFormat, kTilesM * 8))
    gemm_stream_kernel(const __grid_constant__ GemmParams p, const __grid_constant__ StreamPlan plan) {
  extern __shared__ float partial_sums[];
  constexpr int kResidents = stream_residents(kFormat, kTilesM * 8);
  Stream<kFormat, kTilesM, kPaired, kGrouped, kResidents>(p, plan, partial_sums).run(blockIdx.x, false);
}

/// Launches one instance.
template <WeightFormat kFormat, int kTilesM, bool kPaired, bool kGrouped>
void launch(const GemmParams& p, const StreamPlan& plan) {
  const auto kernel = gemm_stream_kernel<kFormat, kTilesM, kPaired, kGrouped>;
  allow_shared_bytes(kernel, plan.smem_bytes);
  const auto bytes = static_cast<size_t>(plan.smem_bytes);
  LaunchShape shape = {plan.grid, stream_warps(kTilesM * 8) * 32, bytes, p.stream};
  // What mHC's cluster takes: its blocks find room beside the last ones of wo_b.
  if (kFormat == WeightFormat::kFp8Block128) shape.carveout = shared_carveout(164, p.arch);
  launch_dependent(shape, kernel, p, plan);
}

}  // namespace twelvex::cuda::stream
