// SPDX-License-Identifier: MIT
// The whole model on the device against the ground truth of test/oracle: any chunking, rows in bf16 and fp8, drafts, greedy
// text, the same bits alone and in company, the first request as fast as the hundredth. Run from the repository's root.
#include <chrono>
#include <cstdlib>

#include "likeness.h"
#include "oracle_truth.h"
#include "runtime/model.h"
#include "step_rows.h"
#include "support.h"

using namespace twelvex;
using namespace twelvex::test;

namespace {

constexpr int kRoom = 2048;  // tokens of a test sequence at most

struct Sequence {
  int slot = 0;
  std::vector<int32_t> tokens;
  int done = 0;
  std::vector<int32_t> drafts;
};

struct RowPlan {
  Sequence* sequence;
  int count;
  uint8_t flags = 0;
};

class Driver {
 public:
  /// Without a cache.
  Driver(const std::string& directory, const LoadOptions& options) : options_(options) {
    model = Model::load(directory, options_, {});
    blocks_ = options_.context_tokens / kBlockTokens + 2;
  }
  Driver(const std::string& directory, const LoadOptions& options, int sequences) : Driver(directory, options) {
    allocate(sequences);
  }

  void allocate(int sequences) {
    model->allocate_cache({.slots = sequences, .window_blocks = sequences * blocks_, .context_blocks = sequences * blocks_});
  }

  /// Rows in order; each takes `count` tokens of its sequence, plus its drafts when it has some.
  StepOutput step(const std::vector<RowPlan>& rows) {
    std::vector<StepRow> list;
    for (const auto& [sequence, count, flags] : rows) {
      StepRow row = row_of(sequence->tokens, sequence->done, count, flags);
      row.sequence = sequence->slot;
      row.sampling.logprobs = logprobs;
      row.drafts = static_cast<int>(sequence->drafts.size());
      if (row.drafts > 0) row.next_token = -1;
      row.tokens.insert(row.tokens.end(), sequence->drafts.begin(), sequence->drafts.end());
      list.push_back(std::move(row));
      sequence->done += count;
    }
    return model->step(step_of(list, blocks_, options_.mtp));
  }

  std::unique_ptr<Model> model;
  int logprobs = -1;  // of sampling rows; steps that ask for them are not graphs

 private:
  LoadOptions options_;
  int blocks_ = 0;
};

LoadOptions exact_options() {
  LoadOptions o;
  o.device = Device::kCuda;
  o.rows = RowFormat::kBF16;
  o.mtp = 2;
  o.step_tokens = 1024;
  o.max_rows = 8;
  o.context_tokens = kRoom;
  o.logit_slice = 100;
  return o;
}

/// Adds accepted tokens; keeps the drafts for the next step.
void accept(Sequence& s, const StepOutput& out, size_t index, int mtp) {
  const auto places = static_cast<size_t>(1 + mtp);
  const int n = out.accepted_count[index];
  for (int i = 0; i < n; ++i) s.tokens.push_back(out.accepted[index * places + static_cast<size_t>(i)]);
  s.done = static_cast<int>(s.tokens.size()) - 1;
  s.drafts.assign(out.drafts.begin() + static_cast<long>(index) * mtp, out.drafts.begin() + static_cast<long>(index + 1) * mtp);
}

std::vector<int32_t> generate(Driver& driver, int slot, const std::vector<int32_t>& prompt, int count, int mtp) {
  Sequence s{slot, prompt, 0, {}};
  accept(s, driver.step({{&s, static_cast<int>(prompt.size()), kRowSample}}), 0, mtp);
  while (s.tokens.size() < prompt.size() + static_cast<size_t>(count)) accept(s, driver.step({{&s, 1, kRowSample}}), 0, mtp);
  return {s.tokens.begin() + static_cast<long>(prompt.size()), s.tokens.begin() + static_cast<long>(prompt.size()) + count};
}

struct Trace {
  std::vector<float> logits, mtp_logits;
};

Trace prefill(Driver& driver, const Truth& truth, int chunk, size_t length) {
  Sequence s{0, truth.tokens, 0, {}};
  Trace trace;
  while (s.done < static_cast<int>(length)) {
    const StepOutput out = driver.step({{&s, std::min(chunk, static_cast<int>(length) - s.done), kRowAllLogits}});
    trace.logits.insert(trace.logits.end(), out.logits.begin(), out.logits.end());
    trace.mtp_logits.insert(trace.mtp_logits.end(), out.mtp_logits.begin(), out.mtp_logits.end());
  }
  return trace;
}

/// Relative error of the last rows of a trace.
double error_of(const std::vector<float>& got, const std::vector<float>& want, size_t positions, size_t rows, size_t vocab) {
  Difference d;
  const size_t first = (positions - rows) * vocab;
  for (size_t i = 0; i < want.size() && first + i < got.size(); ++i) d.add(got[first + i], want[i]);
  return got.size() >= first + want.size() ? d.relative() : NAN;
}

/// The demo's weights are trained: its choices are clear. For random ones see choices_test.cc.
void check_oracle(const std::string& name, const std::string& model) {
  const auto truths = read_truth("test/oracle/" + name);
  Driver driver(model, exact_options(), 4);
  for (const int chunk : {1024, 127, 64, 7, 1}) {
    double worst = 0, worst_mtp = 0;
    for (const Truth& t : truths) {
      const size_t length = t.tokens.size();
      const Trace trace = prefill(driver, t, chunk, length);
      worst = std::max(worst, error_of(trace.logits, t.logits, length, t.rows, t.vocab));
      worst_mtp = std::max(worst_mtp, error_of(trace.mtp_logits, t.mtp_logits, length - 1, t.mtp_rows, t.vocab));
    }
    char text[128];
    std::snprintf(text, sizeof text, "%s, chunks of %d: logits %.2e, MTP logits %.2e (limit 1.5e-2)", name.c_str(), chunk, worst,
                  worst_mtp);
    expect(worst <= 1.5e-2 && worst_mtp <= 1.5e-2, text);
  }
}

/// Prompts; under a sanitizer the shortest.
std::vector<Truth> prompts() {
  auto truths = read_truth("test/oracle/demo");
  if (brief) truths.resize(1);
  return truths;
}

void check_served() {
  const auto truths = prompts();
  LoadOptions options = exact_options();
  options.rows = RowFormat::kFp8;
  options.numerics = Numerics::kServed;
  Driver driver("models/demo", options, 4);
  for (const int chunk : cases({50, 1024}, 1)) {
    Likeness all;
    for (size_t i = 0; i < truths.size(); ++i) {
      const Truth& t = truths[i];
      const Likeness one = compare(prefill(driver, t, chunk, t.tokens.size()).logits, t.logits, t.vocab);
      char text[128];
      std::snprintf(text, sizeof text, "demo sequence %zu served, fp8 rows, chunks of %d: mean KL %.2e (limit 0.02)", i, chunk,
                    one.mean_kl());
      expect(one.mean_kl() <= 0.02, text);
      all = all + one;
    }
    expect(all.decisive_at_least(0.97), "  and all: " + describe_to_truth(all));
  }
}

void check_text(int mtp, int tp) {
  const auto truths = read_truth("test/oracle/demo");
  LoadOptions options = exact_options();
  options.mtp = mtp;
  options.tp = tp;
  options.devices = std::vector<int>(static_cast<size_t>(tp), 0);
  Driver driver("models/demo", options, 8);
  size_t same = 0, all = 0;
  for (const Truth& t : truths) {
    const auto text = generate(driver, 0, t.tokens, static_cast<int>(t.greedy.size()), mtp);
    for (size_t i = 0; i < text.size() && text[i] == t.greedy[i]; ++i) ++same;
    all += text.size();
  }
  char what[128];
  std::snprintf(what, sizeof what, "greedy text with mtp %d, tp %d: %zu of %zu tokens as the ground truth", mtp, tp, same, all);
  expect(same * 10 >= all * 9, what);
}

/// One rank and two on this device: every logit, and greedy text in single launches and in graphs.
void check_ranks() {
  const auto truths = read_truth("test/oracle/demo");
  for (const bool served : {false, true}) {
    LoadOptions options = exact_options();
    if (served) options.rows = RowFormat::kFp8, options.numerics = Numerics::kServed;
    std::vector<Trace> traces[2];
    std::vector<std::vector<int32_t>> texts[2];
    for (const int tp : {1, 2}) {
      options.tp = tp;
      options.devices = std::vector<int>(static_cast<size_t>(tp), 0);
      Driver driver("models/demo", options, 8);
      for (const Truth& t : truths) {
        for (const int chunk : {1024, 127}) traces[tp - 1].push_back(prefill(driver, t, chunk, t.tokens.size()));
        texts[tp - 1].push_back(generate(driver, 0, t.tokens, static_cast<int>(t.greedy.size()), options.mtp));
      }
    }
    size_t different = 0, all = 0;
    for (size_t i = 0; i < traces[0].size(); ++i) {
      const Trace &one = traces[0][i], &two = traces[1][i];
      for (size_t k = 0; k < one.logits.size(); ++k) different += one.logits[k] != two.logits[k];
      for (size_t k = 0; k < one.mtp_logits.size(); ++k) different += one.mtp_logits[k] != two.mtp_logits[k];
      all += one.logits.size() + one.mtp_logits.size();
    }
    expect(different == 0 && texts[0] == texts[1],
           std::string(served ? "served" : "exact") + ": one rank and two give the same text, " + std::to_string(different) +
               " of " + std::to_string(all) + " logits differ");
  }
}

/// Tokens of each sequence alone and all together.
void check_company() {
  const auto truths = prompts();
  const int length = brief ? 1 : 20, count = brief ? 2 : 8;  // tokens of a sequence, sequences
  std::vector<std::vector<int32_t>> alone[2];
  for (const int mtp : cases({2, 0}, 1)) {
    LoadOptions options = exact_options();
    options.rows = RowFormat::kFp8;
    options.numerics = Numerics::kServed;
    options.mtp = mtp;
    Driver driver("models/demo", options, 8);
    std::vector<Sequence> together;
    for (int i = 0; i < count; ++i) {
      const Truth& t = truths[static_cast<size_t>(i) % truths.size()];
      alone[mtp / 2].push_back(generate(driver, i, t.tokens, length, mtp));
    }
    for (int i = 0; i < count; ++i) {
      together.push_back({i, truths[static_cast<size_t>(i) % truths.size()].tokens, 0, {}});
      Sequence& s = together.back();
      accept(s, driver.step({{&s, static_cast<int>(s.tokens.size()), kRowSample}}), 0, mtp);
    }
    bool same = true;
    for (int step = 0; step < length; ++step) {
      std::vector<RowPlan> rows;
      for (Sequence& s : together) rows.push_back({&s, 1, kRowSample});
      const StepOutput out = driver.step(rows);
      for (size_t i = 0; i < together.size(); ++i) accept(together[i], out, i, mtp);
    }
    for (size_t i = 0; i < together.size(); ++i) {
      const size_t prompt = truths[i % truths.size()].tokens.size();
      same &=
          std::equal(alone[mtp / 2][i].begin(), alone[mtp / 2][i].end(), together[i].tokens.begin() + static_cast<long>(prompt));
    }
    expect(same, "mtp " + std::to_string(mtp) + ": " + std::to_string(count) + " sequences together give what each gives alone");
  }
  if (!brief) expect(alone[0] == alone[1], "the same text with and without drafts");
}

/// Decode steps as graphs and as single launches, for row counts with and without padding.
void check_graphs() {
  const auto truths = read_truth("test/oracle/demo");
  for (const int rows : {1, 3, 5}) {
    std::vector<std::vector<int32_t>> text[2];
    for (const int graphs : {0, 1}) {
      LoadOptions options = exact_options();
      options.rows = RowFormat::kFp8;
      Driver driver("models/demo", options, 8);
      driver.logprobs = graphs ? -1 : 0;
      std::vector<Sequence> sequences;
      for (int i = 0; i < rows; ++i) sequences.push_back({i, truths[static_cast<size_t>(i) % truths.size()].tokens, 0, {}});
      for (Sequence& s : sequences) accept(s, driver.step({{&s, static_cast<int>(s.tokens.size()), kRowSample}}), 0, 2);
      for (int step = 0; step < 12; ++step) {
        std::vector<RowPlan> plan;
        if (step == 5) sequences[0].drafts.pop_back();  // fewer drafts than places
        for (Sequence& s : sequences) plan.push_back({&s, 1, kRowSample});
        const StepOutput out = driver.step(plan);
        for (size_t i = 0; i < sequences.size(); ++i) accept(sequences[i], out, i, 2);
      }
      for (const Sequence& s : sequences) text[graphs].push_back(s.tokens);
    }
    expect(text[0] == text[1], std::to_string(rows) + " rows: graphs give the same tokens as single launches");
  }
}

/// Log-probabilities of a prompt against those of its logits, in slices of several rows and steps.
void check_prompt_logprobs() {
  const auto truths = read_truth("test/oracle/demo");
  LoadOptions options = exact_options();
  options.logit_slice = brief ? 13 : 37;
  Driver driver("models/demo", options, 4);
  Sequence logits{0, truths[2].tokens, 0, {}}, prompt = logits, both = logits;
  prompt.slot = 1, both.slot = 2;
  const int count = brief ? 20 : 90;
  const StepOutput out = driver.step({{&logits, count, kRowAllLogits}, {&prompt, count, kRowAllLogprobs},
                                      {&both, count, kRowAllLogits | kRowAllLogprobs}});
  const size_t vocab = truths[2].vocab;
  double worst = 0;
  int wrong = 0;
  for (size_t i = 0; i < 2 * count; ++i) {
    const size_t token = i % count;
    const float* row = out.logits.data() + (token + (i < count ? 0 : count)) * vocab;
    const float* best = std::max_element(row, row + vocab);
    double sum = 0;
    for (size_t v = 0; v < vocab; ++v) sum += std::exp(static_cast<double>(row[v]) - *best);
    const double normaliser = *best + std::log(sum), tokens_own = row[truths[2].tokens[token + 1]] - normaliser;
    worst = std::max(worst, std::abs(out.prompt_logprobs[i] - tokens_own));
    wrong += out.prompt_top_tokens[i * static_cast<size_t>(out.top_width)] != best - row;
  }
  char text[128];
  std::snprintf(text, sizeof text, "prompt log-probabilities in slices of %d: off by %.1e at most, %d other best tokens",
                options.logit_slice, worst, wrong);
  // The same text in another row of a step has the same logits but for the order of sums.
  expect(out.logits.size() == 2 * count * vocab && worst <= 1e-2 && wrong <= 1, text);
}

/// Seconds of a request: a prompt, then some tokens.
double request_seconds(Driver& driver, const std::vector<int32_t>& prompt, int tokens) {
  const auto start = std::chrono::steady_clock::now();
  generate(driver, 0, prompt, tokens, 2);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// What a server does at start, then a hundred requests: the first is as fast as the others, and so is the first step of every
/// number of rows and of a text so long that entries are scored.
void check_first_request() {
  const auto truths = read_truth("test/oracle/demo");
  LoadOptions options = exact_options();
  options.rows = RowFormat::kFp8;
  options.numerics = Numerics::kServed;
  options.logit_slice = 0;
  std::vector<int32_t> prompt(truths[2].tokens.begin(), truths[2].tokens.begin() + 100);
  std::vector<double> ratios;
  for (int start = 0; start < 3; ++start) {
    Driver driver("models/demo", options, 8);
    const auto begin = std::chrono::steady_clock::now();
    driver.model->warm_up();
    request_seconds(driver, prompt, 2);
    const std::chrono::duration<double> warm_up = std::chrono::steady_clock::now() - begin;
    const double first = request_seconds(driver, prompt, 20);
    std::vector<double> others;
    for (int i = 1; i < 100; ++i) others.push_back(request_seconds(driver, prompt, 20));
    std::sort(others.begin(), others.end());
    ratios.push_back(first / others[others.size() / 2]);
    std::printf("    warm-up %.2f s; first request %.2f ms, median of the next 99 %.2f ms, slowest %.2f ms\n", warm_up.count(),
                first * 1e3, others[others.size() / 2] * 1e3, others.back() * 1e3);
  }
  std::sort(ratios.begin(), ratios.end());
  char text[128];
  std::snprintf(text, sizeof text, "the first request takes %.3f times what the others take, median of 3 starts (limit 1.1)",
                ratios[1]);
  expect(ratios[1] <= 1.1, text);
}

/// A cache whose windows fit and whose context does not, then one that fits.
void check_refused_cache() {
  const Truth truth = read_truth("test/oracle/demo").front();
  Driver at_once("models/demo", exact_options(), 4), later("models/demo", exact_options());
  bool refused = false;
  try {
    later.model->allocate_cache({.slots = 4, .window_blocks = 1000, .context_blocks = 1 << 30});
  } catch (const Error& error) {
    refused = error.code() == ErrorCode::kOutOfMemory;
  }
  later.allocate(4);
  const size_t length = truth.tokens.size();
  const Trace want = prefill(at_once, truth, 127, length), got = prefill(later, truth, 127, length);
  expect(refused && got.logits == want.logits && got.mtp_logits == want.mtp_logits,
         "a refused cache leaves the model usable: one that fits then gives the same bits");
}

/// A csa gather beside the indexer and in line: the gate, and the same bits.
void check_overlap() {
  const auto truths = read_truth("test/oracle/demo");
  LoadOptions options = exact_options();
  options.rows = RowFormat::kFp8;
  options.max_rows = 8;
  Driver driver("models/demo", options, 8);
  const int count = brief ? 12 : 100;
  const auto run = [&](int rows, std::vector<float>& first) {
    std::vector<Sequence> sequences;
    std::vector<RowPlan> plan;
    for (int i = 0; i < rows; ++i) sequences.push_back({i, {truths[2].tokens.begin(), truths[2].tokens.begin() + 150}, 0, {}});
    for (Sequence& s : sequences) plan.push_back({&s, count, kRowAllLogits});
    const StepOutput out = driver.step(plan);
    first.assign(out.logits.begin(), out.logits.begin() + count * 4096);
    return out;
  };
  std::vector<float> four, five;
  const StepOutput a = run(4, four), b = run(5, five);
  expect(a.gathers_overlapped == 2 && a.gathers_inline == 0, "four prefill rows: the gathers of both csa layers overlap");
  expect(b.gathers_overlapped == 0 && b.gathers_inline == 2, "five prefill rows: they run in line");
  expect(std::memcmp(four.data(), five.data(), four.size() * 4) == 0, "both give the same bits");
}

}  // namespace

int main(int argc, char** argv) {
  start("model", argc, argv);
  try {
    // Under compute-sanitizer one rank's kernel waits for the other's, which is not launched.
    if (!brief) check_text(2, 2), check_ranks();
    check_served();
    check_company();
    check_overlap();
    check_prompt_logprobs();
    check_refused_cache();
    if (brief) return finish("model");  // the rest: the same kernels at other sizes, and times
    check_oracle("demo", "models/demo");
    for (const int mtp : {0, 2}) check_text(mtp, 1);
    check_graphs();
    check_first_request();
  } catch (const Error& error) {
    expect(false, error.what());
  }
  return finish("model");
}
