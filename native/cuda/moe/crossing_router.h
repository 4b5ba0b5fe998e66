// SPDX-License-Identifier: MIT
// The router of one token in the launch in which it crosses to the experts (crossing_router.cuh, sm_90).
#pragma once

#include "moe/route_cluster.h"

namespace twelvex::cuda {

struct CrossingRouterParams {
  const uint8_t* weights = nullptr;  // prepared bf16 [E, D] (weight_layout.h)
  RouteParams route;                 // without logits
  DispatchParams dispatch;           // without begin, which nobody reads
};

/// Whether the shape is that of the launch. A pure function, and the same bits either way.
inline bool routes_in_crossing(const GateParams& gate, const RouteParams& route, const DispatchParams& dispatch) {
  return route.tokens == 1 && dispatch.tile_rows == 1 && takes_cluster(gate, route);
}

}  // namespace twelvex::cuda
