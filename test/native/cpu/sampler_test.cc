// SPDX-License-Identifier: MIT
#include "cpu/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "check.h"
#include "runtime/sampling.h"

namespace {

using namespace twelvex;
using namespace twelvex::cpu;

/// Draws from fixed logits.
struct Drawer {
  std::vector<float> logits;
  SamplingParams params;
  DrawRequest request;
  std::vector<float> scratch_logits = std::vector<float>(logits.size());
  std::vector<int32_t> scratch_tokens = std::vector<int32_t>(logits.size());

  int32_t draw(int64_t position = 0) {
    request.params = &params;
    request.position = position;
    return draw_token(best_kernels(), logits, request, {scratch_logits.data(), scratch_tokens.data()});
  }

  std::vector<double> frequencies(int draws) {
    std::vector<double> share(logits.size(), 0);
    for (int i = 0; i < draws; ++i) share[static_cast<size_t>(draw(i))] += 1.0 / draws;
    return share;
  }
};

std::vector<double> softmax(const std::vector<float>& logits, double temperature = 1) {
  std::vector<double> p;
  double total = 0;
  for (float logit : logits) total += p.emplace_back(std::exp(logit / temperature));
  for (double& value : p) value /= total;
  return p;
}

/// Chi-square statistic per degree of freedom; about 1 when the shares follow p.
double chi_square(const std::vector<double>& share, const std::vector<double>& p, int draws) {
  double sum = 0;
  int cells = -1;
  for (size_t i = 0; i < p.size(); ++i) {
    if (p[i] == 0) {
      CHECK_EQ(share[i], 0.0);
      continue;
    }
    sum += (share[i] - p[i]) * (share[i] - p[i]) / p[i] * draws;
    ++cells;
  }
  return sum / cells;
}

std::vector<float> spread_logits(size_t count) {
  std::mt19937 generator(4);
  std::normal_distribution<float> normal(0, 1.5f);
  std::vector<float> logits(count);
  for (float& logit : logits) logit = normal(generator);
  return logits;
}

TEST("Philox gives the published numbers") {
  // Known-answer vectors of Random123 for 4x32-10: zeros, and all ones in the words that the sampler sets.
  CHECK_EQ(philox_word(0, 0), 0x6627e8d5u);
}

TEST("uniform numbers depend on seed and position and fill [0, 1) evenly") {
  CHECK_EQ(uniform_at(7, 9), uniform_at(7, 9));
  CHECK(uniform_at(7, 9) != uniform_at(7, 10));
  CHECK(uniform_at(7, 9) != uniform_at(8, 9));
  CHECK(uniform_at(uint64_t{7} << 32, 9) != uniform_at(7, 9));
  std::vector<double> share(16, 0);
  for (uint64_t i = 0; i < 32000; ++i) share[static_cast<size_t>(uniform_at(1, i) * 16)] += 1.0 / 32000;
  CHECK(chi_square(share, std::vector<double>(16, 1.0 / 16), 32000) < 2.5);
}

TEST("temperature 0 takes the largest logit, ties to the lower id") {
  Drawer d{{1, 5, 5, 2}, {}, {}};
  d.params.temperature = 0;
  CHECK_EQ(d.draw(), 1);
}

TEST("draws follow the softmax at any temperature") {
  for (const float temperature : {0.5f, 1.0f, 2.0f}) {
    Drawer d{spread_logits(24), {}, {}};
    d.params.temperature = temperature;
    CHECK(chi_square(d.frequencies(20000), softmax(d.logits, temperature), 20000) < 2.5);
  }
}

TEST("the same seed and position repeat a draw, another seed does not") {
  Drawer a{spread_logits(4096), {}, {}}, b{spread_logits(4096), {}, {}};
  a.params.seed = b.params.seed = 99;
  int same = 0;
  for (int i = 0; i < 50; ++i) CHECK_EQ(a.draw(i), b.draw(i));
  b.params.seed = 100;
  for (int i = 0; i < 50; ++i) same += a.draw(i) == b.draw(i) ? 1 : 0;
  CHECK(same < 10);
}

/// Probabilities of the kept tokens, renormalised.
std::vector<double> kept_only(const std::vector<double>& p, double least) {
  std::vector<double> kept;
  double total = 0;
  for (double value : p) total += kept.emplace_back(value >= least ? value : 0);
  for (double& value : kept) value /= total;
  return kept;
}

TEST("top_k keeps the k largest, ties to the lower id") {
  Drawer d{{0, 1, 1, 1, -2}, {}, {}};
  d.params.top_k = 2;
  const auto share = d.frequencies(4000);
  CHECK(chi_square(share, {0, 0.5, 0.5, 0, 0}, 4000) < 6);
}

TEST("top_p keeps the shortest prefix that reaches it") {
  Drawer d{{std::log(0.5f), std::log(0.3f), std::log(0.15f), std::log(0.05f)}, {}, {}};
  d.params.top_p = 0.75f;
  CHECK(chi_square(d.frequencies(4000), {0.625, 0.375, 0, 0}, 4000) < 6);
  d.params.top_p = 0.4f;
  for (int i = 0; i < 200; ++i) CHECK_EQ(d.draw(i), 0);
  d.params.top_p = 1e-6f;
  CHECK_EQ(d.draw(), 0);
}

TEST("top_p over a large vocabulary keeps exactly the prefix") {
  Drawer d{spread_logits(3000), {}, {}};
  d.params.top_p = 0.9f;
  const auto p = softmax(d.logits);
  auto sorted = p;
  std::sort(sorted.rbegin(), sorted.rend());
  double sum = 0, least = 1;
  for (size_t i = 0; sum < 0.9; ++i) sum += least = sorted[i];
  const auto kept = kept_only(p, least);
  for (int i = 0; i < 2000; ++i) CHECK(kept[static_cast<size_t>(d.draw(i))] > 0);
}

TEST("min_p keeps what has that share of the largest probability") {
  Drawer d{{std::log(0.5f), std::log(0.3f), std::log(0.15f), std::log(0.05f)}, {}, {}};
  d.params.min_p = 0.5f;
  CHECK(chi_square(d.frequencies(4000), {0.625, 0.375, 0, 0}, 4000) < 6);
}

TEST("top_k, top_p and min_p act one after the other") {
  Drawer d{{std::log(0.4f), std::log(0.3f), std::log(0.2f), std::log(0.1f)}, {}, {}};
  d.params.top_k = 3;     // 4/9, 3/9, 2/9
  d.params.top_p = 0.8f;  // 7/9 < 0.8: all three
  CHECK(chi_square(d.frequencies(4000), {4.0 / 9, 3.0 / 9, 2.0 / 9, 0}, 4000) < 6);
  d.params.min_p = 0.6f;  // 2/4 falls
  CHECK(chi_square(d.frequencies(4000), {4.0 / 7, 3.0 / 7, 0, 0}, 4000) < 6);
}

TEST("penalties act on seen tokens only") {
  Drawer d{{2.0f, -1.0f, 1.9f, 1.0f}, {}, {}};
  d.params.temperature = 0;
  const int32_t tokens[] = {0}, prompt_only[] = {0}, twice[] = {2};
  d.request.seen_tokens = tokens;
  d.request.seen_counts = prompt_only;
  d.params.presence_penalty = 1.5f;
  d.params.frequency_penalty = 0.5f;
  CHECK_EQ(d.draw(), 0);  // in the prompt only
  d.request.seen_counts = twice;
  CHECK_EQ(d.draw(), 2);
  d.params.presence_penalty = d.params.frequency_penalty = 0;
  d.request.seen_counts = prompt_only;
  d.params.repetition_penalty = 1.2f;
  CHECK_EQ(d.draw(), 2);  // 2 / 1.2 < 1.9
  d.logits = {-1.0f, -1.15f, -5, -5};
  CHECK_EQ(d.draw(), 1);  // negative logits are multiplied
}

TEST("drafts accepted earlier in the row count as output") {
  Drawer d{{2.0f, 1.5f, 1.0f}, {}, {}};
  d.params.temperature = 0;
  d.params.frequency_penalty = 0.4f;
  const int32_t drafts[] = {0, 0};
  d.request.accepted_drafts = {drafts, 1};
  CHECK_EQ(d.draw(), 0);
  d.request.accepted_drafts = drafts;
  CHECK_EQ(d.draw(), 1);
  const int32_t seen[] = {0}, count[] = {1};
  d.request.seen_tokens = seen;
  d.request.seen_counts = count;
  d.request.accepted_drafts = {drafts, 1};
  CHECK_EQ(d.draw(), 1);
}

TEST("biases add and masks forbid") {
  Drawer d{{2.0f, 1.0f, 0.0f, -1.0f}, {}, {}};
  d.params.temperature = 0;
  const int32_t biased[] = {3};
  const float values[] = {10.0f};
  d.request.bias_tokens = biased;
  d.request.bias_values = values;
  CHECK_EQ(d.draw(), 3);
  const uint32_t mask = 0b0110;
  d.request.mask = &mask;
  CHECK_EQ(d.draw(), 1);
  d.params.temperature = 1;
  CHECK(chi_square(d.frequencies(4000), {0, 1 / (1 + std::exp(-1.0)), 1 / (1 + std::exp(1.0)), 0}, 4000) < 6);
}

TEST("log-probabilities and the top list come from the raw logits") {
  const std::vector<float> logits{1, 3, 3, 0, 2};
  const float normaliser = log_normaliser(best_kernels(), logits);
  const auto p = softmax(logits);
  std::vector<int32_t> tokens(4);
  std::vector<float> logprobs(4);
  top_logprobs(logits, normaliser, tokens, logprobs);
  const int32_t expected[] = {1, 2, 4, 0};
  for (size_t i = 0; i < 4; ++i) {
    CHECK_EQ(tokens[i], expected[i]);
    CHECK_NEAR(logprobs[i], std::log(p[static_cast<size_t>(expected[i])]), 1e-6);
  }
  std::vector<int32_t> more(7);
  std::vector<float> more_logprobs(7);
  top_logprobs(logits, normaliser, more, more_logprobs);
  CHECK_EQ(more[5], -1);
  CHECK(std::isnan(more_logprobs[6]));
}

}  // namespace
