// SPDX-License-Identifier: MIT
// Two ranks on two devices: the oracles' bounds, both ranks' bits after every sum over ranks, sums in pieces against sums in line, and
// greedy text beside that of one rank. Run from the repository's root; with fewer devices it says so and does nothing.
#include <cstdlib>
#include <thread>

#include "backend.h"
#include "bare_model.h"
#include "oracle_truth.h"
#include "runtime/error.h"
#include "support.h"

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
class CheckedOps : public cuda::CudaOps {
 public:
  using CudaOps::CudaOps;

  void all_reduce(const Batch& batch, Array array) override {
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

  bool watch = false;
  int sums = 0, different = 0;
};

using RankModel = BareModel<CheckedOps>;

/// Runs `body` on every rank's thread with its model; rank's device = rank.
void on_ranks(const std::string& model, const BareOptions& options, const std::function<void(RankModel&, int)>& body) {
  const auto group = std::make_shared<RankGroup>(kRanks);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < kRanks; ++rank) {
    threads.emplace_back([&, rank] {
      try {
        BareOptions mine = options;
        mine.shape = {rank, kRanks};
        mine.group = group;
        mine.device = rank;
        RankModel loaded(model, mine);
        body(loaded, rank);
        group->wait();
      } catch (const Error& error) {
        std::printf("  rank %d: %s\n", rank, error.what());
        group->fail(error.what());
        ++failures;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
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

Trace prefill(RankModel& model, const std::vector<int32_t>& tokens, int chunk) {
  Trace trace;
  const int length = static_cast<int>(tokens.size());
  for (int first = 0; first < length; first += chunk) {
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

struct Likeness {
  double kl = 0;
  size_t top = 0, rows = 0;
};

/// Mean divergence from `want` and how often the most likely token is the same, over the last rows.
void compare(const std::vector<float>& got, const Truth& want, Likeness& sum) {
  const size_t vocab = want.vocab, skipped = got.size() / vocab - want.rows;
  for (size_t r = 0; r < want.rows; ++r) {
    const float *p = want.logits.data() + r * vocab, *q = got.data() + (skipped + r) * vocab;
    const auto normaliser = [vocab](const float* x) {
      double top = *std::max_element(x, x + vocab), total = 0;
      for (size_t i = 0; i < vocab; ++i) total += std::exp(x[i] - top);
      return top + std::log(total);
    };
    const double np = normaliser(p), nq = normaliser(q);
    for (size_t i = 0; i < vocab; ++i) sum.kl += std::exp(p[i] - np) * ((p[i] - np) - (q[i] - nq));
    sum.top += std::max_element(p, p + vocab) - p == std::max_element(q, q + vocab) - q;
    ++sum.rows;
  }
}

void check_oracle(const std::string& name, const std::string& directory, size_t comparable) {
  const auto truths = read_truth("test/oracle/" + name);
  on_ranks(directory, demo_options(), [&](RankModel& model, int rank) {
    for (const int chunk : {1024, 127, 7}) {
      double worst = 0, worst_mtp = 0;
      for (const Truth& t : truths) {
        const size_t length = std::min(comparable, t.tokens.size());
        std::vector<float> logits = t.logits, mtp_logits = t.mtp_logits;
        size_t rows = t.rows, mtp_rows = t.mtp_rows;
        if (length < t.tokens.size()) {
          logits.resize(length * t.vocab), rows = length;
          mtp_logits.resize((length - 1) * t.vocab), mtp_rows = length - 1;
        }
        const Trace trace = prefill(model, {t.tokens.begin(), t.tokens.begin() + static_cast<long>(length)}, chunk);
        worst = std::max(worst, error_of(trace.logits, logits, length, rows, t.vocab));
        worst_mtp = std::max(worst_mtp, error_of(trace.mtp_logits, mtp_logits, length - 1, mtp_rows, t.vocab));
      }
      char text[160];
      std::snprintf(text, sizeof text, "%s on two devices, chunks of %d: logits %.2e, MTP logits %.2e (limit 1.5e-2)",
                    name.c_str(), chunk, worst, worst_mtp);
      if (rank == 0) expect(worst <= 1.5e-2 && worst_mtp <= 1.5e-2, text);
    }
  });
}

std::string describe(const Likeness& sum) {
  char text[64];
  std::snprintf(text, sizeof text, "mean KL %.2e, same top token %.1f %%", sum.kl / static_cast<double>(sum.rows),
                100.0 * static_cast<double>(sum.top) / static_cast<double>(sum.rows));
  return text;
}

void check_served() {
  const auto truths = read_truth("test/oracle/demo");
  BareOptions options = demo_options();
  options.rows = RowFormat::kFp8;
  options.numerics = Numerics::kServed;
  {
    RankModel model("models/demo", options);
    Likeness sum;
    for (const Truth& t : truths) compare(prefill(model, t.tokens, 1024).logits, t, sum);
    std::printf("  demo served on one device: %s of %zu positions\n", describe(sum).c_str(), sum.rows);
  }
  on_ranks("models/demo", options, [&](RankModel& model, int rank) {
    for (const int chunk : {1024, 50}) {
      Likeness sum;
      for (const Truth& t : truths) compare(prefill(model, t.tokens, chunk).logits, t, sum);
      const auto rows = static_cast<double>(sum.rows);
      if (rank == 0)
        expect(sum.kl <= 0.02 * rows && static_cast<double>(sum.top) >= 0.97 * rows,
               "demo served on two devices, chunks of " + std::to_string(chunk) + ": " + describe(sum) + " (0.02, 97)");
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
             name + ": " + std::to_string(length) + " tokens, " + std::to_string(whole.reductions_overlapped) + " sums in pieces, " +
                 std::to_string(whole.reductions_inline) + " in line");
      expect(tail.reductions_overlapped == 0, name + ": 17 tokens: every sum in line");
    }
    if (rank == 0)
      expect(with.size() == without.size() && std::memcmp(with.data(), without.data(), with.size() * 4) == 0,
             name + ": sums in pieces and in line give the same bits");
  });
}

/// Greedy tokens, and the margin of each between the two most likely ones.
struct Text {
  std::vector<int32_t> tokens;
  std::vector<float> margins;
};

Text generate(RankModel& model, std::vector<int32_t> tokens, int count) {
  Text text;
  int first = 0;
  for (int i = 0; i < count; ++i) {
    const StepOutput out =
        model.prefill(tokens, first, static_cast<int>(tokens.size()) - first, kRowAllLogits | kRowSample);
    first = static_cast<int>(tokens.size());
    const float* last = out.logits.data() + out.logits.size() - static_cast<size_t>(model.config.vocab_size);
    std::vector<float> row(last, last + model.config.vocab_size);
    std::nth_element(row.begin(), row.begin() + 1, row.end(), std::greater<>());
    text.margins.push_back(row[0] - row[1]);
    text.tokens.push_back(out.accepted[0]);
    tokens.push_back(out.accepted[0]);
  }
  return text;
}

void check_text() {
  const auto truths = read_truth("test/oracle/demo");
  BareOptions options = demo_options();
  options.limits.mtp = 0;
  std::vector<Text> one, two;
  {
    RankModel model("models/demo", options);
    for (const Truth& t : truths) one.push_back(generate(model, t.tokens, static_cast<int>(t.greedy.size())));
  }
  on_ranks("models/demo", options, [&](RankModel& model, int rank) {
    for (const Truth& t : truths) {
      const Text text = generate(model, t.tokens, static_cast<int>(t.greedy.size()));
      if (rank == 0) two.push_back(text);
    }
  });
  for (size_t i = 0; i < two.size(); ++i) {
    const auto& [a, margins] = one[i];
    const size_t same = static_cast<size_t>(std::mismatch(a.begin(), a.end(), two[i].tokens.begin()).first - a.begin());
    char text[160];
    if (same == a.size()) {
      std::snprintf(text, sizeof text, "demo prompt %zu: all %zu greedy tokens as with one rank", i, a.size());
      expect(true, text);
      continue;
    }
    std::snprintf(text, sizeof text, "demo prompt %zu: greedy text as with one rank up to token %zu of %zu, a tie to %.4f", i, same,
                  a.size(), margins[same]);
    expect(margins[same] < 0.05f, text);
  }
}

}  // namespace

int main(int argc, char** argv) {
  start("two_gpus", argc, argv);
  setenv("CUDA_MODULE_LOADING", "EAGER", 0);  // as the backend does, but before the first call
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices < kRanks) {
    std::printf("two_gpus: SKIPPED, %d device(s) here\n", devices);
    return 0;
  }
  try {
    BareOptions demo = demo_options();
    check_bits("demo", "models/demo", demo, 4096);
    demo.rows = RowFormat::kFp8;
    demo.numerics = Numerics::kServed;
    check_bits("demo served", "models/demo", demo, 4096);
    BareOptions flash = demo;
    flash.dummy = true;
    flash.layers = 3;
    flash.limits = {.step_tokens = 4096, .rows = 4, .context_tokens = 8192, .logit_slice = 64};
    check_bits("three layers of Flash", "models/flash", flash, 129280);
    check_oracle("tiny", "test/oracle/tiny", 67);
    check_oracle("demo", "models/demo", 1 << 20);
    check_served();
    check_text();
  } catch (const Error& error) {
    expect(false, error.what());
  }
  return finish("two_gpus");
}
