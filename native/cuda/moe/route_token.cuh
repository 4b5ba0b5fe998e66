// SPDX-License-Identifier: MIT
// The choice of one token by a warp. Scores sqrt(softplus(logit)) are spread over the lanes; K times the warp finds the largest
// biased score (ties to the lower id). Weights are the unbiased scores over their sum in pick order, times the scale; all f32.
#pragma once

#include "common/check.h"
#include "common/reduce.cuh"
#include "moe/route.h"

namespace twelvex::cuda {

inline constexpr int kExpertsPerLane = kMaxExperts / 32;

__device__ __forceinline__ float sqrt_softplus(float x) { return sqrtf(x > 20.0f ? x : log1pf(expf(x))); }

/// The larger score, the lower id among equals; negative ids lose.
__device__ __forceinline__ void keep_better(float& score, int& id, float other_score, int other_id) {
  const bool better = other_id >= 0 && (id < 0 || other_score > score || (other_score == score && other_id < id));
  if (better) score = other_score, id = other_id;
}

/// By a warp.
__device__ __forceinline__ void route_token(const RouteParams& p, int token, int lane) {
  int32_t* ids = p.ids + static_cast<int64_t>(token) * p.picks;
  float* weights = p.weights + static_cast<int64_t>(token) * p.picks;
  if (p.token_row != nullptr && p.token_row[token] < 0) {
    if (lane < p.picks) ids[lane] = -1, weights[lane] = 0;
    return;
  }
  const float* logits = p.logits + static_cast<int64_t>(token) * p.experts;
  int my_id = -1;  // lane k holds pick k
  if (p.table != nullptr) {
    if (lane < p.picks) my_id = p.table[static_cast<int64_t>(p.token_id[token]) * p.picks + lane];
  } else {
    float biased[kExpertsPerLane];
    uint32_t taken = 0;
#pragma unroll
    for (int i = 0; i < kExpertsPerLane; ++i) {
      const int e = i * 32 + lane;
      biased[i] = e < p.experts ? sqrt_softplus(logits[e]) + p.bias[e] : 0;
    }
    for (int k = 0; k < p.picks; ++k) {
      float best = 0;
      int best_id = -1;
#pragma unroll
      for (int i = 0; i < kExpertsPerLane; ++i) {
        const int e = i * 32 + lane;
        keep_better(best, best_id, biased[i], e < p.experts && (taken >> i & 1) == 0 ? e : -1);
      }
#pragma unroll
      for (int d = 16; d > 0; d >>= 1) {
        const float other = __shfl_xor_sync(kFullWarp, best, d);
        const int other_id = __shfl_xor_sync(kFullWarp, best_id, d);
        keep_better(best, best_id, other, other_id);
      }
      if (best_id % 32 == lane) taken |= 1u << (best_id / 32);
      if (lane == k) my_id = best_id;
    }
  }
  const float score = my_id >= 0 ? sqrt_softplus(logits[my_id]) : 0;
  float total = 0;
  for (int k = 0; k < p.picks; ++k) total += __shfl_sync(kFullWarp, score, k);
  if (lane < p.picks) {
    ids[lane] = my_id;
    weights[lane] = score / (total + 1e-20f) * p.scale;
  }
}

inline void check_shapes(const RouteParams& p) {
  TWELVEX_NEED_LE(p.experts, kMaxExperts);
  TWELVEX_NEED_LE(p.picks, kMaxPicks);
  TWELVEX_NEED_LE(p.picks, p.experts);
}

}  // namespace twelvex::cuda
