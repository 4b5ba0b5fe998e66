// SPDX-License-Identifier: MIT
// An experts' product and a dense one in one launch: two launches would each pay for their first loads and their ends.
#include <algorithm>

#include "gemm/gemm_stream.cuh"

namespace twelvex::cuda::stream {

namespace {

// The first blocks multiply the dense weights, the others the experts'.
template <bool kPaired>
__global__ void __launch_bounds__(stream_warps(8) * 32, 1)
    gemm_stream_beside_kernel(const __grid_constant__ GemmParams grouped, const __grid_constant__ GemmParams dense,
                              const __grid_constant__ BesidePlan plan) {
  extern __shared__ float partial_sums[];
  const int block = static_cast<int>(blockIdx.x);
  if (block < plan.dense_blocks) {
    Stream<WeightFormat::kFp8Block128, 1, kPaired, false>(dense, plan.dense).run(partial_sums, block, plan.dense_blocks);
  } else {
    Stream<WeightFormat::kFp4Group32, 1, kPaired, true>(grouped, plan.grouped)
        .run(partial_sums, block - plan.dense_blocks, plan.grid - plan.dense_blocks);
  }
}

}  // namespace

void run_beside(const GemmParams& grouped, const GemmParams& dense, const BesidePlan& plan) {
  const auto kernel = grouped.paired ? gemm_stream_beside_kernel<true> : gemm_stream_beside_kernel<false>;
  const int bytes = std::max(plan.grouped.smem_bytes, plan.dense.smem_bytes);
  allow_shared_bytes(kernel, bytes);
  launch_dependent({plan.grid, stream_warps(8) * 32, static_cast<size_t>(bytes), grouped.stream}, kernel, grouped, dense, plan);
}

}  // namespace twelvex::cuda::stream
