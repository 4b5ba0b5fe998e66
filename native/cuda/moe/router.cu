// SPDX-License-Identifier: MIT
// Logits, choice and dispatch of few tokens in one launch: the block that ends last goes on with what all have written.
#include "gemm/gemm_stream.cuh"
#include "moe/dispatch_small.cuh"
#include "moe/route_token.cuh"

namespace twelvex::cuda {

namespace {

constexpr int kThreads = stream_warps(8) * 32;
static_assert(kThreads == kSmallThreads && kThreads / 32 >= kRouteDispatchTokens);

/// Whether this is the last block to come here; `arrived` is 0 again then, and what the others have written is visible.
__device__ bool last_to_arrive(uint32_t* arrived) {
  __shared__ bool last;
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    last = atomicAdd(arrived, 1) + 1 == gridDim.x;
    if (last) *arrived = 0;
    __threadfence();
  }
  __syncthreads();
  return last;
}

__global__ void __launch_bounds__(kThreads, 1)
    router_kernel(const __grid_constant__ GemmParams gate, const __grid_constant__ StreamPlan plan,
                  const __grid_constant__ RouteParams route, const __grid_constant__ DispatchParams dispatch, uint32_t* arrived) {
  extern __shared__ float partial_sums[];
  stream::Stream<WeightFormat::kBF16, 1, false, false>(gate, plan).run(partial_sums, blockIdx.x, gridDim.x);
  if (!last_to_arrive(arrived)) return;
  const int token = threadIdx.x / 32;
  if (token < route.tokens) route_token(route, token, threadIdx.x % 32);
  __syncthreads();
  __shared__ SmallDispatch memory;
  dispatch_small(dispatch, memory);
}

}  // namespace

bool takes_router(const GemmParams& gate) {
  return gate.format == WeightFormat::kBF16 && gate.rows > 0 && stream_rows(gate) == 8 && plan_stream(gate, 8).grid > 0;
}

void run_router(const GemmParams& gate, const RouteParams& route, const DispatchParams& dispatch, uint32_t* arrived) {
  TWELVEX_NEED(takes_router(gate), true);
  TWELVEX_NEED_LE(route.tokens, kRouteDispatchTokens);
  check_shapes(route);
  const StreamPlan plan = plan_stream(gate, 8);
  allow_shared_bytes(router_kernel, plan.smem_bytes);
  launch_dependent({plan.grid, kThreads, static_cast<size_t>(plan.smem_bytes), gate.stream}, router_kernel, gate, plan, route,
                   dispatch, arrived);
}

}  // namespace twelvex::cuda
