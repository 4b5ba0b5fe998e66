// SPDX-License-Identifier: MIT
// Drawing tokens and log-probabilities from host logits; the rule is in runtime/sampling.h.
#pragma once

#include <span>

#include "kernels.h"
#include "runtime/step.h"

namespace twelvex::cpu {

/// What bears on one drawn token. V: vocabulary.
struct DrawRequest {
  const SamplingParams* params = nullptr;
  std::span<const int32_t> seen_tokens;      // distinct
  std::span<const int32_t> seen_counts;      // times in the output; 0: only in the prompt
  std::span<const int32_t> accepted_drafts;  // earlier in the same row, part of the output too
  std::span<const int32_t> bias_tokens;
  std::span<const float> bias_values;
  const uint32_t* mask = nullptr;  // [ceil(V / 32)], bit set = allowed; null: all
  int64_t position = 0;            // absolute, of the token to be drawn
};

struct DrawScratch {
  float* logits = nullptr;        // [V]
  int32_t* candidates = nullptr;  // [V]
};

int32_t draw_token(const Kernels& kernels, std::span<const float> logits, const DrawRequest& request, const DrawScratch& scratch);

/// Index of the largest, ties to the lower one.
int32_t largest_token(const Kernels& kernels, std::span<const float> logits);

/// log(sum(exp(logits))): a log-probability is a logit minus this.
float log_normaliser(const Kernels& kernels, std::span<const float> logits);

/// The `width` most probable tokens, falling, ties to the lower id; -1 and NaN where the vocabulary is smaller.
void top_logprobs(std::span<const float> logits, float normaliser, std::span<int32_t> tokens, std::span<float> logprobs);

}  // namespace twelvex::cpu
