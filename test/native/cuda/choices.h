// SPDX-License-Identifier: MIT
// What a device chooses (experts, compressed entries), written down, and the exact CPU backend following it: between nearly equal
// scores bf16 activations choose differently from exact arithmetic, and no rounding bound holds behind another choice.
#pragma once

#include <map>
#include <vector>

#include "backend.h"
#include "cpu/cpu_ops.h"
#include "support.h"

namespace twelvex::test {

/// By call of the step (a layer's) and position.
template <class T>
using Calls = std::vector<std::map<int, std::vector<T>>>;

struct Record {
  Calls<int32_t> experts, entries;  // chosen
  Calls<float> router, indexer;     // scores of every expert, of every visible entry
};

template <class T>
void put(Calls<T>& calls, size_t call, int position, const T* values, size_t count) {
  if (calls.size() <= call) calls.resize(call + 1);
  calls[call][position].assign(values, values + count);
}

inline float sqrt_softplus(float x) { return std::sqrt(x > 20.0f ? x : std::log1p(std::exp(x))); }

/// A backend that knows which choice of the step is next. One sequence.
template <class Operations>
class CountingOps : public Operations {
 public:
  using Operations::Operations;

  Batch begin_step(const StepInput& input) override {
    route_call = select_call = 0;
    position = input.position[0];
    return Operations::begin_step(input);
  }

 protected:
  size_t route_call = 0, select_call = 0;  // of this step
  int position = 0;                        // of its first token
};

/// The CUDA backend, writing down what it chooses.
class RecordingOps : public CountingOps<cuda::CudaOps> {
 public:
  using CountingOps::CountingOps;

  void route(const Batch& batch, const MoeWeights& weights, Array hidden, Array routing) override {
    CudaOps::route(batch, weights, hidden, routing);
    const auto tokens = static_cast<size_t>(batch.tokens), picks = static_cast<size_t>(config_.experts_per_token),
               experts = static_cast<size_t>(config_.num_experts);
    const std::vector<int32_t> ids = download<int32_t>(routing.data, tokens * picks);
    std::vector<float> scores = download<float>(scratch_.moe.logits, tokens * experts);
    for (float& score : scores) score = sqrt_softplus(score);
    for (size_t t = 0; t < tokens; ++t) {
      put(record.experts, route_call, position + static_cast<int>(t), ids.data() + t * picks, picks);
      put(record.router, route_call, position + static_cast<int>(t), scores.data() + t * experts, experts);
    }
    ++route_call;
  }

  void select(const Batch& batch, int layer, const IndexerWeights& weights, Array hidden, Array latent,
              Array selection) override {
    CudaOps::select(batch, layer, weights, hidden, latent, selection);
    const auto tokens = static_cast<size_t>(batch.tokens), topk = static_cast<size_t>(config_.index_topk);
    const std::vector<int32_t> chosen = download<int32_t>(selection.data, tokens * topk);
    const size_t entries = static_cast<size_t>(position + batch.tokens) / kCsaRatio, stride = (entries + 31) / 32 * 32;
    const std::vector<float> scores = download<float>(scratch_.scores, tokens * stride);  // all at once: a small model
    for (size_t t = 0; t < tokens; ++t) {
      const int at = position + static_cast<int>(t), visible = (at + 1) / kCsaRatio;
      std::vector<int32_t> all(topk, -1);  // nothing need be written where all are kept
      for (int i = 0; i < std::min(visible, static_cast<int>(topk)); ++i) all[static_cast<size_t>(i)] = i;
      put(record.entries, select_call, at, visible <= static_cast<int>(topk) ? all.data() : chosen.data() + t * topk, topk);
      put(record.indexer, select_call, at, scores.data() + t * stride, static_cast<size_t>(visible));
    }
    ++select_call;
  }

  Record record;

 private:
  template <class T>
  std::vector<T> download(const void* from, size_t count) {
    std::vector<T> host(count);
    check(cudaStreamSynchronize(queue_), "choices");
    check(cudaMemcpy(host.data(), from, count * sizeof(T), cudaMemcpyDeviceToHost), "choices");
    return host;
  }
};

/// The exact CPU backend, token by token, taking the recorded choices.
class FollowingOps : public CountingOps<cpu::CpuOps> {
 public:
  using CountingOps::CountingOps;

  void route(const Batch& batch, const MoeWeights& weights, Array hidden, Array routing) override {
    CpuOps::route(batch, weights, hidden, routing);
    const std::vector<int32_t>& theirs = record->experts.at(route_call).at(position);
    const int picks = config_.experts_per_token;
    auto* ids = static_cast<int32_t*>(routing.data);
    float* chosen = cpu::floats_of(routing) + picks;
    const float* own = scratch_.router;
    const Scores scores{own, record->router.at(route_call).at(position), cpu::floats_of(weights.bias), router};
    if (weights.tid2eid.data == nullptr) note("experts", {ids, ids + picks}, theirs, scores);
    float total = 0;
    for (int32_t e : theirs) total += own[e];
    for (size_t k = 0; k < theirs.size(); ++k) {
      ids[k] = theirs[k];
      chosen[k] = own[theirs[k]] / (total + 1e-20f) * config_.routed_scaling_factor;
    }
    ++route_call;
  }

  void select(const Batch& batch, int layer, const IndexerWeights& weights, Array hidden, Array latent,
              Array selection) override {
    CpuOps::select(batch, layer, weights, hidden, latent, selection);
    const std::vector<int32_t>& theirs = record->entries.at(select_call).at(position);
    auto* chosen = static_cast<int32_t*>(selection.data);
    if ((position + 1) / kCsaRatio > config_.index_topk) {  // the only token, the only worker: its scores are still there
      const Scores scores{workers_[0].index_scores, record->indexer.at(select_call).at(position), nullptr, indexer};
      note("entries", {chosen, chosen + config_.index_topk}, theirs, scores);
    }
    std::copy(theirs.begin(), theirs.end(), chosen);
    ++select_call;
  }

  const Record* record = nullptr;
  Difference router, indexer;   // scores, theirs against ours
  int others = 0, choices = 0;  // tokens with another choice; tokens that chose
  double widest = 0;            // margin of another choice, in errors of the token's scores
  int first_other = 1 << 30;    // position

 private:
  /// What one token chooses by.
  struct Scores {
    const float* ours;
    const std::vector<float>& theirs;
    const float* bias;  // added when choosing; may be null
    Difference& all;
  };

  void note(const char* what, const std::vector<int32_t>& ours, const std::vector<int32_t>& theirs, const Scores& scores) {
    ++choices;
    double error = 0, dropped = -1e30, taken = 1e30;
    for (size_t e = 0; e < scores.theirs.size(); ++e) {
      scores.all.add(scores.theirs[e], scores.ours[e]);
      error = std::max(error, std::abs(static_cast<double>(scores.theirs[e]) - scores.ours[e]));
    }
    const auto score = [&scores](int32_t e) { return scores.ours[e] + (scores.bias != nullptr ? scores.bias[e] : 0.0); };
    for (int32_t e : ours) {
      if (std::find(theirs.begin(), theirs.end(), e) == theirs.end()) dropped = std::max(dropped, score(e));
    }
    for (int32_t e : theirs) {
      if (std::find(ours.begin(), ours.end(), e) == ours.end()) taken = std::min(taken, score(e));
    }
    if (taken > 1e29) return;
    ++others;
    first_other = std::min(first_other, position);
    const double margin = (dropped - taken) / error;
    if (margin <= widest) return;
    widest = margin;
    std::printf("    position %d, %s: margin %.2e, largest error of its scores %.2e\n", position, what, dropped - taken, error);
  }
};

}  // namespace twelvex::test
