// SPDX-License-Identifier: MIT
// The demo model with its products on FP8 tensor cores, forced on any device, against the ground truth of test/oracle and
// against the same model without them. Run from the repository's root.
#include <cmath>

#include "backend.h"
#include "bare_model.h"
#include "choices.h"
#include "gemm/fp8_gemm.h"
#include "held_experts.h"
#include "likeness.h"
#include "moe/dispatch.h"
#include "oracle_truth.h"
#include "support.h"

using namespace twelvex;
using namespace twelvex::test;

namespace {

class Fp8Ops : public cuda::CudaOps {
 public:
  using CudaOps::CudaOps;

  void project_output(const Batch& batch, const AttentionWeights& weights, Array attended, Array output) override {
    fp8_products += cuda::takes_fp8(first_output_product(batch, weights));
    CudaOps::project_output(batch, weights, attended, output);
  }

  int fp8_products = 0;

 protected:
  int product_arch() const override { return 120; }
};

class WideOps : public cuda::CudaOps {
 public:
  using CudaOps::CudaOps;

 protected:
  int product_arch() const override { return wide_arch(); }
};

BareOptions served() {
  BareOptions options;
  options.numerics = Numerics::kServed;
  options.rows = RowFormat::kFp8;
  options.limits.step_tokens = 1024;
  options.limits.rows = 4;
  options.limits.context_tokens = 2048;
  options.limits.logit_slice = 100;
  return options;
}

template <class Operations>
std::vector<float> logits_of(BareModel<Operations>& model, const Truth& truth, int chunk) {
  std::vector<float> logits;
  const int length = static_cast<int>(truth.tokens.size());
  for (int at = 0; at < length; at += chunk) {
    const StepOutput out = model.prefill(truth.tokens, at, std::min(chunk, length - at), kRowAllLogits);
    logits.insert(logits.end(), out.logits.begin(), out.logits.end());
  }
  return logits;
}

/// Operations that take the experts which another pass over the same tokens chose.
template <class Operations>
class HeldOps : public Operations {
 public:
  using Operations::Operations;

  Batch begin_step(const StepInput& input) override {
    call_ = 0;
    return Operations::begin_step(input);
  }

  void route(const Batch& batch, const MoeWeights& weights, Array hidden, Array routing) override {
    Operations::route(batch, weights, hidden, routing);
    const ModelConfig& config = this->config_;
    const int picks = config.experts_per_token, count = batch.tokens * picks;
    check(cudaStreamSynchronize(this->queue_), "route");
    std::vector<float> scores(static_cast<size_t>(batch.tokens * config.num_experts)), shares(static_cast<size_t>(count));
    check(cudaMemcpy(scores.data(), this->scratch_.moe.logits, scores.size() * 4, cudaMemcpyDeviceToHost), "scores");
    for (float& score : scores) score = sqrt_softplus(score);
    std::vector<int32_t> ids(static_cast<size_t>(count));
    const HeldRoute own{batch.tokens,  config.num_experts, picks,        config.routed_scaling_factor,
                        scores.data(), ids.data(),         shares.data()};
    own.take(held->at(call_++));
    auto* to = static_cast<int32_t*>(routing.data);
    check(cudaMemcpy(to, ids.data(), ids.size() * 4, cudaMemcpyHostToDevice), "experts");
    check(cudaMemcpy(to + count, shares.data(), shares.size() * 4, cudaMemcpyHostToDevice), "weights");
    check(cudaStreamSynchronize(nullptr), "weights");  // short copies may be under way
  }

  const ExpertChoices* held = nullptr;

 private:
  size_t call_ = 0;
};

/// With the experts that exact arithmetic chooses, the divergence is that of the formats alone (test/native/cpu/served_test.cc):
/// more than kHeldDivergence would be a rounding more than the specification asks.
void check_formats(const std::vector<Truth>& truths) {
  BareOptions exact = served();
  exact.numerics = Numerics::kExact;
  exact.rows = RowFormat::kF32;
  exact.stream_element_bytes = 4;
  BareModel<ChoosingOps> host("models/demo", exact);
  BareModel<HeldOps<Fp8Ops>> fp8("models/demo", served());
  BareModel<HeldOps<WideOps>> wide("models/demo", served());
  Likeness of_fp8, of_wide;
  for (const Truth& t : truths) {
    // Few tokens are sorted by expert in the launch that chooses: too late to change it.
    if (static_cast<int>(t.tokens.size()) <= cuda::kRouteDispatchTokens) continue;
    host.ops.chosen.clear();
    const std::vector<float> want = logits_of(host, t, 1024);
    fp8.ops.held = wide.ops.held = &host.ops.chosen;
    of_fp8 = of_fp8 + compare(logits_of(fp8, t, 1024), want, t.vocab);
    of_wide = of_wide + compare(logits_of(wide, t, 1024), want, t.vocab);
  }
  const std::string limit = " (limit " + std::to_string(kHeldDivergence) + ")";
  expect(of_fp8.mean_kl() <= kHeldDivergence, "exact's experts, FP8 products, beside exact: " + describe(of_fp8) + limit);
  expect(of_wide.mean_kl() <= kHeldDivergence, "exact's experts, bf16 products, beside exact: " + describe(of_wide) + limit);
}

}  // namespace

int main(int argc, char** argv) {
  start("fp8_model", argc, argv);
  const auto truths = read_truth("test/oracle/demo");
  BareModel<Fp8Ops> fp8("models/demo", served());
  BareModel<WideOps> wide("models/demo", served());
  Likeness all_truth, all_other;
  for (size_t i = 0; i < truths.size(); ++i) {
    const Truth& t = truths[i];
    if (brief && i != 1) continue;  // the shortest with more rows than decode's products take
    const std::vector<float> whole = logits_of(wide, t, 1024);
    const std::vector<float> reference(whole.end() - static_cast<int64_t>(t.logits.size()), whole.end());
    for (const int chunk : cases({50, 1024, 23}, 1)) {
      const std::vector<float> logits = logits_of(fp8, t, chunk);
      const Likeness truth = compare(logits, t.logits, t.vocab), other = compare(logits, reference, t.vocab);
      char text[160];
      std::snprintf(text, sizeof text, "demo sequence %zu, chunks of %d: mean KL %.2e from the truth, %.2e from bf16 products", i,
                    chunk, truth.mean_kl(), other.mean_kl());
      expect(truth.mean_kl() <= 0.02 && other.mean_kl() <= 0.02, text);
      all_truth = all_truth + truth, all_other = all_other + other;
    }
  }
  std::printf("  beside the truth: %s\n", describe_to_truth(all_truth).c_str());
  expect(all_other.same_at_least(0.97), "beside bf16 products: " + describe(all_other) + " (at least 97 %)");
  // Logits prove nothing: sums of e4m3 products are mostly exact in f32, and then both kinds agree to the bit.
  expect(fp8.ops.fp8_products > 0, "FP8 products were run");
  if (!brief) check_formats(truths);
  return finish("fp8_model");
}
