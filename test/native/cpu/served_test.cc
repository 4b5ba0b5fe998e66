// SPDX-License-Identifier: MIT
// What served numerics and fp8 rows cost on the demo, apart from what a small difference does to choices (held_experts.h). With
// the experts that exact arithmetic chooses, the divergence is the formats' own and says whether something is rounded more than
// the specification asks.
#include <cstdio>

#include "bare_model.h"
#include "check.h"
#include "held_experts.h"
#include "likeness.h"
#include "oracle_truth.h"

namespace {

using namespace twelvex;
using namespace twelvex::check;
using namespace twelvex::test;

const std::string kRoot = TWELVEX_ROOT;

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
    served.ops.held = nullptr;
    own = own + compare(logits_of(served, truth), truth.logits, truth.vocab);
    served.ops.held = &exact.ops.chosen;
    const std::vector<float> got = logits_of(served, truth);
    to_exact = to_exact + compare(got, want, truth.vocab);
    to_truth = to_truth + compare(got, truth.logits, truth.vocab);
  }
  std::printf("    beside the ground truth, own experts: %s\n", describe_to_truth(own).c_str());
  std::printf("    beside the ground truth, exact's experts: %s\n", describe(to_truth).c_str());
  std::printf("    beside exact, exact's experts: %s\n", describe(to_exact).c_str());
  CHECK(to_exact.mean_kl() <= kHeldDivergence);
  CHECK(to_exact.kl > 0);
  CHECK(to_exact.decisive_at_least(0.99));
  CHECK(to_truth.decisive_at_least(0.97));
}

}  // namespace
