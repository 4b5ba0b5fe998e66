// SPDX-License-Identifier: MIT
// test/oracle/tiny at every position. Its four index heads are often all cut off by the relu, so that compressed entries on
// both sides of the indexer's top-16 border score exactly 0. Which of them are kept is open (the specification: "ties
// unspecified"); what is kept changes the token's streams and, through windows, all later positions. We keep the lowest
// entries. The ground truth kept what its sort left in front, found by repeating that sort. With its choices at those ties,
// listed below, every position must agree; without them, every position before the first that differs.
#include <algorithm>
#include <cmath>
#include <span>

#include "check.h"
#include "cpu/cpu_ops.h"
#include "runtime/checkpoint.h"
#include "runtime/forward.h"
#include "runtime/weights.h"
#include "step_rows.h"
#include "tiny_truth.h"

namespace {

using namespace twelvex;
using namespace twelvex::check;

constexpr int kTopk = 16, kBlocks = 3;

struct Tie {
  int prompt, layer, position;
  int32_t kept[kTopk];
};

constexpr Tie kTies[] = {
    {0, 1, 127, {0, 1, 3, 4, 10, 14, 15, 18, 19, 20, 21, 22, 23, 25, 26, 28}},
    {0, 1, 156, {0, 5, 9, 10, 12, 14, 15, 18, 19, 25, 26, 27, 30, 31, 35, 38}},
    {0, 1, 182, {0, 1, 2, 7, 8, 12, 13, 15, 16, 19, 21, 22, 24, 28, 31, 33}},
    {0, 1, 197, {1, 4, 9, 12, 14, 18, 20, 21, 26, 27, 31, 34, 37, 40, 41, 42}},
    {0, 1, 220, {1, 9, 12, 13, 16, 17, 20, 27, 28, 34, 40, 43, 46, 47, 50, 51}},
    {0, 1, 241, {1, 5, 8, 16, 17, 23, 30, 33, 35, 42, 45, 48, 50, 53, 54, 57}},
    {0, 3, 70, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 15, 16}},
    {0, 3, 99, {0, 2, 3, 4, 5, 6, 9, 10, 11, 17, 19, 20, 21, 22, 23, 24}},
    {0, 3, 108, {1, 2, 5, 7, 8, 9, 10, 13, 14, 15, 17, 20, 22, 23, 24, 26}},
    {0, 3, 113, {0, 1, 2, 3, 4, 5, 6, 8, 10, 11, 15, 19, 20, 24, 25, 26}},
    {0, 3, 142, {0, 1, 2, 3, 4, 6, 8, 11, 13, 15, 19, 21, 23, 24, 26, 34}},
    {0, 3, 147, {0, 1, 2, 3, 6, 7, 9, 10, 14, 18, 19, 20, 22, 23, 29, 35}},
    {0, 3, 160, {3, 6, 9, 10, 13, 20, 22, 25, 26, 28, 29, 30, 31, 32, 38, 39}},
    {0, 3, 165, {0, 1, 2, 3, 5, 10, 13, 14, 18, 23, 25, 31, 32, 35, 37, 40}},
    {0, 3, 212, {1, 6, 10, 19, 21, 26, 28, 29, 31, 35, 36, 39, 41, 42, 44, 49}},
    {0, 3, 242, {3, 9, 10, 11, 17, 19, 22, 23, 25, 28, 32, 34, 36, 40, 43, 49}},
    {0, 3, 250, {2, 6, 9, 10, 19, 21, 26, 28, 31, 33, 39, 42, 44, 49, 59, 61}},
    {0, 3, 257, {6, 7, 17, 20, 23, 24, 27, 28, 29, 30, 31, 35, 39, 53, 57, 58}},
    {0, 3, 276, {1, 7, 13, 22, 24, 25, 33, 35, 37, 39, 40, 44, 54, 57, 59, 62}},
    {0, 3, 277, {3, 6, 9, 11, 22, 25, 28, 31, 32, 34, 42, 53, 55, 61, 63, 66}},
    {1, 1, 68, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 13, 14, 15, 16}},
    {1, 1, 78, {0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14, 16, 18}},
    {1, 1, 84, {0, 1, 2, 4, 5, 7, 9, 10, 11, 12, 14, 15, 16, 17, 19, 20}},
    {1, 1, 87, {0, 1, 3, 4, 6, 7, 8, 9, 10, 13, 15, 17, 18, 19, 20, 21}},
    {1, 1, 106, {0, 1, 3, 4, 6, 7, 8, 9, 10, 15, 17, 18, 21, 22, 23, 25}},
    {1, 1, 118, {1, 3, 6, 7, 10, 11, 16, 17, 19, 20, 21, 22, 23, 24, 26, 28}},
    {1, 1, 142, {0, 1, 4, 5, 11, 12, 13, 15, 16, 17, 18, 21, 25, 28, 32, 33}},
    {1, 1, 185, {1, 3, 6, 11, 12, 13, 16, 23, 24, 25, 26, 27, 38, 40, 41, 45}},
    {1, 1, 244, {17, 18, 19, 21, 22, 31, 34, 35, 36, 40, 42, 45, 46, 47, 50, 59}},
    {1, 1, 295, {0, 7, 19, 23, 29, 35, 47, 48, 52, 54, 58, 60, 62, 63, 65, 70}},
    {1, 3, 86, {2, 3, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 18, 19, 20}},
    {1, 3, 155, {2, 3, 4, 6, 7, 9, 11, 18, 19, 22, 25, 27, 28, 31, 32, 35}},
    {1, 3, 190, {0, 4, 7, 9, 11, 14, 15, 16, 18, 19, 29, 30, 38, 42, 44, 46}},
    {1, 3, 194, {7, 9, 10, 11, 12, 15, 17, 20, 22, 25, 28, 33, 35, 37, 38, 45}},
    {1, 3, 198, {0, 10, 11, 12, 14, 15, 16, 18, 19, 20, 24, 25, 26, 31, 41, 48}},
    {1, 3, 216, {0, 2, 3, 8, 9, 14, 15, 17, 26, 36, 37, 39, 42, 45, 49, 53}},
    {1, 3, 221, {10, 13, 17, 32, 33, 35, 37, 40, 41, 43, 44, 45, 49, 50, 52, 53}},
    {1, 3, 234, {9, 13, 14, 15, 17, 21, 26, 29, 36, 39, 48, 53, 54, 55, 56, 57}},
    {1, 3, 243, {3, 4, 8, 11, 16, 18, 19, 20, 21, 30, 31, 34, 42, 48, 49, 53}},
    {1, 3, 247, {1, 2, 13, 14, 17, 25, 29, 31, 32, 35, 37, 49, 51, 54, 56, 57}},
    {1, 3, 294, {4, 11, 15, 22, 23, 28, 29, 39, 41, 43, 45, 51, 59, 63, 69, 70}},
};

/// The CPU backend with the ground truth's choices at ties of one prompt.
class TiedOps : public cpu::CpuOps {
 public:
  using CpuOps::CpuOps;

  void select(const Batch& batch, int layer, const IndexerWeights& weights, Array hidden, Array latent,
              Array selection) override {
    CpuOps::select(batch, layer, weights, hidden, latent, selection);
    auto* chosen = static_cast<int32_t*>(selection.data);
    for (const Tie& tie : kTies) {
      // The prompt is one row from position 0, so a token's number is its position.
      if (tie.prompt == prompt && tie.layer == layer) std::copy_n(tie.kept, kTopk, chosen + tie.position * kTopk);
    }
  }

  int prompt = -1;  // -1: our own choices
};

/// First position whose logits differ by more than the tolerance, or the number of positions.
size_t agreeing(const std::vector<float>& got, const std::vector<float>& truth, size_t vocab) {
  for (size_t i = 0; i < truth.size(); ++i) {
    if (!(std::abs(got[i] - truth[i]) <= kTolerance)) return i / vocab;
  }
  return truth.size() / vocab;
}

struct Loaded {
  ModelConfig config = read_config(kTiny);
  TiedOps ops;
  ModelWeights weights;
  Activations activations;

  explicit Loaded(const cpu::Kernels& kernels)
      : ops({.config = config, .group = std::make_shared<RankGroup>(1), .with_mtp = true, .threads = 2}, kernels) {
    const auto checkpoint = Checkpoint::open(kTiny, config);
    weights = load_weights({.config = config, .source = *checkpoint, .shape = {}, .with_mtp = true, .progress = {}}, ops);
    activations = ops.reserve({.step_tokens = 300, .rows = 1, .context_tokens = 300, .mtp = 1, .logit_slice = 300});
    ops.allocate_cache(CacheLayout::make(config, RowFormat::kF32, true, sizeof(float)),
                       {.slots = 1, .window_blocks = kBlocks, .context_blocks = kBlocks});
  }

  StepOutput run(int prompt, const std::vector<int32_t>& tokens) {
    ops.prompt = prompt;
    const StepInput input =
        test::step_of({test::row_of(tokens, 0, static_cast<int>(tokens.size()), kRowAllLogits)}, kBlocks, 1);
    StepOutput output;
    forward_step({.ops = ops, .config = config, .weights = weights, .activations = activations, .mtp = 1}, input,
                 output);
    return output;
  }
};

TEST("with the ground truth's choices at exact ties, every position of tiny agrees; without, those before the first") {
  Loaded model(cpu::best_kernels());
  const auto vocab = static_cast<size_t>(model.config.vocab_size);
  const size_t first_differing[] = {127, 78};
  for (int prompt = 0; prompt < 2; ++prompt) {
    const std::string name = std::to_string(prompt);
    const auto tokens = expected<int32_t>(name + ".tokens");
    const auto logits = expected<float>(name + ".logits"), mtp_logits = expected<float>(name + ".mtp_logits");
    const StepOutput tied = model.run(prompt, tokens);
    CHECK_EQ(agreeing(tied.logits, logits, vocab), tokens.size());
    CHECK_EQ(agreeing(tied.mtp_logits, mtp_logits, vocab), tokens.size() - 1);
    const StepOutput own = model.run(-1, tokens);
    CHECK_EQ(agreeing(own.logits, logits, vocab), first_differing[prompt]);
    CHECK_EQ(own.gathers_inline, 2);
  }
}

TEST("every instruction set that the machine has gives the logits of the portable code and of the ground truth") {
  const auto tokens = expected<int32_t>("0.tokens");
  const auto logits = expected<float>("0.logits"), mtp_logits = expected<float>("0.mtp_logits");
  StepOutput portable;
  for (const cpu::Kernels* kernels : cpu::usable_kernels()) {
    Loaded model(*kernels);
    const auto vocab = static_cast<size_t>(model.config.vocab_size);
    const StepOutput output = model.run(0, tokens);
    CHECK_EQ(agreeing(output.logits, logits, vocab), tokens.size());
    CHECK_EQ(agreeing(output.mtp_logits, mtp_logits, vocab), tokens.size() - 1);
    if (kernels == &cpu::kPortableKernels) portable = output;
    double largest = 0;
    for (size_t i = 0; i < output.logits.size(); ++i) {
      largest = std::max(largest, std::abs(static_cast<double>(output.logits[i]) - portable.logits[i]));
    }
    CHECK(largest <= 1e-4);
  }
}

}  // namespace
