// SPDX-License-Identifier: MIT
// The choice of one token by a warp, from scores sqrt(softplus(logit)). Weights are the unbiased scores over their sum in pick
// order, times the scale; all f32.
#pragma once

#include "common/check.h"
#include "common/ordered_key.cuh"
#include "common/reduce.cuh"
#include "moe/route.h"

namespace twelvex::cuda {

__device__ __forceinline__ float sqrt_softplus(float x) { return sqrtf(x > 20.0f ? x : log1pf(expf(x))); }

/// score(e) + bias[e] as an integer of the same order; 0: no expert, or taken.
__device__ __forceinline__ uint32_t choice_key(float biased) { return max(ordered_key(biased), 1u); }

/// Lane k gets the expert of pick k: the largest key, ties to the lower id. Experts are spread over the lanes, kPerLane each;
/// key(i): of expert 32 i + lane, of which a warp finds the largest in one instruction.
template <int kPerLane, class Key>
__device__ __forceinline__ int choose_experts(int picks, const Key& key) {
  const int lane = threadIdx.x % 32;
  uint32_t keys[kPerLane];
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) keys[i] = key(i);
  int mine = -1;
  for (int k = 0; k < picks; ++k) {
    uint32_t top = 0;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) top = max(top, keys[i]);
    top = __reduce_max_sync(kFullWarp, top);
    uint32_t id = UINT32_MAX;
#pragma unroll
    for (int i = kPerLane - 1; i >= 0; --i) {
      if (keys[i] == top) id = i * 32 + lane;
    }
    id = __reduce_min_sync(kFullWarp, id);
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      if (static_cast<int>(id) == i * 32 + lane) keys[i] = 0;
    }
    if (lane == k) mine = static_cast<int>(id);
  }
  return mine;
}

/// By a warp; score(e): the unbiased score of expert e for this token.
template <class Score>
__device__ __forceinline__ void route_token(const RouteParams& p, int token, const Score& score) {
  const int lane = threadIdx.x % 32;
  int32_t* ids = p.ids + static_cast<int64_t>(token) * p.picks;
  float* weights = p.weights + static_cast<int64_t>(token) * p.picks;
  if (p.token_row != nullptr && p.token_row[token] < 0) {
    if (lane < p.picks) ids[lane] = -1, weights[lane] = 0;
    return;
  }
  int my_id = -1;  // lane k holds pick k
  if (p.table != nullptr) {
    if (lane < p.picks) my_id = p.table[static_cast<int64_t>(p.token_id[token]) * p.picks + lane];
  } else {
    const auto key = [&](int i) {
      const int e = i * 32 + lane;
      return e < p.experts ? choice_key(score(e) + p.bias[e]) : 0;
    };
    my_id = p.experts <= kMaxExperts / 2 ? choose_experts<kMaxExperts / 64>(p.picks, key)
                                         : choose_experts<kMaxExperts / 32>(p.picks, key);
  }
  const float mine = my_id >= 0 ? score(my_id) : 0;
  float total = 0;
  for (int k = 0; k < p.picks; ++k) total += __shfl_sync(kFullWarp, mine, k);
  if (lane < p.picks) {
    ids[lane] = my_id;
    weights[lane] = mine / (total + 1e-20f) * p.scale;
  }
}

inline void check_shapes(const RouteParams& p) {
  TWELVEX_NEED_LE(p.experts, kMaxExperts);
  TWELVEX_NEED_LE(p.picks, kMaxPicks);
  TWELVEX_NEED_LE(p.picks, p.experts);
}

}  // namespace twelvex::cuda
