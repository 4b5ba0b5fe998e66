// SPDX-License-Identifier: MIT
// Router of few tokens in one launch of one cluster: product, choice and dispatch (sm_90).
#pragma once

#include <cuda_bf16.h>

#include "moe/dispatch.h"

namespace twelvex::cuda {

struct GateParams {
  const uint8_t* weights = nullptr;         // prepared bf16 [E, D] (weight_layout.h)
  const __nv_bfloat16* hidden = nullptr;    // [T, D]
  int cols = 0;                             // D
  bool clusters = false;                    // the device runs them (common/clusters.h)
};

inline constexpr int kRouteClusterExperts = 256, kRouteClusterCols = 4096, kRouteClusterTokens = 4, kRouteClusterSlots = 32;

/// A pure function of the shape. The same bits either way.
inline bool takes_cluster(const GateParams& gate, const RouteParams& route) {
  return gate.clusters && gate.cols == kRouteClusterCols && route.experts == kRouteClusterExperts &&
         route.tokens <= kRouteClusterTokens && route.tokens * route.picks <= kRouteClusterSlots;
}
/// What the product, run_route and run_dispatch leave, but the logits.
void run_route_cluster(const GateParams& gate, const RouteParams& route, const DispatchParams& dispatch);

}  // namespace twelvex::cuda
