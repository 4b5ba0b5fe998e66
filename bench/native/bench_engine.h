// SPDX-License-Identifier: MIT
// Model::load and Model::step (runtime/model.cc) with timed operations, and with the option to run one rank of several
// alone: the work of one GPU without its exchanges, on one GPU.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "op_cost.h"
#include "runtime/rank.h"
#include "runtime/tensor_source.h"
#include "timed_ops.h"

namespace twelvex::bench {

struct EngineOptions {
  std::string model = "models/flash";
  int tp = 1;
  bool alone = false;                 // the last rank of `tp` only
  std::vector<int> devices = {};      // of every rank that runs; empty: 0, 1, ..
  int layers = 0;                     // 0: all
  int mtp = 0;
  int step_tokens = 8192;
  int max_rows = 64;
  int context_tokens = 131072;
  int cached_tokens = 0;              // of all sequences together; 0: context_tokens
  bool stamps = false;                // layers are timed on the device (TimedOps::stamp_layers)
  RowFormat rows = RowFormat::kFp8;
  Numerics numerics = Numerics::kServed;
};

/// A sequence of random tokens. Of a rank alone the ids are its own vocabulary's: the others' embeddings would be zeros, which
/// all choose the same experts.
struct Sequence {
  int slot = 0;
  uint64_t seed = 0;
  int done = 0;                          // positions computed
  int32_t last = -1;                     // sampled, not yet computed
  std::vector<int32_t> drafts;           // behind `last`
  std::map<int, int32_t> window;         // physical block of every logical one held
  std::vector<int32_t> context;
};

/// Times of one step, and what it accepted.
struct StepTimes {
  double wall_ms = 0;
  double accepted = 0;  // tokens a sampling row, the verified one included
};

class BenchEngine {
 public:
  explicit BenchEngine(const EngineOptions& options);

  struct Row {
    Sequence* sequence;
    int count;            // prompt tokens; 0: decode
    bool samples = true;
  };
  /// Runs the rows' next tokens and moves the sequences on. `graphs` false: a decode step runs in single launches.
  StepTimes step(const std::vector<Row>& rows, bool graphs = true);
  /// Runs the sequence's next `count` tokens in chunks of EngineOptions::step_tokens, of which the last samples. Milliseconds.
  double prefill(Sequence& sequence, int count, bool samples = true);
  /// @throws Error kBadOptions where `slot` is not below EngineOptions::max_rows
  Sequence start(int slot, uint64_t seed) const;
  /// Gives the blocks back.
  void end(Sequence& sequence);

  /// The shape of the last step, for op_cost.
  const StepShape& shape() const { return shape_; }
  const ModelConfig& config() const { return config_; }
  const ModelConfig& whole_config() const { return whole_; }
  /// Of the rank whose operations are reported.
  RankShape rank_shape() const { return {options_.alone ? options_.tp - 1 : 0, options_.tp}; }
  const EngineOptions& options() const { return options_; }
  int ranks() const { return ranks_.size(); }
  void time_steps(bool on, double head_start_us);
  const std::vector<Sample>& samples() const;
  /// Of the last step, with EngineOptions::stamps.
  double layers_us() const { return timed_[0]->layers_us(); }
  std::vector<Memory> memory();

  double load_seconds = 0;
  std::map<std::string, double> memory_bytes;  // of a rank, by kind

 private:
  void load();
  void allocate_cache();
  void add_row(StepInput& input, const Row& row);
  void hold_blocks(StepInput& input, Sequence& sequence, int count);
  /// Gives back the window blocks that have passed.
  void drop_window(Sequence& sequence);
  int32_t token(const Sequence& sequence, int position) const;
  int32_t take_block(std::vector<int32_t>& free, const char* what);

  EngineOptions options_;
  ModelConfig whole_, config_;
  Limits limits_;
  CacheLayout layout_;
  std::vector<int32_t> free_window_, free_context_;
  std::vector<StepOutput> outputs_;
  std::vector<TimedOps*> timed_;
  StepShape shape_;
  std::unique_ptr<TensorSource> source_;
  RankSet ranks_;  // last: its threads end first
};

}  // namespace twelvex::bench
