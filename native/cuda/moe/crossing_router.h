// SPDX-License-Identifier: MIT
// The router of one token in the launch in which it crosses to the experts (crossing_router.cuh, sm_90).
#pragma once

#include "moe/dispatch.h"

namespace twelvex::cuda {

inline constexpr int kCrossingExperts = 256, kCrossingCols = 4096;

struct CrossingRouterParams {
  const uint8_t* weights = nullptr;  // prepared bf16 [E, D] (weight_layout.h)
  RouteParams route;                 // without logits
  DispatchParams dispatch;           // without begin, which nobody reads
};

/// Whether the shape is that of the launch; `cols`: D. A pure function, and the same bits either way.
inline bool routes_in_crossing(const RouteParams& route, const DispatchParams& dispatch, int cols) {
  return route.tokens == 1 && route.experts == kCrossingExperts && cols == kCrossingCols && dispatch.tile_rows == 1;
}

}  // namespace twelvex::cuda
