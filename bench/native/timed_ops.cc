// SPDX-License-Identifier: MIT
#include "timed_ops.h"

#include <algorithm>

#include "bench_kernels.h"
#include "cuda/backend.h"
#include "cuda/common/check.h"

namespace twelvex::bench {

using cuda::check;

const char* group_name(Group group) {
  static constexpr const char* kNames[kGroups] = {"swa", "csa", "hca", "draft layer", "ends", "draft ends"};
  return kNames[static_cast<int>(group)];
}

TimedOps::TimedOps(std::unique_ptr<Ops> ops, const ModelConfig& config, RankShape alone)
    : ops_(std::move(ops)), config_(config), alone_(alone) {
  queue_ = dynamic_cast<cuda::CudaOps&>(*ops_).queue();
}

TimedOps::~TimedOps() {
  for (cudaEvent_t event : events_) cudaEventDestroy(event);
  cudaFree(stamps_);
}

void TimedOps::stamp_layers() {
  if (stamps_ == nullptr) check(cudaMalloc(&stamps_, 2 * sizeof *stamps_), "stamps");
}

void TimedOps::stamp(int which) {
  if (stamps_ != nullptr && pass_ == 0 && !replaying_) stamp_time(stamps_ + which, queue_);
}

double TimedOps::layers_us() const {
  unsigned long long at[2] = {};
  check(cudaMemcpy(at, stamps_, sizeof at, cudaMemcpyDefault), "stamps");
  return static_cast<double>(at[1] - at[0]) * 1e-3;
}

void TimedOps::time_steps(bool on, double head_start_us) {
  on_ = on;
  head_start_us_ = head_start_us;
}

cudaEvent_t TimedOps::event(size_t index) {
  while (events_.size() <= index) {
    events_.emplace_back();
    check(cudaEventCreate(&events_.back()), "cudaEventCreate");
  }
  return events_[index];
}

void TimedOps::measure_events() {
  constexpr int kCount = 65;
  hold_stream(500, queue_);
  for (size_t i = 0; i < kCount; ++i) check(cudaEventRecord(event(i), queue_), "cudaEventRecord");
  check(cudaStreamSynchronize(queue_), "cudaStreamSynchronize");
  std::vector<float> gaps(kCount - 1);
  for (size_t i = 0; i + 1 < kCount; ++i) cudaEventElapsedTime(&gaps[i], events_[i], events_[i + 1]);
  std::sort(gaps.begin(), gaps.end());
  event_us_ = gaps[gaps.size() / 2] * 1e3;
}

void TimedOps::mark(const char* op) {
  if (!on_) return;
  check(cudaEventRecord(event(marks_.size()), queue_), "cudaEventRecord");
  Sample sample{.op = op, .pass = pass_};
  if (crossings_ < 0) {
    sample.group = pass_ == 0 ? Group::kEnds : Group::kDraftEnds;
  } else if (pass_ > 0) {
    sample.group = Group::kDraftLayer;
  } else {
    sample.kind = config_.layers[static_cast<size_t>(crossings_ / 2)];
    sample.group = static_cast<Group>(sample.kind);
  }
  marks_.push_back(sample);
}

Batch TimedOps::begin_step(const StepInput& input) {
  marks_.clear();
  pass_ = 0;
  crossings_ = -1;
  const Batch batch = ops_->begin_step(input);
  if (on_ && event_us_ < 0) measure_events();
  cudaStreamCaptureStatus status;
  check(cudaStreamIsCapturing(queue_, &status), "cudaStreamIsCapturing");
  replaying_ = cuda::is_decode_step(input) && status == cudaStreamCaptureStatusNone;
  if (on_ && head_start_us_ > 0) hold_stream(head_start_us_, queue_);
  return batch;
}

Batch TimedOps::draft_batch(int pass) {
  pass_ = pass;
  mark("draft_batch");
  return ops_->draft_batch(pass);
}

void TimedOps::finish_step(StepOutput& output) {
  mark("finish");
  ops_->finish_step(output);
  if (!on_) return;
  samples_.assign(marks_.begin(), marks_.end() - 1);
  for (size_t i = 0; i < samples_.size(); ++i) {
    float ms = 0;
    check(cudaEventElapsedTime(&ms, events_[i], events_[i + 1]), "cudaEventElapsedTime");
    samples_[i].us = std::max(0.0, ms * 1e3 - event_us_);
  }
}

void TimedOps::embed(const Batch& b, const ModelWeights& w, Array output) {
  mark("embed");
  ops_->embed(b, w, output);
}

void TimedOps::spread(const Batch& b, Array hidden, Array streams) {
  mark("spread");
  ops_->spread(b, hidden, streams);
  stamp(0);
}

void TimedOps::hyper_enter(const Batch& b, const HyperWeights& w, Array norm, Array streams, Array mix, Array hidden) {
  mark("hyper_enter");
  crossings_ = 0;
  ops_->hyper_enter(b, w, norm, streams, mix, hidden);
}

void TimedOps::hyper_leave(const Batch& b, Array mix, Array output, Array streams) {
  mark("hyper_leave");
  crossings_ = -1;
  ops_->hyper_leave(b, mix, output, streams);
}

void TimedOps::hyper_cross(const Batch& b, const HyperWeights& next, Array norm, Array output, Array streams, Array mix,
                           Array hidden) {
  mark("hyper_cross");
  ++crossings_;
  ops_->hyper_cross(b, next, norm, output, streams, mix, hidden);
}

void TimedOps::cross_to_experts(const Batch& b, const LayerWeights& layer, Array output, Array streams, Array mix, Array hidden,
                                Array routing) {
  if (on_) return Ops::cross_to_experts(b, layer, output, streams, mix, hidden, routing);  // each by its own
  ++crossings_;
  ops_->cross_to_experts(b, layer, output, streams, mix, hidden, routing);
}

void TimedOps::project_query_kv(const Batch& b, int layer, const AttentionWeights& w, Array hidden, Array latent, Array query,
                                Array kv) {
  mark("project_query_kv");
  ops_->project_query_kv(b, layer, w, hidden, latent, query, kv);
}

void TimedOps::store_window(const Batch& b, int layer, Array kv) {
  mark("store_window");
  ops_->store_window(b, layer, kv);
}

void TimedOps::compress(const Batch& b, int layer, const CompressorWeights& w, Array hidden) {
  mark(w.dim == kIndexDim ? "compress_index" : "compress");
  ops_->compress(b, layer, w, hidden);
}

void TimedOps::begin_gather(const Batch& b, int layer, LayerKind kind) { ops_->begin_gather(b, layer, kind); }

void TimedOps::select(const Batch& b, int layer, const IndexerWeights& w, Array hidden, Array latent, Array selection) {
  mark("select");
  ops_->select(b, layer, w, hidden, latent, selection);
  if (alone_.ranks > 1 && !replaying_) share_choices(b, selection);
}

/// Ranks choose for whole groups of tokens each (backend_attention.cc, select): the last rank's are the batch's last.
void TimedOps::share_choices(const Batch& b, Array selection) {
  if (!cuda::shares_choices(b.tokens)) return;
  const int group = b.rows == 1 ? cuda::kScoreGroup : b.tokens / b.rows, groups = (b.tokens + group - 1) / group;
  const int first = std::min(groups * alone_.rank / alone_.ranks * group, b.tokens);
  const size_t row = static_cast<size_t>(config_.index_topk) * sizeof(int32_t);
  const size_t bytes = static_cast<size_t>(std::min(first, b.tokens - first)) * row;
  if (bytes == 0) return;
  mark("(choices shared)");
  auto* choices = static_cast<uint8_t*>(selection.data);
  check(cudaMemcpyAsync(choices, choices + static_cast<size_t>(first) * row, bytes, cudaMemcpyDeviceToDevice, queue_), "choices");
}

void TimedOps::attend(const Batch& b, int layer, const AttentionWeights& w, Array query, Array selection, Array attended) {
  mark("attend");
  ops_->attend(b, layer, w, query, selection, attended);
}

void TimedOps::project_output(const Batch& b, const AttentionWeights& w, Array attended, Array output) {
  mark("project_output");
  ops_->project_output(b, w, attended, output);
}

void TimedOps::route(const Batch& b, const MoeWeights& w, Array hidden, Array routing) {
  mark("route");
  ops_->route(b, w, hidden, routing);
}

void TimedOps::run_experts(const Batch& b, const MoeWeights& w, Array hidden, Array routing, Array output) {
  mark("run_experts");
  ops_->run_experts(b, w, hidden, routing, output);
}

void TimedOps::all_reduce(const Batch& b, Array array) {
  mark("all_reduce");
  ops_->all_reduce(b, array);
}

void TimedOps::keep_streams(const Batch& b, Array streams) {
  mark("keep_streams");
  ops_->keep_streams(b, streams);
}

void TimedOps::logits(const Batch& b, const HeadWeights& w, const Linear& lm_head, Array streams, Array logits) {
  mark("logits");
  stamp(1);
  ops_->logits(b, w, lm_head, streams, logits);
}

void TimedOps::sample(const Batch& b, Array logits) {
  mark("sample");
  ops_->sample(b, logits);
}

void TimedOps::draft_input(const Batch& b, const MtpWeights& w, Array embedding, Array streams, Array draft_streams) {
  mark("draft_input");
  ops_->draft_input(b, w, embedding, streams, draft_streams);
}

}  // namespace twelvex::bench
