// SPDX-License-Identifier: MIT
#include "sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "runtime/sampling.h"

namespace twelvex::cpu {

namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

void apply_mask(const uint32_t* mask, std::span<float> logits) {
  for (size_t i = 0; i < logits.size(); ++i) {
    if ((mask[i / 32] >> (i % 32) & 1u) == 0) logits[i] = kMinusInfinity;
  }
}

void penalise(const SamplingParams& params, int count, float& logit) {
  if (params.repetition_penalty != 1.0f) {
    logit = logit > 0 ? logit / params.repetition_penalty : logit * params.repetition_penalty;
  }
  logit -= params.frequency_penalty * static_cast<float>(count);
  if (count > 0) logit -= params.presence_penalty;
}

void apply_penalties(const DrawRequest& r, std::span<float> logits) {
  const SamplingParams& params = *r.params;
  if (params.repetition_penalty == 1.0f && params.frequency_penalty == 0 && params.presence_penalty == 0) return;
  const auto drafted = [&](int32_t token) { return static_cast<int>(std::ranges::count(r.accepted_drafts, token)); };
  for (size_t i = 0; i < r.seen_tokens.size(); ++i) {
    const int32_t token = r.seen_tokens[i];
    penalise(params, r.seen_counts[i] + drafted(token), logits[static_cast<size_t>(token)]);
  }
  for (size_t i = 0; i < r.accepted_drafts.size(); ++i) {
    const int32_t token = r.accepted_drafts[i];
    const bool again = std::ranges::count(r.accepted_drafts.first(i), token) > 0;
    if (again || std::ranges::find(r.seen_tokens, token) != r.seen_tokens.end()) continue;
    penalise(params, drafted(token), logits[static_cast<size_t>(token)]);
  }
}

/// First of `count` tokens, token(0), token(1), ..., at which the running sum of weights passes `target`.
template <class Token>
int32_t walk(int count, double target, const float* weights, const Token& token) {
  double sum = 0;
  int32_t last = 0;
  for (int i = 0; i < count; ++i) {
    const int32_t id = token(i);
    const float weight = weights[id];
    if (weight <= 0) continue;
    last = id;
    sum += weight;
    if (sum > target) break;
  }
  return last;
}

double total_of(const float* weights, std::span<const int32_t> tokens) {
  double total = 0;
  for (int32_t token : tokens) total += weights[token];
  return total;
}

/// Puts the tokens that survive top_k, top_p and min_p first, in no order; returns how many. Weights are relative to the
/// largest, which is 1.
int keep_candidates(const SamplingParams& params, const float* weights, std::span<int32_t> tokens) {
  const auto falls = [weights](int32_t a, int32_t b) { return weights[a] > weights[b] || (weights[a] == weights[b] && a < b); };
  std::iota(tokens.begin(), tokens.end(), 0);
  auto kept = tokens.size();
  if (params.top_k > 0 && static_cast<size_t>(params.top_k) < kept) {
    kept = static_cast<size_t>(params.top_k);
    std::nth_element(tokens.begin(), tokens.begin() + static_cast<int64_t>(kept), tokens.end(), falls);
  }
  if (params.top_p < 1.0f) {
    const double goal = total_of(weights, tokens.first(kept)) * params.top_p;
    double sum = 0;
    size_t taken = 0;
    // Sorted piece by piece: the prefix is short as a rule.
    for (size_t begin = 0, size = 64; begin < kept && (taken == 0 || sum < goal); begin += size, size *= 4) {
      const auto first = tokens.begin() + static_cast<int64_t>(begin);
      const auto end = tokens.begin() + static_cast<int64_t>(std::min(kept, begin + size));
      std::nth_element(first, end, tokens.begin() + static_cast<int64_t>(kept), falls);
      std::sort(first, end, falls);
      for (auto token = first; token != end && (taken == 0 || sum < goal); ++token, ++taken) sum += weights[*token];
    }
    kept = taken;
  }
  const auto end = std::partition(tokens.begin(), tokens.begin() + static_cast<int64_t>(kept),
                                  [&](int32_t token) { return weights[token] >= params.min_p; });
  return static_cast<int>(end - tokens.begin());
}

}  // namespace

int32_t largest_token(const Kernels& kernels, std::span<const float> logits) {
  const float top = kernels.largest(logits.data(), static_cast<int>(logits.size()));
  const auto at = std::find(logits.begin(), logits.end(), top);
  return at == logits.end() ? 0 : static_cast<int32_t>(at - logits.begin());
}

int32_t draw_token(const Kernels& kernels, std::span<const float> logits, const DrawRequest& request,
                   const DrawScratch& scratch) {
  const SamplingParams& params = *request.params;
  const int vocab = static_cast<int>(logits.size());
  const std::span<float> weights(scratch.logits, logits.size());
  std::ranges::copy(logits, weights.begin());
  if (request.mask != nullptr) apply_mask(request.mask, weights);
  apply_penalties(request, weights);
  for (size_t i = 0; i < request.bias_tokens.size(); ++i) {
    weights[static_cast<size_t>(request.bias_tokens[i])] += request.bias_values[i];
  }
  if (params.temperature == 0) return largest_token(kernels, weights);

  const float top = kernels.largest(weights.data(), vocab);
  if (!std::isfinite(top)) return largest_token(kernels, weights);
  const float scale = 1.0f / params.temperature;
  for (float& weight : weights) weight -= top;
  const float total = kernels.exp_sum(weights.data(), vocab, scale, 0);
  const float uniform = uniform_at(params.seed, static_cast<uint64_t>(request.position));
  if (params.top_k <= 0 && params.top_p >= 1.0f && params.min_p <= 0) {
    return walk(vocab, static_cast<double>(total) * uniform, weights.data(), [](int i) { return i; });
  }
  const std::span<int32_t> candidates(scratch.candidates, logits.size());
  const int kept = keep_candidates(params, weights.data(), candidates);
  std::sort(candidates.begin(), candidates.begin() + kept);
  const double kept_total = total_of(weights.data(), candidates.first(static_cast<size_t>(kept)));
  return walk(kept, kept_total * uniform, weights.data(), [&](int i) { return candidates[static_cast<size_t>(i)]; });
}

float log_normaliser(const Kernels& kernels, std::span<const float> logits) {
  const int count = static_cast<int>(logits.size());
  const float top = kernels.largest(logits.data(), count);
  return top + std::log(kernels.exp_total(logits.data(), count, top));
}

void top_logprobs(std::span<const float> logits, float normaliser, std::span<int32_t> tokens, std::span<float> logprobs) {
  std::ranges::fill(tokens, -1);
  std::ranges::fill(logprobs, std::numeric_limits<float>::quiet_NaN());
  size_t filled = 0;
  for (size_t i = 0; i < logits.size() && !tokens.empty(); ++i) {
    if (filled == tokens.size() && !(logits[i] > logits[static_cast<size_t>(tokens[filled - 1])])) continue;
    size_t at = filled < tokens.size() ? filled++ : filled - 1;
    for (; at > 0 && logits[i] > logits[static_cast<size_t>(tokens[at - 1])]; --at) tokens[at] = tokens[at - 1];
    tokens[at] = static_cast<int32_t>(i);
  }
  for (size_t i = 0; i < filled; ++i) logprobs[i] = logits[static_cast<size_t>(tokens[i])] - normaliser;
}

}  // namespace twelvex::cpu
