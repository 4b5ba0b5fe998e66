// SPDX-License-Identifier: MIT
// Two products in one launch: two launches would each pay for their first loads and their ends.
#include <algorithm>

#include "gemm/gemm_stream.cuh"

namespace twelvex::cuda::stream {

namespace {

// The first blocks multiply the fp8 weights, the others those of kFormat; early, these are divided among all blocks, and who has
// multiplied fp8 weights before gets fewer.
template <WeightFormat kFormat, bool kPaired, bool kGrouped>
__global__ void __launch_bounds__(stream_warps(8) * 32, stream_residents(kFormat, 8))
    gemm_stream_beside_kernel(const __grid_constant__ GemmParams first, const __grid_constant__ GemmParams second,
                              const __grid_constant__ BesidePlan plan) {
  extern __shared__ float partial_sums[];
  constexpr int kResidents = stream_residents(kFormat, 8);
  const int block = static_cast<int>(blockIdx.x);
  if (block < plan.first_blocks) {
    Stream<WeightFormat::kFp8Block128, 1, kPaired, false, kResidents>(first, plan.first, partial_sums)
        .run(block, plan.early);
    if (!plan.early) return;
    __syncthreads();  // the sums' place is used again
  }
  const int begin = plan.early ? 0 : plan.first_blocks;
  Stream<kFormat, 1, kPaired, kGrouped, kResidents>(second, plan.second, partial_sums)
      .run(block - begin, false);
}

}  // namespace

void run_beside(const GemmParams& first, const GemmParams& second, const BesidePlan& plan) {
  const auto kernel = second.tiles == nullptr ? gemm_stream_beside_kernel<WeightFormat::kBF16, false, false>
                      : second.paired         ? gemm_stream_beside_kernel<WeightFormat::kFp4Group32, true, true>
                                              : gemm_stream_beside_kernel<WeightFormat::kFp4Group32, false, true>;
  const int bytes = std::max(plan.first.smem_bytes, plan.second.smem_bytes);
  allow_shared_bytes(kernel, bytes);
  launch_dependent({plan.grid, stream_warps(8) * 32, static_cast<size_t>(bytes), first.stream}, kernel, first, second, plan);
}

}  // namespace twelvex::cuda::stream
