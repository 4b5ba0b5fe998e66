// SPDX-License-Identifier: MIT
// mHC of few tokens in one launch, by a cluster of blocks: hyper_cluster.cuh says who does what when.
#include "hyper/hyper_cluster.h"

#include "common/check.h"
#include "common/device.h"
#include "hyper/hyper_cluster.cuh"
#include "moe/route.h"

namespace twelvex::cuda {

namespace {

using namespace hyper_cluster;

// Two blocks' registers on a multiprocessor of sm_90, which alone runs it: a product's beside it.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ == 900
constexpr int kBlocksPerMultiprocessor = 2;
#else
constexpr int kBlocksPerMultiprocessor = 1;
#endif

template <bool kRoutes>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
    hyper_cluster_kernel(const __grid_constant__ HyperParams p, const __grid_constant__ CrossingRouterParams router_params) {
  extern __shared__ __align__(128) uint8_t shared[];
  Cluster c(p, shared);
  CrossingRouter router(router_params, shared + shared_bytes(1, true) - sizeof(CrossingRouter::Smem), c.s.fn[0][1], c.rank);
  if constexpr (kRoutes) router.init_barriers();
  c.begin();
  const int warp = c.warp, lane = c.lane;
  uint4 held[kHeld][kFnVectors];
#pragma unroll
  for (int k = 0; k < kHeld; ++k)
#pragma unroll
    for (int i = 0; i < kFnVectors; ++i)
      held[k][i] = __ldg(c.fn_of(c.slice, k) + (warp % kSliceWarps * kFnVectors + i) * 32 + lane);
  c.load_norm();
  // A warp has a stream of a token.
  const int token = warp / kStreams, stream = warp % kStreams;
  if (p.leave) {
    if (token < p.tokens) cp_async_16(smem_address(c.old_at(token, stream)), c.streams_at(token, stream));
    if (warp >= kWarps - p.tokens) {
      const int mine = warp - (kWarps - p.tokens);
      TokenSmem& t = c.tokens[mine];
      if (p.parts.tokens > 0 && lane < p.parts.picks) t.rows[lane] = p.parts.row_of_slot[mine * p.parts.picks + lane];
      if (lane == 0) make_comb(late_comb(p), mine, t.kept);
    }
  }
  const Cluster::Sum sum = c.sum_of(threadIdx.x);
  const float base = p.base[lane / 8], scale = p.scale[0];
  if (p.leave) {
    cp_async_wait_all();
    __syncthreads();
  }
  wait_for_previous_kernel();
  let_next_kernel_start();
  if (!kRoutes && p.ready != nullptr && c.rank == 0 && threadIdx.x == 0) *p.ready = 0;
  if (p.parts.picks > 0) {
    c.combine();
    __syncthreads();
  }
  if (token < p.tokens) {
    if (p.leave) {
      c.leave(token, stream);
    } else {
      cp_async_16(smem_address(c.shared_at(token, stream)), c.streams_at(token, stream));
    }
  }
  cp_async_wait_all();
  __syncthreads();
  if (kRoutes) router.fetch();
  float acc[2][4] = {};
  c.multiply(held, acc);
  if (warp < p.tokens) c.sum_squares(warp);
  c.keep_sums(acc);
  __syncthreads();
  cluster_wait();
  if (threadIdx.x < p.tokens * Cluster::kSends) c.send_sum(sum);
#pragma unroll 1
  for (int i = threadIdx.x + kThreads; i < p.tokens * Cluster::kSends; i += kThreads) c.send_sum(c.sum_of(i));
  if constexpr (kRoutes) {
    router.hold();
    if (warp == 0) {
      c.finish(0, base, scale, &router);
      router.hold_first();
    } else if (warp == CrossingRouter::kChooser) {
      router.look_up();
    } else if (warp == kWarps - 1 && c.rank == 0) {
      c.keep_mix();
    }
    router.run();
  } else {
    if (warp < p.tokens) c.finish(warp, base, scale, nullptr);
    if (warp == kWarps - 1 && c.rank < p.tokens) c.keep_mix();
  }
}

template <bool kRoutes>
void run(const HyperParams& p, const CrossingRouterParams& router, cudaStream_t queue) {
  const auto kernel = hyper_cluster_kernel<kRoutes>;
  allow_shared_bytes(kernel, static_cast<int>(shared_bytes(kRoutes ? 1 : kHyperClusterTokens, kRoutes)));
  const LaunchShape shape = {.grid = kBlocks, .block = kThreads, .shared_bytes = shared_bytes(p.tokens, kRoutes), .stream = queue,
                             .cluster = kBlocks, .carveout = shared_carveout(164, kClusterArch)};
  launch_dependent(shape, kernel, p, router);
}

}  // namespace

void run_hyper_cluster(const HyperParams& p, cudaStream_t queue) { run<false>(p, {}, queue); }

void run_hyper_and_route(const HyperParams& p, const CrossingRouterParams& router, cudaStream_t queue) {
  TWELVEX_NEED(p.tokens, 1);
  TWELVEX_NEED(p.ready != nullptr, true);
  check_shapes(router.route);
  run<true>(p, router, queue);
}

}  // namespace twelvex::cuda
