// SPDX-License-Identifier: MIT
// What served numerics and fp8 rows cost on the demo, apart from what a small difference does to choices: a router's near-tie
// that falls otherwise changes a token by far more than the rounding that tipped it. With the experts that exact arithmetic
// chooses, the divergence is the formats' own and says whether something is rounded more than the specification asks.
#include <cstdio>

#include "bare_model.h"
#include "check.h"
#include "cpu/cpu_ops.h"
#include "likeness.h"
#include "oracle_truth.h"

namespace {

using namespace twelvex;
using namespace twelvex::check;
using namespace twelvex::test;

const std::string kRoot = TWELVEX_ROOT;

/// The CPU backend, writing down which experts it chooses or taking those of another.
class ChoosingOps : public cpu::CpuOps {
 public:
  using CpuOps::CpuOps;
  using Choices = std::vector<std::vector<int32_t>>;  // [call of route] -> [T, K]

  Batch begin_step(const StepInput& input) override {
    call_ = 0;
    return CpuOps::begin_step(input);
  }

  void route(const Batch& batch, const MoeWeights& weights, Array hidden, Array routing) override {
    CpuOps::route(batch, weights, hidden, routing);
    const int picks = config_.experts_per_token, count = batch.tokens * picks;
    auto* ids = static_cast<int32_t*>(routing.data);
    if (followed == nullptr) {
      chosen.emplace_back(ids, ids + count);
      return;
    }
    const std::vector<int32_t>& theirs = followed->at(call_++);
    float* shares = cpu::floats_of(routing) + count;
    for (int token = 0; token < batch.tokens; ++token) {
      const float* scores = scratch_.router + static_cast<int64_t>(token) * config_.num_experts;
      const int first = token * picks, end = first + picks;
      float total = 0;
      for (int k = first; k < end; ++k) total += scores[ids[k] = theirs[static_cast<size_t>(k)]];
      for (int k = first; k < end; ++k) shares[k] = scores[ids[k]] / total * config_.routed_scaling_factor;
    }
  }

  Choices chosen;
  const Choices* followed = nullptr;

 private:
  size_t call_ = 0;
};

using ChoosingModel = BareModel<ChoosingOps>;

BareOptions options(Numerics numerics, RowFormat rows) {
  BareOptions o;
  o.numerics = numerics;
  o.rows = rows;
  o.stream_element_bytes = sizeof(float);
  o.limits = {.step_tokens = 640, .rows = 1, .context_tokens = 640, .logit_slice = 128};
  return o;
}

std::vector<float> logits_of(ChoosingModel& model, const Truth& truth) {
  return model.prefill(truth.tokens, 0, static_cast<int>(truth.tokens.size()), kRowAllLogits).logits;
}

TEST("with the experts that exact arithmetic chooses, served numerics cost what their formats cost") {
  ChoosingModel exact(kRoot + "/models/demo", options(Numerics::kExact, RowFormat::kF32));
  ChoosingModel served(kRoot + "/models/demo", options(Numerics::kServed, RowFormat::kFp8));
  Likeness to_exact, to_truth, own;
  for (const Truth& truth : read_truth(kRoot + "/test/oracle/demo")) {
    exact.ops.chosen.clear();
    const std::vector<float> want = logits_of(exact, truth);
    served.ops.followed = nullptr;
    own = own + compare(logits_of(served, truth), truth.logits, truth.vocab);
    served.ops.followed = &exact.ops.chosen;
    const std::vector<float> got = logits_of(served, truth);
    to_exact = to_exact + compare(got, want, truth.vocab);
    to_truth = to_truth + compare(got, truth.logits, truth.vocab);
  }
  std::printf("    beside the ground truth, own experts: %s\n", describe_to_truth(own).c_str());
  std::printf("    beside the ground truth, exact's experts: %s\n", describe(to_truth).c_str());
  std::printf("    beside exact, exact's experts: %s\n", describe(to_exact).c_str());
  // With scales drawn at random 4.5e-3 on average and at most 5.8e-3; at least 7.3e-3 when everything is rounded twice, 1.1e-2
  // when it is rounded towards zero (bench/results/2026-11-22-numerics.md).
  CHECK(to_exact.mean_kl() <= 6.5e-3);
  CHECK(to_exact.kl > 0);
  CHECK(to_exact.decisive_at_least(0.99));
  CHECK(to_truth.decisive_at_least(0.97));
}

}  // namespace
