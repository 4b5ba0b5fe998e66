// SPDX-License-Identifier: MIT
// What crosses the boundary for one engine step: plain host arrays, no requests, no text.
//
// Shapes: R rows, T tokens (sum of counts), S rows that sample, K drafts per step (Limits::mtp), V vocabulary.
// A row is one sequence in this step; decode rows come first, prefill rows after.
#pragma once

#include <cstdint>
#include <vector>

namespace twelvex {

enum RowFlags : uint8_t {
  kRowSample = 1,        // sample after the row's last 1 + drafts tokens
  kRowResume = 2,        // the row starts on a block border behind a prefix hit: restore the compressor rings and
                         // the MTP input from the tail of the window block before `position`
  kRowAllLogprobs = 4,   // log-probability of the following token for every token of the row (prompt logprobs)
  kRowAllLogits = 8,     // raw trunk logits (and MTP logits) for every token of the row; diagnostics and tests
};

/// Sampling parameters of one sampling row. Temperature 0 means greedy (ties to the lower id).
struct SamplingParams {
  float temperature = 1;
  float top_p = 1;               // (0, 1]
  int32_t top_k = 0;             // 0: off
  float min_p = 0;               // [0, 1)
  float repetition_penalty = 1;  // over prompt and output
  float presence_penalty = 0;    // over output
  float frequency_penalty = 0;   // over output
  uint64_t seed = 0;
  int32_t logprobs = -1;         // -1: none; 0..20: that many alternatives
};

struct StepInput {
  // Rows [R].
  std::vector<int32_t> slot;           // state slot
  std::vector<int32_t> position;       // absolute position of the row's first token
  std::vector<int32_t> count;          // tokens in this step, >= 1
  std::vector<int32_t> drafts;         // the last `drafts` tokens are drafts to verify; 0 for prefill rows
  std::vector<int32_t> next_token;     // known token behind the row's last (prefill that goes on), else -1
  std::vector<uint8_t> flags;          // RowFlags
  std::vector<int32_t> window_base;    // logical block number (position / 128) of the row's first window block
  std::vector<int32_t> window_offset;  // [R + 1] into window_blocks
  std::vector<int32_t> window_blocks;  // physical ids covering max(0, position - 127) .. position + count - 1 + mtp
  std::vector<int32_t> context_offset; // [R + 1] into context_blocks
  std::vector<int32_t> context_blocks; // physical ids from logical block 0 to the last token's
  std::vector<int32_t> tokens;         // [T]

  // Sampling rows [S], in row order.
  std::vector<SamplingParams> sampling;
  std::vector<int32_t> penalty_offset;  // [S + 1] into the two below
  std::vector<int32_t> penalty_tokens;  // distinct ids seen by the sequence before this step's drafts
  std::vector<int32_t> penalty_counts;  // times in the output; 0 = only in the prompt
  std::vector<int32_t> bias_offset;     // [S + 1]
  std::vector<int32_t> bias_tokens;
  std::vector<float> bias_values;
  std::vector<int32_t> mask_row;        // [S]: first of 1 + drafts rows in `masks`, or -1
  std::vector<uint32_t> masks;          // [.., ceil(V / 32)], bit set = token allowed
};

/// `top_width` = the largest `logprobs` of the step's sampling rows (also for prompt log-probabilities); 20 when a row with
/// kRowAllLogprobs does not sample, because nothing says yet how many it wants.
/// Log-probabilities are those of the raw logits, before penalties, bias, mask and temperature.
struct StepOutput {
  std::vector<int32_t> accepted_count;   // [S], 1 .. 1 + K
  std::vector<int32_t> accepted;         // [S, 1 + K], -1 padded
  std::vector<int32_t> drafts;           // [S, K], -1 padded
  int32_t top_width = 0;
  std::vector<float> logprobs;           // [S, 1 + K]
  std::vector<int32_t> top_tokens;       // [S, 1 + K, top_width]
  std::vector<float> top_logprobs;       // [S, 1 + K, top_width]
  std::vector<float> prompt_logprobs;    // [sum of counts of kRowAllLogprobs rows]; NaN where no next token is known
  std::vector<int32_t> prompt_top_tokens;
  std::vector<float> prompt_top_logprobs;
  std::vector<float> logits;             // [sum of counts of kRowAllLogits rows, V]
  std::vector<float> mtp_logits;         // [same rows, V]: row of token i predicts token i + 2
  int64_t micros = 0;                    // wall time of the step in native code
  int32_t gathers_overlapped = 0;        // csa layers whose gather ran beside the indexer in this step
  int32_t gathers_inline = 0;
  int32_t reductions_overlapped = 0;     // sums over ranks that ran beside the product before them; 0 with one rank
  int32_t reductions_inline = 0;
};

}  // namespace twelvex
