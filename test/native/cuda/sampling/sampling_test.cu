// SPDX-License-Identifier: MIT
// The device sampler against the CPU backend's, over random parameters; verification of drafts; log-probabilities; padding rows.
// With --bench: time at the real vocabulary.
#include <limits>

#include "cpu/sampler.h"
#include "runtime/sampling.h"
#include "sampling/sampling.h"
#include "support.h"

using namespace twelvex;
using namespace twelvex::test;
using cuda::SampleRowInfo;

namespace {

/// A step's sampling rows with everything that bears on them, on the host.
struct Step {
  int vocab, places;
  std::vector<float> logits;
  std::vector<SampleRowInfo> rows;
  std::vector<int32_t> token_id, penalty_tokens, penalty_counts, bias_tokens;
  std::vector<float> bias_values;
  std::vector<uint32_t> masks;
};

/// Values on a grid: many exact ties.
float grid_logit() { return std::round(gauss(2.0f) * 8) / 8; }

Step make_step(int rows, int vocab, int mtp) {
  Step step{vocab, 1 + mtp, {}, {}, {}, {}, {}, {}, {}, {}};
  const int words = (vocab + 31) / 32;
  int logit_rows = 0;
  for (int r = 0; r < rows; ++r) {
    SampleRowInfo info;
    info.drafts = below(mtp + 1);
    info.first_token = static_cast<int32_t>(step.token_id.size());
    info.first_logit = logit_rows;
    info.position = below(100000);
    info.seed = (static_cast<uint64_t>(rng()()) << 32) | rng()();
    const bool ties = below(3) == 0;
    const size_t first = step.logits.size();
    for (int place = 0; place <= info.drafts; ++place, ++logit_rows) {
      const float width = 0.5f + below(40) / 10.0f;
      for (int v = 0; v < vocab; ++v) step.logits.push_back(ties ? grid_logit() : gauss(width));
    }
    // Drafts: often what greedy would choose, so that some are accepted.
    step.token_id.push_back(below(vocab));
    for (int d = 0; d < info.drafts; ++d) {
      const auto begin = step.logits.begin() + first + static_cast<int64_t>(d) * vocab;
      step.token_id.push_back(below(3) ? static_cast<int32_t>(std::max_element(begin, begin + vocab) - begin) : below(vocab));
    }
    info.temperature = below(4) == 0 ? 0 : 0.2f + below(15) / 10.0f;
    if (below(3) == 0) info.top_k = 1 + below(50);
    if (below(2) == 0) info.top_p = 0.05f + below(95) / 100.0f;
    if (below(3) == 0) info.min_p = below(50) / 100.0f;
    info.penalty_begin = info.penalty_end = static_cast<int32_t>(step.penalty_tokens.size());
    if (below(2) == 0) {
      info.repetition_penalty = 0.8f + below(8) / 10.0f;
      info.presence_penalty = below(20) / 10.0f - 1;
      info.frequency_penalty = below(20) / 10.0f - 1;
      for (int v = below(5); v < vocab; v += 1 + below(1 + vocab / 8)) {
        step.penalty_tokens.push_back(v);
        step.penalty_counts.push_back(below(4));
      }
      info.penalty_end = static_cast<int32_t>(step.penalty_tokens.size());
    }
    info.bias_begin = static_cast<int32_t>(step.bias_tokens.size());
    if (below(4) == 0) {
      for (int i = 0; i < 5; ++i) step.bias_tokens.push_back(below(vocab)), step.bias_values.push_back(gauss(3.0f));
    }
    info.bias_end = static_cast<int32_t>(step.bias_tokens.size());
    if (below(3) == 0) {
      info.mask_row = static_cast<int32_t>(step.masks.size()) / words;
      const bool sparse = below(2) == 0;
      for (int i = 0; i < words * (1 + info.drafts); ++i)
        step.masks.push_back(static_cast<uint32_t>(sparse ? rng()() & rng()() & rng()() & rng()() : rng()()));
    }
    info.logprobs = below(2) == 0 ? below(21) : -1;
    step.rows.push_back(info);
  }
  return step;
}

struct Result {
  std::vector<int32_t> count, accepted, top_tokens;
  std::vector<float> logprobs, top_logprobs;
};

Result run(const Step& step, int width) {
  const int rows = static_cast<int>(step.rows.size()), entries = rows * step.places;
  const DeviceArray<float> logits(step.logits), adjusted(static_cast<size_t>(entries) * step.vocab),
      bias_values(step.bias_values);
  const DeviceArray<SampleRowInfo> info(step.rows);
  const DeviceArray<int32_t> tokens(step.token_id), penalty_tokens(step.penalty_tokens), penalty_counts(step.penalty_counts),
      bias_tokens(step.bias_tokens);
  const DeviceArray<uint32_t> masks(step.masks);
  const DeviceArray<int32_t> count(rows), accepted(entries), drawn(entries), logprob_row(entries), logprob_token(entries),
      top_tokens(static_cast<size_t>(entries) * width);
  const DeviceArray<float> logprobs(entries), top_logprobs(static_cast<size_t>(entries) * width);
  count.poison(), accepted.poison(), drawn.poison(), adjusted.poison(), logprobs.poison(), top_tokens.poison(),
      top_logprobs.poison();
  cuda::run_sample({.rows = rows,
                    .places = step.places,
                    .vocab = step.vocab,
                    .logits = logits,
                    .adjusted = adjusted,
                    .info = info,
                    .token_id = tokens,
                    .penalty_tokens = penalty_tokens,
                    .penalty_counts = penalty_counts,
                    .bias_tokens = bias_tokens,
                    .bias_values = bias_values,
                    .masks = masks,
                    .accepted_count = count,
                    .accepted = accepted,
                    .drawn = drawn,
                    .logprob_row = logprob_row,
                    .logprob_token = logprob_token});
  cuda::run_logprobs({.count = entries,
                      .vocab = step.vocab,
                      .width = width,
                      .logits = logits,
                      .row = logprob_row,
                      .token = logprob_token,
                      .logprob = logprobs,
                      .top_tokens = top_tokens,
                      .top_logprobs = top_logprobs});
  sync("run_sample");
  return {count.download(), accepted.download(), top_tokens.download(), logprobs.download(), top_logprobs.download()};
}

/// Whether `token` may be drawn with `uniform` too when the sum of all weights is off by its rounding: the CPU adds 129,280
/// floats, the device integers, and a token of a flat distribution is hardly wider than that.
bool on_border(const std::vector<float>& weights, int32_t token, double uniform) {
  double total = 0, before = 0;
  for (size_t i = 0; i < weights.size(); ++i) {
    if (static_cast<int32_t>(i) == token) before = total;
    total += weights[i];
  }
  constexpr double kRounding = 2e-6;
  const double target = uniform * total, slack = kRounding * total;
  const double width = weights[static_cast<size_t>(token)];
  return width > 0 && before <= target + slack && before + width >= target - slack;
}

/// Draws and accepts as the CPU backend does; returns the number of tokens. `device` holds the row's tokens from the device:
/// where one is right within the rounding of a draw without cuts, it is taken.
int reference(const Step& step, size_t r, const int32_t* device, std::vector<int32_t>& tokens) {
  const SampleRowInfo& info = step.rows[r];
  SamplingParams params;
  params.temperature = info.temperature, params.top_p = info.top_p, params.top_k = info.top_k, params.min_p = info.min_p;
  params.repetition_penalty = info.repetition_penalty, params.presence_penalty = info.presence_penalty;
  params.frequency_penalty = info.frequency_penalty, params.seed = info.seed;
  std::vector<float> weights(step.vocab);
  std::vector<int32_t> candidates(step.vocab);
  cpu::DrawRequest request;
  request.params = &params;
  const auto part = [](const auto& list, int begin, int end) { return std::span(list).subspan(begin, end - begin); };
  request.seen_tokens = part(step.penalty_tokens, info.penalty_begin, info.penalty_end);
  request.seen_counts = part(step.penalty_counts, info.penalty_begin, info.penalty_end);
  request.bias_tokens = part(step.bias_tokens, info.bias_begin, info.bias_end);
  request.bias_values = part(step.bias_values, info.bias_begin, info.bias_end);
  for (int place = 0; place <= info.drafts; ++place) {
    request.accepted_drafts = part(step.token_id, info.first_token + 1, info.first_token + 1 + place);
    request.position = info.position + place + 1;
    if (info.mask_row >= 0)
      request.mask = step.masks.data() + static_cast<size_t>(info.mask_row + place) * ((step.vocab + 31) / 32);
    const std::span<const float> raw(step.logits.data() + static_cast<size_t>(info.first_logit + place) * step.vocab, step.vocab);
    int32_t token = cpu::draw_token(cpu::best_kernels(), raw, request, {weights.data(), candidates.data()});
    const bool cuts = info.top_k > 0 || info.top_p < 1 || info.min_p > 0;
    const double uniform = uniform_at(info.seed, static_cast<uint64_t>(request.position));
    if (info.temperature > 0 && !cuts && device[place] >= 0 && on_border(weights, device[place], uniform)) token = device[place];
    tokens.push_back(token);
    if (place < info.drafts && tokens.back() != step.token_id[info.first_token + 1 + place]) break;
  }
  return static_cast<int>(tokens.size());
}

void test_against_cpu(int rows, int vocab, int mtp) {
  const Step step = make_step(rows, vocab, mtp);
  constexpr int kWidth = 20;
  const Result result = run(step, kWidth);
  int differ = 0, accepted = 0, wrong_top = 0;
  Difference logprobs;
  for (size_t r = 0; r < step.rows.size(); ++r) {
    const SampleRowInfo& info = step.rows[r];
    std::vector<int32_t> tokens;
    const int count = reference(step, r, result.accepted.data() + r * step.places, tokens);
    accepted += count - 1;
    tokens.resize(step.places, -1);
    differ += result.count[r] != count || !std::equal(tokens.begin(), tokens.end(), result.accepted.begin() + r * step.places);
    for (int place = 0; place < step.places; ++place) {
      const size_t at = r * step.places + place;
      if (info.logprobs < 0 || place >= result.count[r]) {
        wrong_top += !std::isnan(result.logprobs[at]) || result.top_tokens[at * kWidth] != -1;
        continue;
      }
      const std::span<const float> raw(step.logits.data() + static_cast<size_t>(info.first_logit + place) * vocab, vocab);
      const float normaliser = cpu::log_normaliser(cpu::best_kernels(), raw);
      std::vector<int32_t> top(kWidth);
      std::vector<float> top_logprobs(kWidth);
      cpu::top_logprobs(raw, normaliser, top, top_logprobs);
      logprobs.add(result.logprobs[at], raw[result.accepted[at]] - normaliser);
      for (int i = 0; i < kWidth; ++i) {
        wrong_top += result.top_tokens[at * kWidth + i] != top[i];
        if (top[i] >= 0) logprobs.add(result.top_logprobs[at * kWidth + i], top_logprobs[i]);
      }
    }
  }
  char what[160];
  std::snprintf(what, sizeof what,
                "%d rows, V=%d: %d differ from the CPU (cuts are rounded otherwise: at most 0.3 %%), %d drafts accepted", rows,
                vocab, differ, accepted);
  expect(differ <= rows * 0.003 && (mtp == 0 || rows < 50 || accepted > 0), what);
  expect(wrong_top == 0, "  largest 20 tokens and their order");
  expect_close(logprobs, 1e-5, "  log-probabilities");
}

/// Frequencies of many seeds against the probabilities.
void test_distribution() {
  constexpr int kVocab = 6;
  const int count = brief ? 500 : 20000;
  Step step{kVocab, 1, {}, {}, {0}, {}, {}, {}, {}, {}};
  const float logits[kVocab] = {0, 1, 2, -1, 0.5f, -30};
  step.logits.assign(logits, logits + kVocab);
  for (int r = 0; r < count; ++r) {
    SampleRowInfo info;
    info.first_logit = 0;
    info.seed = (static_cast<uint64_t>(rng()()) << 32) | static_cast<uint32_t>(r);
    step.rows.push_back(info);
  }
  const Result result = run(step, 1);
  double total = 0, chi = 0;
  for (float l : logits) total += std::exp(l);
  for (int v = 0; v < kVocab - 1; ++v) {
    const double expected = count * std::exp(logits[v]) / total;
    const double seen = static_cast<double>(std::count(result.accepted.begin(), result.accepted.end(), v));
    chi += (seen - expected) * (seen - expected) / expected;
  }
  expect(chi < 23.5,
         std::to_string(count) + " seeds follow the softmax (chi square of 4 degrees: " + std::to_string(chi) +
             ", 1 in 10,000 is over 23.5)");
}

void test_padding() {
  Step step = brief ? make_step(1, 300, 1) : make_step(5, 300, 2);
  const Result all = run(step, 3);
  step.rows.push_back(SampleRowInfo{});  // a padding row of a graph
  const Result padded = run(step, 3);
  expect(padded.count.back() == 0 && std::equal(all.accepted.begin(), all.accepted.end(), padded.accepted.begin()) &&
             padded.accepted.back() == -1,
         "padding rows draw nothing and change nothing");
}

/// Few places are drawn by clusters, many by blocks.
void test_company() {
  Step step = brief ? make_step(17, 10007, 2) : make_step(40, 50003, 2);
  const Result all = run(step, 3);
  step.rows.resize(brief ? 2 : 9);
  const Result few = run(step, 3);
  expect(std::equal(few.accepted.begin(), few.accepted.end(), all.accepted.begin()) &&
             std::equal(few.count.begin(), few.count.end(), all.count.begin()),
         "rows draw the same tokens alone and among many");
}

void test_argmax(int rows) {
  constexpr int kVocab = 70001;
  std::vector<float> logits(static_cast<size_t>(rows) * kVocab);
  for (float& v : logits) v = grid_logit();
  logits[3 * kVocab + 5] = std::numeric_limits<float>::quiet_NaN();
  const DeviceArray<float> device(logits);
  const DeviceArray<int32_t> token(rows);
  token.poison();
  cuda::run_argmax({.rows = rows, .vocab = kVocab, .logits = device, .token = token});
  sync("run_argmax");
  const std::vector<int32_t> got = token.download();
  bool ok = true;
  for (int r = 0; r < rows; ++r) {
    int best = 0;
    for (int v = 1; v < kVocab; ++v) {
      if (logits[static_cast<size_t>(r) * kVocab + v] > logits[static_cast<size_t>(r) * kVocab + best]) best = v;
    }
    ok &= got[r] == best;
  }
  expect(ok, "argmax: ties to the lower id, NaN never");
}

void bench() {
  constexpr int kVocab = 129280;
  for (const int rows : {1, 8, 64}) {
    for (const int kind : {0, 1, 2}) {
      Step step{
          kVocab, 3, random_f32(static_cast<size_t>(rows) * 3 * kVocab, 2.0f), {}, std::vector<int32_t>(rows * 3, 7), {}, {}, {},
          {},     {}};
      for (int r = 0; r < rows; ++r) {
        SampleRowInfo info;
        info.first_logit = info.first_token = r * 3;
        info.drafts = 2;
        info.temperature = kind == 0 ? 0.0f : 1.0f;
        if (kind == 2) info.top_p = 0.95f, info.top_k = 50;
        step.rows.push_back(info);
      }
      const DeviceArray<float> logits(step.logits), adjusted(step.logits.size());
      const DeviceArray<SampleRowInfo> info(step.rows);
      const DeviceArray<int32_t> tokens(step.token_id), scratch(rows * 3 * 4), count(rows);
      const double us = time_us([&] {
        cuda::run_sample({.rows = rows,
                          .places = 3,
                          .vocab = kVocab,
                          .logits = logits,
                          .adjusted = adjusted,
                          .info = info,
                          .token_id = tokens,
                          .accepted_count = count,
                          .accepted = scratch,
                          .drawn = scratch + rows * 3,
                          .logprob_row = scratch + rows * 6,
                          .logprob_token = scratch + rows * 9});
      });
      std::printf("  %2d rows x 3 places, %-22s %8.1f us\n", rows,
                  kind == 0   ? "greedy"
                  : kind == 1 ? "temperature"
                              : "top_k 50, top_p 0.95",
                  us);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  const bool timed = start("sampling", argc, argv);
  // A place that a cluster draws takes seconds under racecheck.
  test_against_cpu(3, 7, brief ? 0 : 2);
  test_against_cpu(brief ? 20 : 400, 1000, 2);
  test_against_cpu(brief ? 60 : 300, 4097, 4);
  if (!brief) test_against_cpu(40, 129280, 2);
  test_distribution();
  if (!brief) test_against_cpu(16, 129280, 2);
  test_against_cpu(brief ? 1 : 9, brief ? 20011 : 4097, 4);
  test_padding();
  test_company();
  test_argmax(brief ? 4 : 9);
  if (!brief) test_argmax(60);
  if (timed) bench();
  return finish("sampling");
}
