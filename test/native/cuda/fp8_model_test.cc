// SPDX-License-Identifier: MIT
// The demo model with its products on FP8 tensor cores, forced on any device, against the ground truth of test/oracle and
// against the same model without them. Run from the repository's root.
#include <cmath>

#include "backend.h"
#include "bare_model.h"
#include "gemm/fp8_gemm.h"
#include "likeness.h"
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
  return finish("fp8_model");
}
