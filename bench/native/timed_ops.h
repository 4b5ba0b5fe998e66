// SPDX-License-Identifier: MIT
// A backend whose operations are timed: an event on the rank's queue before every call of runtime/ops.h.
// Or one whose layers are timed as they are served, in graphs: the device writes its clock before the first and behind the last.
//
// The time of an operation is that from its event to the next one's, less what two events take with nothing between them (some
// 3 us, measured at the first timed step): it holds what the operation queued and the gap behind it. Steps that are CUDA graphs
// queue nothing and are not timed: with log-probabilities a decode step runs in single launches.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>
#include <vector>

#include "runtime/backend.h"

namespace twelvex::bench {

/// Where an operation belongs: a layer of some kind, the draft block, or outside of layers (of the trunk, of draft passes).
enum class Group : uint8_t { kSwa, kCsa, kHca, kDraftLayer, kEnds, kDraftEnds };
inline constexpr int kGroups = 6;
const char* group_name(Group group);

struct Sample {
  const char* op = nullptr;
  Group group = Group::kEnds;
  LayerKind kind = LayerKind::kSwa;  // of the layer; swa in the draft block
  int pass = 0;
  double us = 0;
};

class TimedOps final : public Ops {
 public:
  /// `ops` must be the CUDA backend. `alone`: it is this rank of several, and the others are not there; `select` then gives
  /// the tokens that they would choose for the choices of this rank's, so that attention reads as it would.
  TimedOps(std::unique_ptr<Ops> ops, const ModelConfig& config, RankShape alone);
  ~TimedOps() override;

  /// Has every step from now on, graphs that are captured too, note when its trunk's layers begin and end: two launches more.
  void stamp_layers();
  /// Microseconds from the trunk's first layer's begin to the head's, in the last step.
  double layers_us() const;

  /// Times the steps from now on. A step's operations wait on the device for `head_start_us` first, so that it never runs dry.
  void time_steps(bool on, double head_start_us);
  /// Operations of the last timed step, in order.
  const std::vector<Sample>& samples() const { return samples_; }

  Linear linear(const MatrixView& view) override { return ops_->linear(view); }
  Array vector(const MatrixView& view) override { return ops_->vector(view); }
  Array matrix_f32(const MatrixView& view) override { return ops_->matrix_f32(view); }
  Array hyper_matrix(const MatrixView& view) override { return ops_->hyper_matrix(view); }
  Array token_table(std::span<const int32_t> table) override { return ops_->token_table(table); }
  Experts experts(std::span<const ExpertView> views) override { return ops_->experts(views); }
  Memory memory() override { return ops_->memory(); }
  Activations reserve(const Limits& limits) override { return ops_->reserve(limits); }
  void allocate_cache(const CacheLayout& layout, const CachePlan& plan) override { ops_->allocate_cache(layout, plan); }

  Batch begin_step(const StepInput& input) override;
  Batch draft_batch(int pass) override;
  void finish_step(StepOutput& output) override;
  void embed(const Batch&, const ModelWeights&, Array output) override;
  void spread(const Batch&, Array hidden, Array streams) override;
  void hyper_enter(const Batch&, const HyperWeights&, Array norm, Array streams, Array mix, Array hidden) override;
  void hyper_leave(const Batch&, Array mix, Array output, Array streams) override;
  void hyper_cross(const Batch&, const HyperWeights& next, Array norm, Array output, Array streams, Array mix,
                   Array hidden) override;
  void cross_to_experts(const Batch&, const LayerWeights& layer, Array output, Array streams, Array mix, Array hidden,
                        Array routing) override;
  void project_query_kv(const Batch&, int layer, const AttentionWeights&, Array hidden, Array latent, Array query,
                        Array kv) override;
  void store_window(const Batch&, int layer, Array kv) override;
  void compress(const Batch&, int layer, const CompressorWeights&, Array hidden) override;
  void begin_gather(const Batch&, int layer, LayerKind kind) override;
  void select(const Batch&, int layer, const IndexerWeights&, Array hidden, Array latent, Array selection) override;
  void attend(const Batch&, int layer, const AttentionWeights&, Array query, Array selection, Array attended) override;
  void project_output(const Batch&, const AttentionWeights&, Array attended, Array output) override;
  void route(const Batch&, const MoeWeights&, Array hidden, Array routing) override;
  void run_experts(const Batch&, const MoeWeights&, Array hidden, Array routing, Array output) override;
  void all_reduce(const Batch&, Array array) override;
  void keep_streams(const Batch&, Array streams) override;
  void logits(const Batch&, const HeadWeights&, const Linear& lm_head, Array streams, Array logits) override;
  void sample(const Batch&, Array logits) override;
  void draft_input(const Batch&, const MtpWeights&, Array embedding, Array streams, Array draft_streams) override;

 private:
  /// The operation that is queued next; it belongs to the layer being run.
  void mark(const char* op);
  cudaEvent_t event(size_t index);
  void measure_events();
  void share_choices(const Batch& batch, Array selection);
  void stamp(int which);

  std::unique_ptr<Ops> ops_;
  const ModelConfig& config_;
  const RankShape alone_;
  cudaStream_t queue_ = nullptr;
  bool on_ = false;
  bool replaying_ = false;  // the step is a graph that was captured before
  double head_start_us_ = 0, event_us_ = -1;
  int pass_ = 0, crossings_ = -1;  // crossings of this pass; -1: outside of layers
  std::vector<cudaEvent_t> events_;
  unsigned long long* stamps_ = nullptr;  // begin and end of the layers, on the device; null: not stamped
  std::vector<Sample> marks_, samples_;
};

}  // namespace twelvex::bench
