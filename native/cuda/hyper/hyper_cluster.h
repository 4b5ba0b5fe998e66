// SPDX-License-Identifier: MIT
// Few tokens cross in one launch of one cluster, whose blocks hand each other their sums through shared memory.
#pragma once

#include "hyper/hyper.h"
#include "moe/crossing_router.h"

namespace twelvex::cuda {

inline constexpr int kHyperClusterDim = 4096, kHyperClusterTokens = 4, kHyperClusterBlocks = 16;

/// Whether tokens cross in a cluster, a pure function of the shape. The same bits either way.
inline bool takes_cluster(const HyperParams& p) {
  return p.clusters && p.late_comb && p.dim == kHyperClusterDim && p.tokens <= kHyperClusterTokens;
}

void run_hyper_cluster(const HyperParams& params, cudaStream_t queue);

/// One token crosses to the experts, and is routed: what run_hyper, run_route and run_dispatch leave. `params.ready` counts to
/// kHyperClusterBlocks; whoever reads the hidden states may do so then, before the launch ends.
void run_hyper_and_route(const HyperParams& params, const CrossingRouterParams& router, cudaStream_t queue);

}  // namespace twelvex::cuda
