// SPDX-License-Identifier: MIT
// Sorts a step's (token, pick) slots by expert, stably, on the device: no host round trip and always the same order.
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>

#include "gemm/gemm.h"
#include "moe/route.h"

namespace twelvex::cuda {

struct DispatchParams {
  int slots = 0;                       // S = T * K
  int picks = 0;                       // K
  int experts = 0;                     // E
  int tile_rows = 0;                   // rows of a group tile (gemm.h)
  const int32_t* ids = nullptr;        // [T, K]; negative: no expert
  const float* weights = nullptr;      // [T, K]
  int32_t* sorted_token = nullptr;     // [S] token of each sorted row
  float* sorted_weight = nullptr;      // [S] its routing weight
  int32_t* row_of_slot = nullptr;      // [S] sorted row of each slot, -1: none
  int32_t* begin = nullptr;            // [E + 1] first sorted row of each expert
  GroupTile* tiles = nullptr;          // [max_group_tiles]
  int32_t* tile_count = nullptr;       // [1]
  cudaStream_t stream = nullptr;
};
void run_dispatch(const DispatchParams& params);

/// Both in one launch, of few tokens.
inline constexpr int kRouteDispatchTokens = 16;
void run_route_and_dispatch(const RouteParams& route, const DispatchParams& dispatch);

/// Most tiles that any distribution of `slots` rows over `experts` can need.
inline int max_group_tiles(int slots, int experts, int tile_rows) {
  return std::min(slots, slots / tile_rows + std::min(slots, experts));
}

}  // namespace twelvex::cuda
