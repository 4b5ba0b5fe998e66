// SPDX-License-Identifier: MIT
// Two ranks on two devices: the oracles' bounds, both ranks' bits after every sum over ranks, sums in pieces against sums in
// line, and logits and greedy text equal to those of one device. Run from the repository's root; with fewer devices it says so
// and does nothing.
// --bench: prefill with and without overlapped sums.
#include "backend.h"
#include "bare_model.h"
#include "choices.h"
#include "likeness.h"
#include "oracle_truth.h"
#include "rank_threads.h"

using namespace twelvex;
using namespace twelvex::test;

namespace {

constexpr int kRanks = 2;

uint64_t hash_of(const std::vector<uint64_t>& words) {
  uint64_t hash = 14695981039346656037ull;
  for (const uint64_t word : words) hash = (hash ^ word) * 1099511628211ull;
  return hash;
}

/// Compares the ranks' bits behind every sum over ranks.
class CheckedOps : public RecordingOps {
 public:
  using RecordingOps::RecordingOps;

  void all_reduce(const Batch& batch, Array array) override {
    if (silent) return;
    CudaOps::all_reduce(batch, array);
    if (!watch || batch.tokens == 0) return;
    check(cudaDeviceSynchronize(), "all_reduce");  // pieces are summed beside this queue
    std::vector<uint64_t> words(static_cast<size_t>(batch.tokens) * static_cast<size_t>(config_.hidden_size) / 4);
    check(cudaMemcpy(words.data(), array.data, words.size() * 8, cudaMemcpyDeviceToHost), "download");
    comm_->check_alive();
    uint64_t mine = hash_of(words);
    for (const void* other : options_.group->enter(options_.shape.rank, &mine))
      different += *static_cast<const uint64_t*>(other) != mine;
    options_.group->leave();
    ++sums;
  }

  void overlap(bool on) { overlap_reductions_ = on; }

  void route(const Batch& batch, const MoeWeights& weights, Array hidden, Array routing) override {
    recording ? RecordingOps::route(batch, weights, hidden, routing) : CudaOps::route(batch, weights, hidden, routing);
  }
  void select(const Batch& batch, int layer, const IndexerWeights& weights, Array hidden, Array latent,
              Array selection) override {
    recording ? RecordingOps::select(batch, layer, weights, hidden, latent, selection)
              : CudaOps::select(batch, layer, weights, hidden, latent, selection);
  }

  bool watch = false, recording = false;
  bool silent = false;  // without sums: what they cost
  int sums = 0, different = 0;
};

using RankModel = BareModel<CheckedOps>;

/// Runs `body` on every rank's thread with its model; rank's device = rank.
void on_ranks(const std::string& model, const BareOptions& options, const std::function<void(RankModel&, int)>& body) {
  run_ranks(kRanks, [&](const std::shared_ptr<RankGroup>& group, int rank) {
    BareOptions mine = options;
    mine.shape = {rank, kRanks};
    mine.group = group;
    mine.device = rank;
    RankModel loaded(model, mine);
    body(loaded, rank);
    group->wait();
  });
}

BareOptions demo_options() {
  BareOptions options;
  options.limits = {.step_tokens = 4096, .rows = 4, .context_tokens = 8192, .mtp = 2, .logit_slice = 64};
  return options;
}

std::vector<int32_t> random_tokens(int count, int vocab) {
  std::vector<int32_t> tokens;
  for (int i = 0; i < count; ++i) tokens.push_back(below(vocab));
  return tokens;
}

/// The trace of a prompt in chunks of `chunk`.
struct Trace {
  std::vector<float> logits, mtp_logits;
  int overlapped = 0, in_line = 0;
};

Trace prefill(RankModel& model, const std::vector<int32_t>& tokens, int chunk, int first = 0) {
  Trace trace;
  const int length = static_cast<int>(tokens.size());
  for (; first < length; first += chunk) {
    const StepOutput out = model.prefill(tokens, first, std::min(chunk, length - first), kRowAllLogits);
    trace.logits.insert(trace.logits.end(), out.logits.begin(), out.logits.end());
    trace.mtp_logits.insert(trace.mtp_logits.end(), out.mtp_logits.begin(), out.mtp_logits.end());
    trace.overlapped += out.reductions_overlapped;
    trace.in_line += out.reductions_inline;
  }
  return trace;
}

double error_of(const std::vector<float>& got, const std::vector<float>& want, size_t positions, size_t rows, size_t vocab) {
  Difference d;
  const size_t first = (positions - rows) * vocab;
  for (size_t i = 0; i < want.size(); ++i) d.add(first + i < got.size() ? got[first + i] : NAN, want[i]);
  return d.relative();
}

void check_demo() {
  const auto truths = read_truth("test/oracle/demo");
  on_ranks("models/demo", demo_options(), [&](RankModel& model, int rank) {
    for (const int chunk : cases({127, 1024, 7}, 1)) {
      double worst = 0, worst_mtp = 0;
      for (const Truth& t : truths) {
        const Trace trace = prefill(model, t.tokens, chunk);
        worst = std::max(worst, error_of(trace.logits, t.logits, t.tokens.size(), t.rows, t.vocab));
        worst_mtp = std::max(worst_mtp, error_of(trace.mtp_logits, t.mtp_logits, t.tokens.size() - 1, t.mtp_rows, t.vocab));
      }
      char text[160];
      std::snprintf(text, sizeof text, "demo on two devices, chunks of %d: logits %.2e, MTP logits %.2e (limit 1.5e-2)", chunk,
                    worst, worst_mtp);
      if (rank == 0) expect(worst <= 1.5e-2 && worst_mtp <= 1.5e-2, text);
    }
  });
}

/// Random weights: with the device's choices of experts (choices.h), and as long as every compressed entry is kept.
void check_tiny() {
  constexpr int kAllKept = 67;
  for (const Truth& truth : read_truth("test/oracle/tiny")) {
    const std::vector<int32_t> tokens(truth.tokens.begin(), truth.tokens.begin() + kAllKept);
    Trace got;
    Record record;
    on_ranks("test/oracle/tiny", demo_options(), [&](RankModel& model, int rank) {
      model.ops.recording = true;
      Trace trace = prefill(model, tokens, kAllKept);
      if (rank == 0) got = std::move(trace), record = model.ops.record;
    });
    BareOptions exact = demo_options();
    exact.rows = RowFormat::kF32;
    exact.stream_element_bytes = 4;
    BareModel<FollowingOps> host("test/oracle/tiny", exact);
    host.ops.record = &record;
    Trace want;
    for (int first = 0; first < kAllKept; ++first) {
      const StepOutput out = host.prefill(tokens, first, 1, kRowAllLogits);
      want.logits.insert(want.logits.end(), out.logits.begin(), out.logits.end());
      want.mtp_logits.insert(want.mtp_logits.end(), out.mtp_logits.begin(), out.mtp_logits.end());
    }
    want.mtp_logits.resize(want.mtp_logits.size() - truth.vocab);  // the last position's successor is unknown
    const double logits = error_of(got.logits, want.logits, kAllKept, kAllKept, truth.vocab),
                 mtp = error_of(got.mtp_logits, want.mtp_logits, kAllKept - 1, kAllKept - 1, truth.vocab);
    char text[160];
    std::snprintf(text, sizeof text, "tiny on two devices, its choices (%d differ): logits %.2e, MTP logits %.2e (limit 1.5e-2)",
                  host.ops.others, logits, mtp);
    expect(logits <= 1.5e-2 && mtp <= 1.5e-2 && host.ops.widest <= 2, text);
  }
}

/// Served numerics against the ground truth's positions and against all positions of one device's exact arithmetic.
void check_served() {
  const auto truths = read_truth("test/oracle/demo");
  BareOptions options = demo_options();
  std::vector<Trace> exact, one;
  const auto all = [&](RankModel& model, int chunk) {
    std::vector<Trace> traces;
    for (const Truth& t : truths) traces.push_back(prefill(model, t.tokens, chunk));
    return traces;
  };
  exact = all(*std::make_unique<RankModel>("models/demo", options), 1024);
  options.rows = RowFormat::kFp8;
  options.numerics = Numerics::kServed;
  one = all(*std::make_unique<RankModel>("models/demo", options), 1024);
  const auto judge = [&](const std::string& name, const std::vector<Trace>& traces) {
    Likeness to_truth, to_exact;
    for (size_t i = 0; i < truths.size(); ++i) {
      to_truth = to_truth + compare(traces[i].logits, truths[i].logits, truths[i].vocab);
      to_exact = to_exact + compare(traces[i].logits, exact[i].logits, truths[i].vocab);
    }
    std::printf("  demo served on %s: %s\n", name.c_str(), describe_to_truth(to_truth).c_str());
    const bool near = to_truth.mean_kl() <= 0.02 && to_exact.decisive_at_least(0.98);
    expect(near, "  and beside exact: " + describe(to_exact));
  };
  judge("one device", one);
  on_ranks("models/demo", options, [&](RankModel& model, int rank) {
    for (const int chunk : {1024, 50}) {
      const std::vector<Trace> two = all(model, chunk);
      if (rank == 0) judge("two devices, chunks of " + std::to_string(chunk), two);
    }
  });
}

/// Sums of whole prefill and decode steps, ranks compared behind each; sums in pieces against sums in line.
void check_bits(const std::string& name, const std::string& directory, const BareOptions& options, int vocab) {
  const std::vector<int32_t> tokens = random_tokens(options.limits.step_tokens, vocab);
  on_ranks(directory, options, [&](RankModel& model, int rank) {
    std::vector<float> with, without;
    for (const bool overlap : {true, false}) {
      model.ops.overlap(overlap);
      model.ops.watch = true;
      model.ops.sums = model.ops.different = 0;
      const int length = static_cast<int>(tokens.size());
      std::vector<float>& logits = overlap ? with : without;
      const StepOutput whole = model.prefill(tokens, 0, length - 17, 0);
      const StepOutput tail = model.prefill(tokens, length - 17, 17, kRowAllLogits);
      logits = tail.logits;
      model.ops.watch = false;
      if (rank != 0) continue;
      expect(model.ops.different == 0 && model.ops.sums > 0,
             name + ": the ranks' bits are equal behind each of " + std::to_string(model.ops.sums) + " sums");
      expect(overlap ? whole.reductions_overlapped > 0 : whole.reductions_overlapped == 0,
             name + ": " + std::to_string(length) + " tokens, " + std::to_string(whole.reductions_overlapped) +
                 " sums in pieces, " + std::to_string(whole.reductions_inline) + " in line");
      expect(tail.reductions_overlapped == 0, name + ": 17 tokens: every sum in line");
    }
    if (rank == 0)
      expect(with.size() == without.size() && std::memcmp(with.data(), without.data(), with.size() * 4) == 0,
             name + ": sums in pieces and in line give the same bits");
  });
}

/// `count` tokens behind a prompt of which all but the last token are in the cache.
std::vector<int32_t> generate(RankModel& model, std::vector<int32_t> tokens, int count) {
  const size_t prompt = tokens.size();
  for (int i = 0; i < count; ++i) {
    const StepOutput out = model.prefill(tokens, static_cast<int>(tokens.size()) - 1, 1, kRowSample);
    tokens.push_back(out.accepted[0]);
  }
  return {tokens.begin() + static_cast<std::ptrdiff_t>(prompt), tokens.end()};
}

/// Logits of prompts and greedy answers. Steps of one token are graphs.
struct Answers {
  std::vector<Trace> traces;
  std::vector<std::vector<int32_t>> texts;
};

/// One device gives the bits of two (runtime/ops.h, Parts). What is before a prompt's last tokens is one step without logits: of
/// 2,048 tokens and more, two devices sum in pieces.
void check_one_device(const std::string& name, const std::string& directory, BareOptions options,
                      const std::vector<std::vector<int32_t>>& prompts) {
  constexpr int kLast = 600;
  options.limits.mtp = 0;
  const auto ask = [&](RankModel& model) {
    Answers answers;
    for (const std::vector<int32_t>& prompt : prompts) {
      const int before = std::max(0, static_cast<int>(prompt.size()) - kLast);
      if (before > 0) model.prefill(prompt, 0, before, 0);
      answers.traces.push_back(prefill(model, prompt, kLast, before));
      answers.texts.push_back(generate(model, prompt, 40));
    }
    return answers;
  };
  const Answers one = ask(*std::make_unique<RankModel>(directory, options));
  Answers two;
  on_ranks(directory, options, [&](RankModel& model, int rank) {
    Answers answers = ask(model);
    if (rank == 0) two = std::move(answers);
  });
  if (two.traces.size() != prompts.size()) return expect(false, name + ": two devices gave no answers");
  for (size_t i = 0; i < prompts.size(); ++i) {
    const std::vector<float> &a = one.traces[i].logits, &b = two.traces[i].logits;
    size_t different = a.size() == b.size() ? 0 : a.size();
    for (size_t k = 0; k < std::min(a.size(), b.size()); ++k) different += a[k] != b[k];
    const bool same = one.texts[i] == two.texts[i];
    expect(different == 0 && same, name + ", a prompt of " + std::to_string(prompts[i].size()) + " tokens: " +
                                       std::to_string(different) + " of " + std::to_string(a.size()) + " logits and " +
                                       (same ? "none" : "some") + " of 40 greedy tokens differ from one device's");
  }
}

void check_one_device() {
  std::vector<std::vector<int32_t>> prompts;
  for (const Truth& t : read_truth("test/oracle/demo")) prompts.push_back(t.tokens);
  BareOptions options = demo_options();
  check_one_device("demo", "models/demo", options, prompts);
  options.rows = RowFormat::kFp8;
  options.numerics = Numerics::kServed;
  check_one_device("demo served", "models/demo", options, prompts);
  options.dummy = true;
  options.layers = 3;
  check_one_device("three layers of Flash", "models/flash", options,
                   {random_tokens(2900, 129280), random_tokens(20, 129280), random_tokens(3, 129280)});
}

/// Prefill steps of seven layers of Flash with sums in pieces, in line, and without (whose results are wrong).
void bench() {
  BareOptions options;
  options.dummy = true;
  options.layers = 7;
  options.rows = RowFormat::kFp8;
  options.numerics = Numerics::kServed;
  options.limits = {.step_tokens = 8192, .rows = 4, .context_tokens = 8192 + 256};
  const std::vector<int32_t> tokens = random_tokens(8192, 129280);
  on_ranks("models/flash", options, [&](RankModel& model, int rank) {
    for (const int length : {2048, 4096, 8192}) {
      double ms[3];  // in pieces, in line, without
      for (const int way : {0, 1, 2}) {
        model.ops.overlap(way == 0);
        model.ops.silent = way == 2;
        std::vector<double> times;
        for (int i = 0; i < 9; ++i) {
          const auto begin = std::chrono::steady_clock::now();
          model.prefill(tokens, 0, length, kRowSample);
          times.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count());
        }
        std::sort(times.begin(), times.end());
        ms[way] = times[times.size() / 2];
      }
      if (rank == 0)
        std::printf("  %d tokens, 7 layers: %.2f ms in pieces, %.2f in line, %.2f without sums: %.0f %% hidden\n", length, ms[0],
                    ms[1], ms[2], 100 * (ms[1] - ms[0]) / (ms[1] - ms[2]));
    }
  });
}

}  // namespace

int main(int argc, char** argv) {
  const bool timed = start("two_gpus", argc, argv);
  setenv("CUDA_MODULE_LOADING", "EAGER", 0);  // as the backend does, but before the first call
  if (!has_devices("two_gpus", {kRanks - 1})) return 0;
  try {
    BareOptions demo = demo_options();
    if (brief) demo.limits.step_tokens = 2048 + 64;  // enough for sums in pieces
    check_bits("demo", "models/demo", demo, 4096);
    check_demo();
    if (brief) return finish("two_gpus");
    demo.rows = RowFormat::kFp8;
    demo.numerics = Numerics::kServed;
    check_bits("demo served", "models/demo", demo, 4096);
    BareOptions flash = demo;
    flash.dummy = true;
    flash.layers = 3;
    flash.limits = {.step_tokens = 4096, .rows = 4, .context_tokens = 8192, .logit_slice = 64};
    check_bits("three layers of Flash", "models/flash", flash, 129280);
    check_tiny();
    check_served();
    check_one_device();
    if (timed) bench();
  } catch (const Error& error) {
    expect(false, error.what());
  }
  return finish("two_gpus");
}
