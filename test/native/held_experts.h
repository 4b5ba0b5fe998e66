// SPDX-License-Identifier: MIT
// Experts chosen by one forward pass, held in another: a router's near-tie that falls otherwise changes a token by far more than
// the rounding that tipped it, so two passes are compared as arithmetic only when they choose alike.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/cpu_ops.h"

namespace twelvex::test {

/// [call of route] -> [T, K]
using ExpertChoices = std::vector<std::vector<int32_t>>;

/// A call of route, in host memory.
struct HeldRoute {
  int tokens = 0, experts = 0, picks = 0;
  float scale = 1;                 // routed_scaling_factor
  const float* scores = nullptr;   // [T, E] sqrt(softplus(logit))
  int32_t* ids = nullptr;          // [T, K]
  float* weights = nullptr;        // [T, K]

  /// Takes these experts, with the weights that the own scores give them.
  void take(const std::vector<int32_t>& theirs) const {
    for (int token = 0; token < tokens; ++token) {
      const float* score = scores + static_cast<int64_t>(token) * experts;
      const int first = token * picks, end = first + picks;
      float total = 0;
      for (int k = first; k < end; ++k) total += score[ids[k] = theirs[static_cast<size_t>(k)]];
      for (int k = first; k < end; ++k) weights[k] = score[ids[k]] / total * scale;
    }
  }
};

/// The CPU backend, writing down which experts it chooses, or with `held` taking those.
class ChoosingOps : public cpu::CpuOps {
 public:
  using CpuOps::CpuOps;

  Batch begin_step(const StepInput& input) override {
    call_ = 0;
    return CpuOps::begin_step(input);
  }

  void route(const Batch& batch, const MoeWeights& weights, Array hidden, Array routing) override {
    CpuOps::route(batch, weights, hidden, routing);
    const int count = batch.tokens * config_.experts_per_token;
    auto* ids = static_cast<int32_t*>(routing.data);
    if (held == nullptr) {
      chosen.emplace_back(ids, ids + count);
      return;
    }
    const HeldRoute own{batch.tokens,    config_.num_experts, config_.experts_per_token, config_.routed_scaling_factor,
                        scratch_.router, ids,                 cpu::floats_of(routing) + count};
    own.take(held->at(call_++));
  }

  ExpertChoices chosen;
  const ExpertChoices* held = nullptr;

 private:
  size_t call_ = 0;
};

}  // namespace twelvex::test
