// SPDX-License-Identifier: MIT
// test/oracle/tiny at every position. Its weights are random, so that experts and compressed entries are often nearly tied, and
// bf16 activations take another one than exact arithmetic. That changes the token's streams and, through windows, all later
// positions: no rounding bound holds behind it. So the device's choices are recorded and the exact CPU backend (which agrees
// with the ground truth, test/native/cpu/tie_test.cc) follows them. Shown for every layer and position: the scores that are
// chosen by agree; where the CPU would have chosen otherwise, its margin is below the error of the scores at that very place;
// and with the device's choices all logits agree.
#include <map>

#include "backend.h"
#include "bare_model.h"
#include "cpu/cpu_ops.h"
#include "oracle_truth.h"
#include "support.h"

using namespace twelvex;
using namespace twelvex::test;

namespace {

const std::string kTiny = "test/oracle/tiny";
constexpr double kBound = 1.5e-2;  // relative, of logits and of the scores that experts and entries are chosen by

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

float sqrt_softplus(float x) { return std::sqrt(x > 20.0f ? x : std::log1p(std::exp(x))); }

/// The CUDA backend, writing down what it chooses.
class RecordingOps : public cuda::CudaOps {
 public:
  using CudaOps::CudaOps;

  Batch begin_step(const StepInput& input) override {
    route_call = select_call = 0;
    position = input.position[0];
    return CudaOps::begin_step(input);
  }

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
      put(record.entries, select_call, at, chosen.data() + t * topk, topk);
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

  size_t route_call = 0, select_call = 0;
  int position = 0;
};

/// The exact CPU backend, token by token, taking the recorded choices.
class FollowingOps : public cpu::CpuOps {
 public:
  using CpuOps::CpuOps;

  Batch begin_step(const StepInput& input) override {
    route_call = select_call = 0;
    position = input.position[0];
    return CpuOps::begin_step(input);
  }

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

  size_t route_call = 0, select_call = 0;
  int position = 0;
};

struct Trace {
  std::vector<float> logits, mtp_logits;
  void add(const StepOutput& out) {
    logits.insert(logits.end(), out.logits.begin(), out.logits.end());
    mtp_logits.insert(mtp_logits.end(), out.mtp_logits.begin(), out.mtp_logits.end());
  }
};

BareOptions tiny_options() {
  BareOptions options;
  options.limits = {.step_tokens = 512, .rows = 2, .context_tokens = 512, .mtp = 1, .logit_slice = 100};
  return options;
}

double error_of(const std::vector<float>& got, const std::vector<float>& want, size_t count) {
  Difference d;
  for (size_t i = 0; i < count; ++i) d.add(got.at(i), want.at(i));
  return d.relative();
}

/// Returns the first position of another choice.
int check_every_position(const std::vector<int32_t>& tokens, int chunk, Trace& got) {
  const int count = static_cast<int>(tokens.size());
  BareModel<RecordingOps> device(kTiny, tiny_options());
  BareOptions exact = tiny_options();
  exact.rows = RowFormat::kF32;
  exact.stream_element_bytes = 4;
  BareModel<FollowingOps> host(kTiny, exact);
  Trace followed;
  for (int first = 0; first < count; first += chunk) {
    got.add(device.prefill(tokens, first, std::min(chunk, count - first), kRowAllLogits));
  }
  host.ops.record = &device.ops.record;
  for (int first = 0; first < count; ++first) followed.add(host.prefill(tokens, first, 1, kRowAllLogits));
  const auto vocab = static_cast<size_t>(device.config.vocab_size);
  const double logits = error_of(got.logits, followed.logits, followed.logits.size());
  // The last position's successor is unknown: its MTP logits mean nothing.
  const double mtp = error_of(got.mtp_logits, followed.mtp_logits, followed.mtp_logits.size() - vocab);
  double worst = 0;
  for (size_t at = 0; at < followed.logits.size(); at += vocab) {
    Difference d;
    for (size_t i = at; i < at + vocab; ++i) d.add(got.logits[i], followed.logits[i]);
    worst = std::max(worst, d.relative());
  }
  char text[200];
  std::snprintf(text, sizeof text, "tiny, chunks of %d, %d positions, device's choices: logits %.2e (one position %.2e), MTP %.2e",
                chunk, count, logits, worst, mtp);
  expect(logits <= kBound && mtp <= kBound, text);
  const double router = host.ops.router.relative(), indexer = host.ops.indexer.relative();
  std::snprintf(text, sizeof text, "  scores: router %.2e, indexer %.2e", router, indexer);
  expect(router <= kBound && indexer <= kBound, text);
  // Two scores that each move by the error change places up to a margin of twice that.
  std::snprintf(text, sizeof text, "  %d of %d choices differ, first at %d, margins up to %.2f errors", host.ops.others,
                host.ops.choices, host.ops.first_other, host.ops.widest);
  expect(host.ops.widest <= 2, text);
  return host.ops.first_other;
}

/// The ground truth itself, before anything was chosen otherwise: by the device, or in the ground truth at an exact tie of
/// entries (test/native/cpu/tie_test.cc).
void check_truth(const Truth& truth, const Trace& got, int comparable) {
  const double error = error_of(got.logits, truth.logits, static_cast<size_t>(comparable) * truth.vocab);
  char text[160];
  std::snprintf(text, sizeof text, "  the ground truth's first %d positions: logits %.2e", comparable, error);
  expect(comparable > 0 && error <= kBound, text);
}

}  // namespace

int main(int argc, char** argv) {
  start("choices", argc, argv);
  try {
    const auto truths = read_truth(kTiny);
    constexpr int kFirstTie[] = {127, 78};
    for (const int chunk : {512, 64, 7, 1}) {
      for (size_t i = 0; i < truths.size(); ++i) {
        Trace got;
        const int other = check_every_position(truths[i].tokens, chunk, got);
        check_truth(truths[i], got, std::min(other, kFirstTie[i]));
      }
      std::vector<int32_t> random;
      for (int i = 0; i < 300; ++i) random.push_back(below(256));
      Trace got;
      check_every_position(random, chunk, got);
    }
  } catch (const Error& error) {
    expect(false, error.what());
  }
  return finish("choices");
}
