// SPDX-License-Identifier: MIT
// Models run by one rank and by several that are threads of this process, for tests that compare them to the bit. One sequence.
#pragma once

#include <cstring>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "runtime/backend.h"
#include "runtime/checkpoint.h"
#include "runtime/dummy.h"
#include "runtime/error.h"
#include "runtime/forward.h"
#include "runtime/weights.h"
#include "step_rows.h"

namespace twelvex::test {

struct RanksModel {
  ModelConfig config;
  std::unique_ptr<TensorSource> source;

  static RanksModel checkpoint(const std::string& directory) {
    RanksModel model{read_config(directory), nullptr};
    model.source = Checkpoint::open(directory, model.config);
    return model;
  }

  /// Parts of different sizes: one and two groups, two and three units of an expert's width, two and three of the vocabulary.
  static RanksModel uneven(const std::string& root) {
    RanksModel model{read_config(root + "/test/oracle/tiny"), nullptr};
    model.config.vocab_size = 600;
    model.config.num_heads = 6;
    model.config.o_groups = 3;
    model.config.moe_intermediate_size = 640;
    model.source = make_dummy_source(model.config, 5);
    return model;
  }

  /// Parts of the same sizes, several groups and units each; as many heads as are not a part's.
  static RanksModel even(const std::string& root) {
    RanksModel model{read_config(root + "/test/oracle/tiny"), nullptr};
    model.config.num_heads = 32;
    model.config.o_groups = 8;
    model.config.moe_intermediate_size = 1024;
    model.source = make_dummy_source(model.config, 6);
    return model;
  }
};

struct RanksNumbers {
  Numerics numerics = Numerics::kExact;
  RowFormat rows = RowFormat::kF32;
  size_t stream_element_bytes = 4;
  int mtp = 2;
  int prompt = 200, answer = 12;  // tokens
  int chunk = 200;                // of the prompt
};

/// What a run gives.
struct RanksTrace {
  std::vector<float> logits, mtp_logits;  // of the prompt, and logits of the answer's steps
  std::vector<int32_t> tokens, drafts;

  bool same_bits(const RanksTrace& other) const {
    const auto same = [](const std::vector<float>& a, const std::vector<float>& b) {
      return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
    };
    return same(logits, other.logits) && same(mtp_logits, other.mtp_logits) && tokens == other.tokens && drafts == other.drafts;
  }
};

/// One rank's model. Operations: CpuOps or CudaOps, or derived from one.
template <class Operations>
class RankRun {
 public:
  RankRun(const RanksModel& model, RankShape shape, const RanksNumbers& numbers, std::shared_ptr<RankGroup> group)
      : config_(model.config),
        numbers_(numbers),
        ops_(BackendOptions{.config = config_, .shape = shape, .group = std::move(group), .numerics = numbers.numerics,
                            .rows = numbers.rows, .with_mtp = numbers.mtp > 0, .threads = 2}),
        weights_(load_weights({.config = config_, .source = *model.source, .shape = shape, .with_mtp = numbers.mtp > 0,
                               .progress = {}},
                              ops_)) {
    activations_ = ops_.reserve(
        {.step_tokens = numbers.prompt, .rows = 1, .context_tokens = 512, .mtp = numbers.mtp, .logit_slice = 64});
    ops_.allocate_cache(CacheLayout::make(config_, numbers.rows, numbers.mtp > 0, numbers.stream_element_bytes), {1, 6, 6});
  }

  /// A prompt in chunks with all its logits, then a greedy answer with drafts, every other step of it with its logits (on CUDA
  /// the others are graphs).
  RanksTrace run() {
    RanksTrace trace;
    const int prompt = numbers_.prompt;
    for (int i = 0; i < prompt; ++i) trace.tokens.push_back(i * i % 251);
    for (int at = 0; at < prompt; at += numbers_.chunk) {
      const int end = std::min(prompt, at + numbers_.chunk);
      const StepOutput out = step(trace.tokens, at, end - at, 0, kRowAllLogits | (end == prompt ? kRowSample : 0));
      add(trace, out);
      trace.mtp_logits.insert(trace.mtp_logits.end(), out.mtp_logits.begin(), out.mtp_logits.end());
    }
    for (int i = 0; trace.tokens.size() < static_cast<size_t>(prompt + numbers_.answer); ++i) {
      std::vector<int32_t> tokens = trace.tokens;
      tokens.insert(tokens.end(), trace.drafts.end() - numbers_.mtp, trace.drafts.end());
      const int known = static_cast<int>(trace.tokens.size());
      add(trace, step(tokens, known - 1, 1 + numbers_.mtp, numbers_.mtp, kRowSample | (i % 2 == 0 ? kRowAllLogits : 0)));
    }
    return trace;
  }

 private:
  static void add(RanksTrace& trace, const StepOutput& out) {
    trace.logits.insert(trace.logits.end(), out.logits.begin(), out.logits.end());
    if (out.accepted_count.empty()) return;
    trace.tokens.insert(trace.tokens.end(), out.accepted.begin(), out.accepted.begin() + out.accepted_count[0]);
    trace.drafts.insert(trace.drafts.end(), out.drafts.begin(), out.drafts.end());
  }

  StepOutput step(const std::vector<int32_t>& tokens, int first, int count, int drafts, int flags) {
    StepRow row = row_of(tokens, first, count, static_cast<uint8_t>(flags));
    row.drafts = drafts;
    const StepInput in = step_of({row}, 0, numbers_.mtp);
    StepOutput out;
    forward_step({.ops = ops_, .config = config_, .weights = weights_, .activations = activations_, .mtp = numbers_.mtp}, in,
                 out);
    return out;
  }

  const ModelConfig config_;
  const RanksNumbers numbers_;
  Operations ops_;
  ModelWeights weights_;
  Activations activations_;
};

/// Runs a model on `ranks` ranks of one device. Throws kInternal when they disagree about tokens, or what a rank throws.
template <class Operations>
RanksTrace trace_of_ranks(const RanksModel& model, int ranks, const RanksNumbers& numbers) {
  const auto group = std::make_shared<RankGroup>(ranks);
  std::vector<RanksTrace> traces(static_cast<size_t>(ranks));
  std::vector<std::string> errors(static_cast<size_t>(ranks));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([&, rank] {
      try {
        RankRun<Operations> run(model, {rank, ranks}, numbers, group);
        group->wait();  // ranks of one device: while one still allocates, no kernel may wait for it
        traces[static_cast<size_t>(rank)] = run.run();
        group->wait();
      } catch (const Error& error) {
        errors[static_cast<size_t>(rank)] = error.what();
        group->fail(error.what());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (size_t rank = 0; rank < traces.size(); ++rank) {
    if (!errors[rank].empty()) throw Error(ErrorCode::kInternal, errors[rank]);
    if (traces[rank].tokens != traces[0].tokens) throw Error(ErrorCode::kInternal, "the ranks disagree about the text");
  }
  return traces[0];
}

}  // namespace twelvex::test
