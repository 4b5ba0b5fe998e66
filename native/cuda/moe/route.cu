// SPDX-License-Identifier: MIT
// One warp a token. Of few tokens one block then sorts the choices by expert (dispatch.h).
#include "arch/dependent_launch.cuh"
#include "common/check.h"
#include "moe/dispatch_small.cuh"
#include "moe/route_token.cuh"

namespace twelvex::cuda {

namespace {

constexpr int kThreads = 128;

__global__ void __launch_bounds__(kThreads) route_kernel(const RouteParams p) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  const int token = blockIdx.x * (kThreads / 32) + threadIdx.x / 32;
  if (token >= p.tokens) return;
  const float* logits = p.logits + static_cast<int64_t>(token) * p.experts;
  route_token(p, token, [&](int e) { return sqrt_softplus(logits[e]); });
}

__global__ void __launch_bounds__(kSmallThreads) route_dispatch_kernel(const RouteParams p, const DispatchParams dispatch) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  __shared__ SmallDispatch memory;
  __shared__ float scores[kRouteDispatchTokens * kMaxExperts];
  for (int i = threadIdx.x; i < p.tokens * p.experts; i += kSmallThreads) scores[i] = sqrt_softplus(p.logits[i]);
  __syncthreads();
  const int token = threadIdx.x / 32;
  if (token < p.tokens) route_token(p, token, [&](int e) { return scores[token * p.experts + e]; });
  __syncthreads();
  dispatch_small(dispatch, memory);
}

}  // namespace

void run_route(const RouteParams& p) {
  if (p.tokens == 0) return;
  check_shapes(p);
  constexpr int kTokens = kThreads / 32;
  launch_dependent({(p.tokens + kTokens - 1) / kTokens, kThreads, 0, p.stream}, route_kernel, p);
}

void run_route_and_dispatch(const RouteParams& p, const DispatchParams& dispatch) {
  static_assert(kRouteDispatchTokens * 32 <= kSmallThreads && kRouteDispatchTokens * kMaxPicks <= kSmallSlots);
  if (p.tokens == 0) return;
  check_shapes(p);
  TWELVEX_NEED_LE(p.tokens, kRouteDispatchTokens);
  launch_dependent({1, kSmallThreads, 0, p.stream}, route_dispatch_kernel, p, dispatch);
}

}  // namespace twelvex::cuda
