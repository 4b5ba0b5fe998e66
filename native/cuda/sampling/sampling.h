// SPDX-License-Identifier: MIT
// Sampling on the device by the rule of runtime/sampling.h: logits never cross to the host.
//
// Every place of a row (1 + drafts) is drawn at once, as if the drafts before it were accepted; a row then accepts its
// tokens up to and including the first that differs from its draft. Weights are summed as integers (multiples of 2^-40),
// so that a drawn token depends on logits and parameters alone, not on the order of additions.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace twelvex::cuda {

inline constexpr int kMaxTopLogprobs = 20;

/// One sampling row, made from StepInput. Ranges index the flat lists of SampleParams.
struct SampleRowInfo {
  int32_t first_logit = -1;   // logits row of its first place; negative: padding of a graph
  int32_t first_token = 0;    // trunk token of its first place; drafts are the tokens behind it
  int32_t position = 0;       // absolute position of that token; the first drawn one gets position + 1
  int32_t drafts = 0;
  float temperature = 1, top_p = 1, min_p = 0;
  int32_t top_k = 0;
  float repetition_penalty = 1, presence_penalty = 0, frequency_penalty = 0;
  int32_t logprobs = -1;
  uint64_t seed = 0;
  int32_t penalty_begin = 0, penalty_end = 0;
  int32_t bias_begin = 0, bias_end = 0;
  int32_t mask_row = -1;
};

struct SampleParams {
  int rows = 0;                              // S
  int places = 0;                            // P = 1 + Limits::mtp
  int vocab = 0;                             // V
  const float* logits = nullptr;             // [N, V] raw; not changed
  float* adjusted = nullptr;                 // [S, P, V] scratch
  const SampleRowInfo* info = nullptr;       // [S]
  const int32_t* token_id = nullptr;         // [T] trunk tokens
  const int32_t* penalty_tokens = nullptr;
  const int32_t* penalty_counts = nullptr;
  const int32_t* bias_tokens = nullptr;
  const float* bias_values = nullptr;
  const uint32_t* masks = nullptr;           // [.., ceil(V / 32)]
  int32_t* accepted_count = nullptr;         // [S]; 0 for padding
  int32_t* accepted = nullptr;               // [S, P], -1 behind the last
  int32_t* drawn = nullptr;                  // [S, P] scratch
  // What run_logprobs then reads, for the places whose row asks for log-probabilities.
  int32_t* logprob_row = nullptr;            // [S, P] logits row, -1: none wanted
  int32_t* logprob_token = nullptr;          // [S, P]
  cudaStream_t stream = nullptr;
};
void run_sample(const SampleParams& params);

/// Log-probabilities of raw logits: of one token and of the `width` largest, falling, ties to the lower id.
struct LogprobParams {
  int count = 0;                      // C
  int vocab = 0;                      // V
  int width = 0;                      // <= kMaxTopLogprobs
  const float* logits = nullptr;      // [N, V]
  const int32_t* row = nullptr;       // [C] logits row; negative: the entry is NaN and -1
  const int32_t* token = nullptr;     // [C]; negative: no token, NaN, but the largest are given
  float* logprob = nullptr;           // [C]
  int32_t* top_tokens = nullptr;      // [C, width]
  float* top_logprobs = nullptr;      // [C, width]
  cudaStream_t stream = nullptr;
};
void run_logprobs(const LogprobParams& params);

/// token[i] = index of the largest of logits row i, ties to the lower id.
struct ArgmaxParams {
  int rows = 0;
  int vocab = 0;
  const float* logits = nullptr;  // [rows, V]
  int32_t* token = nullptr;       // [rows]
  cudaStream_t stream = nullptr;
};
void run_argmax(const ArgmaxParams& params);

}  // namespace twelvex::cuda
