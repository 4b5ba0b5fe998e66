// SPDX-License-Identifier: MIT
// One rank computes the parts that two ranks sum (runtime/ops.h, Parts): every logit and every token is the same to the bit.
#include <functional>
#include <thread>

#include "check.h"
#include "cpu/cpu_ops.h"
#include "runtime/checkpoint.h"
#include "runtime/dummy.h"
#include "runtime/forward.h"
#include "runtime/weights.h"

namespace {

using namespace twelvex;
using namespace twelvex::check;

constexpr int kMtp = 2, kPrompt = 300, kAnswer = 12;

struct Checkpointed {
  ModelConfig config;
  std::unique_ptr<TensorSource> source;
};

Checkpointed oracle(const std::string& directory) {
  const std::string path = std::string(TWELVEX_ROOT) + directory;
  Checkpointed model{read_config(path), nullptr};
  model.source = Checkpoint::open(path, model.config);
  return model;
}

/// Parts of different sizes: one and two groups, two and three units of an expert's width; vocabulary units 2 and 3.
Checkpointed uneven() {
  Checkpointed model{read_config(std::string(TWELVEX_ROOT) + "/test/oracle/tiny"), nullptr};
  model.config.vocab_size = 600;
  model.config.num_heads = 6;
  model.config.o_groups = 3;
  model.config.moe_intermediate_size = 640;
  model.source = make_dummy_source(model.config, 5);
  return model;
}

struct Numbers {
  Numerics numerics;
  RowFormat rows;
};

/// What a run gives; compared by bits.
struct Trace {
  std::vector<float> logits, mtp_logits;
  std::vector<int32_t> tokens, drafts;
  bool operator==(const Trace&) const = default;
};

/// One rank's model and its one sequence.
class Rank {
 public:
  Rank(const Checkpointed& model, RankShape shape, const Numbers& numbers, std::shared_ptr<RankGroup> group)
      : config_(model.config),
        ops_({.config = config_, .shape = shape, .group = std::move(group), .numerics = numbers.numerics,
              .rows = numbers.rows, .with_mtp = true, .threads = 2}),
        weights_(load_weights(
            {.config = config_, .source = *model.source, .shape = shape, .with_mtp = true, .progress = {}}, ops_)) {
    activations_ = ops_.reserve({.step_tokens = kPrompt, .rows = 1, .context_tokens = 512, .mtp = kMtp, .logit_slice = 64});
    ops_.allocate_cache(CacheLayout::make(config_, numbers.rows, true, sizeof(float)), {1, 6, 6});
  }

  /// A prompt in chunks with all its logits, then a greedy answer with drafts.
  Trace run(int chunk) {
    Trace trace;
    for (int i = 0; i < kPrompt; ++i) trace.tokens.push_back(i * i % 251);
    StepOutput out;
    for (int at = 0; at < kPrompt; at += chunk) {
      const int end = std::min(kPrompt, at + chunk);
      out = step(trace.tokens, at, end - at, 0, kRowAllLogits | (end == kPrompt ? kRowSample : 0));
      trace.logits.insert(trace.logits.end(), out.logits.begin(), out.logits.end());
      trace.mtp_logits.insert(trace.mtp_logits.end(), out.mtp_logits.begin(), out.mtp_logits.end());
    }
    accept(trace, out);
    while (trace.tokens.size() < kPrompt + kAnswer) {
      std::vector<int32_t> tokens = trace.tokens;
      const int known = static_cast<int>(tokens.size());
      tokens.insert(tokens.end(), trace.drafts.end() - kMtp, trace.drafts.end());
      out = step(tokens, known - 1, 1 + kMtp, kMtp, kRowAllLogits | kRowSample);
      trace.logits.insert(trace.logits.end(), out.logits.begin(), out.logits.end());
      accept(trace, out);
    }
    return trace;
  }

 private:
  static void accept(Trace& trace, const StepOutput& out) {
    trace.tokens.insert(trace.tokens.end(), out.accepted.begin(), out.accepted.begin() + out.accepted_count[0]);
    trace.drafts.insert(trace.drafts.end(), out.drafts.begin(), out.drafts.end());
  }

  StepOutput step(const std::vector<int32_t>& tokens, int first, int count, int drafts, int flags) {
    StepInput in;
    in.slot = {0};
    in.position = {first};
    in.count = {count};
    in.drafts = {drafts};
    const auto end = static_cast<size_t>(first + count);
    in.next_token = {end < tokens.size() ? tokens[end] : -1};
    in.flags = {static_cast<uint8_t>(flags)};
    in.window_base = {std::max(0, first - (kWindow - 1)) / kBlockTokens};
    for (int b = in.window_base[0]; b <= (first + count - 1 + kMtp) / kBlockTokens; ++b) in.window_blocks.push_back(b);
    for (int b = 0; b <= (first + count - 1) / kBlockTokens; ++b) in.context_blocks.push_back(b);
    in.window_offset = {0, static_cast<int32_t>(in.window_blocks.size())};
    in.context_offset = {0, static_cast<int32_t>(in.context_blocks.size())};
    in.tokens.assign(tokens.begin() + first, tokens.begin() + first + count);
    in.penalty_offset = in.bias_offset = {0};
    if (flags & kRowSample) {
      in.sampling.push_back({.temperature = 0});
      in.penalty_offset.push_back(0);
      in.bias_offset.push_back(0);
      in.mask_row.push_back(-1);
    }
    StepOutput out;
    forward_step({.ops = ops_, .config = config_, .weights = weights_, .activations = activations_, .mtp = kMtp}, in, out);
    return out;
  }

  const ModelConfig config_;
  cpu::CpuOps ops_;
  ModelWeights weights_;
  Activations activations_;
};

Trace run_ranks(const Checkpointed& model, int ranks, const Numbers& numbers, int chunk) {
  const auto group = std::make_shared<RankGroup>(ranks);
  std::vector<Trace> traces(static_cast<size_t>(ranks));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([&, rank] {
      traces[static_cast<size_t>(rank)] = Rank(model, {rank, ranks}, numbers, group).run(chunk);
      group->wait();
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const Trace& trace : traces) CHECK(trace.tokens == traces[0].tokens);
  return traces[0];
}

void check_model(const Checkpointed& model) {
  for (const Numbers& numbers : {Numbers{Numerics::kExact, RowFormat::kF32}, {Numerics::kServed, RowFormat::kFp8}}) {
    for (const int chunk : {kPrompt, 7}) {
      const Trace one = run_ranks(model, 1, numbers, chunk), two = run_ranks(model, 2, numbers, chunk);
      REQUIRE(one.logits.size() >= static_cast<size_t>(kPrompt) * static_cast<size_t>(model.config.vocab_size));
      CHECK(one == two);
    }
  }
}

TEST("one and two ranks give the tiny oracle the same bits, in exact and in served numerics") {
  check_model(oracle("/test/oracle/tiny"));
}

TEST("one and two ranks give the demo the same bits") { check_model(oracle("/models/demo")); }

TEST("one and two ranks give a model of uneven parts the same bits") { check_model(uneven()); }

}  // namespace
