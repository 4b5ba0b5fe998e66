// SPDX-License-Identifier: MIT
// test/oracle/tiny at every position. Its weights are random, so that experts and compressed entries are often nearly tied, and
// bf16 activations take another one than exact arithmetic. That changes the token's streams and, through windows, all later
// positions: no rounding bound holds behind it. So the device's choices are recorded and the exact CPU backend (which agrees
// with the ground truth, test/native/cpu/tie_test.cc) follows them: wherever it would have chosen otherwise, the device's choice
// must be within the numerical error of its own, and with the device's choices every position must agree.
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
constexpr double kBound = 1.5e-2;  // relative, of logits, of router scores, and of the margin of another choice

/// Choices of one kind of call: [call of the step][position] -> ids.
using Calls = std::vector<std::map<int, std::vector<int32_t>>>;

struct Record {
  Calls experts, entries;                                       // route and select calls
  std::vector<std::map<int, std::vector<float>>> router;        // scores of every expert
};

template <class T>
void put(std::vector<std::map<int, std::vector<T>>>& calls, size_t call, int position, const T* values, size_t count) {
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
    for (size_t t = 0; t < tokens; ++t) {
      put(record.entries, select_call, position + static_cast<int>(t), chosen.data() + t * topk, topk);
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
    const std::vector<float>& scores = record->router.at(route_call).at(position);
    const int picks = config_.experts_per_token;
    auto* ids = static_cast<int32_t*>(routing.data);
    float* chosen = cpu::floats_of(routing) + picks;
    const float* own = scratch_.router;
    for (int e = 0; e < config_.num_experts; ++e) router.add(scores[static_cast<size_t>(e)], own[e]);
    const std::vector<int32_t> ours(ids, ids + picks);
    if (weights.tid2eid.data == nullptr) {
      const float* bias = cpu::floats_of(weights.bias);
      note("experts", ours, theirs, [&](int32_t e) { return own[e] + bias[e]; });
    }
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
    const std::vector<int32_t> ours(chosen, chosen + config_.index_topk);
    if (ours.back() >= 0) {  // the only token and the only worker: its scores are still there
      note("entries", ours, theirs, [&](int32_t e) { return workers_[0].index_scores[e]; });
    }
    std::copy(theirs.begin(), theirs.end(), chosen);
    ++select_call;
  }

  const Record* record = nullptr;
  Difference router;            // scores, ours against theirs
  int others = 0, choices = 0;  // tokens with another choice; tokens that chose
  double widest = 0;            // margin of another choice, relative to the largest score
  int first_other = 1 << 30;    // position

 private:
  template <class Score>
  void note(const char* what, const std::vector<int32_t>& ours, const std::vector<int32_t>& theirs, const Score& score) {
    ++choices;
    double dropped = -1e30, taken = 1e30, largest = 0;
    for (int32_t e : ours) {
      largest = std::max(largest, std::abs(static_cast<double>(score(e))));
      if (std::find(theirs.begin(), theirs.end(), e) == theirs.end()) dropped = std::max<double>(dropped, score(e));
    }
    for (int32_t e : theirs) {
      if (std::find(ours.begin(), ours.end(), e) == ours.end()) taken = std::min<double>(taken, score(e));
    }
    if (taken > 1e29) return;
    const double margin = largest > 0 ? (dropped - taken) / largest : 0;
    ++others;
    first_other = std::min(first_other, position);
    if (margin > widest) {
      widest = margin;
      std::printf("    position %d, %s: margin %.2e of the largest score %.3g\n", position, what, margin, largest);
    }
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
  std::snprintf(text, sizeof text, "  %d of %d choices differ, first at %d, by %.2e of the scores at most; router scores %.2e",
                host.ops.others, host.ops.choices, host.ops.first_other, host.ops.widest, host.ops.router.relative());
  expect(host.ops.widest <= kBound && host.ops.router.relative() <= kBound, text);
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
