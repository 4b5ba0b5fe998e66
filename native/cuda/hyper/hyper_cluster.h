// SPDX-License-Identifier: MIT
// Few tokens cross in one launch of one cluster, whose blocks hand each other their sums through shared memory.
#pragma once

#include "hyper/hyper.h"

namespace twelvex::cuda {

inline constexpr int kHyperClusterDim = 4096, kHyperClusterTokens = 4;

/// Whether tokens cross in a cluster, a pure function of the shape. The same bits either way.
inline bool takes_cluster(const HyperParams& p) {
  return p.clusters && p.late_comb && p.dim == kHyperClusterDim && p.tokens <= kHyperClusterTokens;
}

void run_hyper_cluster(const HyperParams& params, cudaStream_t queue);

}  // namespace twelvex::cuda
