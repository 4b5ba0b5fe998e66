// SPDX-License-Identifier: MIT
// Router: logits of all experts -> the experts and weights of every token (spec/checkpoint.md, "Router").
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace twelvex::cuda {

inline constexpr int kMaxExperts = 512;
inline constexpr int kMaxPicks = 16;

struct RouteParams {
  int tokens = 0;                      // T
  int experts = 0;                     // E <= kMaxExperts
  int picks = 0;                       // K <= kMaxPicks
  float scale = 1;                     // routed_scaling_factor
  const float* logits = nullptr;       // [T, E]
  const float* bias = nullptr;         // [E]; scored layers
  const int32_t* table = nullptr;      // [V, K]; hash layers, else null
  const int32_t* token_id = nullptr;   // [T]; hash layers
  const int32_t* token_row = nullptr;  // [T]; negative: padding, which goes to no expert. Null: none is padding
  int32_t* ids = nullptr;              // [T, K]; -1 for padding
  float* weights = nullptr;            // [T, K]
  cudaStream_t stream = nullptr;
};
void run_route(const RouteParams& params);

}  // namespace twelvex::cuda
