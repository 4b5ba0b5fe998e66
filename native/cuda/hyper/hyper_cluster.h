// SPDX-License-Identifier: MIT
// Few tokens cross in one launch of one cluster, whose blocks hand each other their sums through shared memory.
#pragma once

#include "common/device.h"
#include "hyper/hyper.h"

#if defined(__CUDACC__)
#define TWELVEX_HYPER_HD __host__ __device__
#else
#define TWELVEX_HYPER_HD
#endif

namespace twelvex::cuda {

inline constexpr int kHyperClusterDim = 4096, kHyperClusterTokens = 4;

/// Whether tokens cross in a cluster, a pure function of the shape. The same bits either way.
inline TWELVEX_HYPER_HD bool takes_cluster(const HyperParams& p) {
  return p.arch == kClusterArch && p.late_comb && p.dim == kHyperClusterDim && p.tokens <= kHyperClusterTokens;
}

/// Iterations on comb that `enter` has done, while others had more to do; `leave` does the rest before it waits.
inline TWELVEX_HYPER_HD int entered_iterations(const HyperParams& p) {
  if (!p.late_comb) return p.sinkhorn_iters;
  const int most = takes_cluster(p) ? 7 : 0;
  return p.sinkhorn_iters < most ? p.sinkhorn_iters : most;
}
/// What `leave` has to do on comb.
inline TWELVEX_HYPER_HD CombRest rest_of_comb(const HyperParams& p) {
  return {p.mix, p.comb_ready ? p.sinkhorn_iters : entered_iterations(p), p.sinkhorn_iters, p.hc_eps};
}
void run_hyper_cluster(const HyperParams& params, cudaStream_t queue);

}  // namespace twelvex::cuda
