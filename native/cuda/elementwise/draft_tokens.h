// SPDX-License-Identifier: MIT
// Tokens of the draft passes, as far as they depend on what sampling chose.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace twelvex::cuda {

/// Pass 1: token ids become drawn ones where sampling accepted, and the sampled logits rows point at the last accepted token.
struct FirstDraftParams {
  int tokens = 0, samples = 0, drafts = 0;    // K
  const int32_t* accepted_count = nullptr;    // [S]
  const int32_t* accepted = nullptr;          // [S, 1 + K]
  const int32_t* sample = nullptr;            // [T] sampling row of the token, or -1
  const int32_t* place = nullptr;             // [T] sampled position of the token in it
  const int32_t* sample_logit = nullptr;      // [S] token of the first sampled position in this pass
  int32_t* token_id = nullptr;                // [T] in: the known successor
  int32_t* logit_tokens = nullptr;            // [S ..]
};
void run_first_draft(const FirstDraftParams& params, cudaStream_t queue);

/// Pass k > 1: one token per sampling row.
struct LaterDraftParams {
  int pass = 2, samples = 0;
  const int32_t* accepted_count = nullptr;
  const int32_t* draft_tokens = nullptr;      // [S] of the pass before
  const int32_t* sample_row = nullptr;        // [S]
  const int32_t* sample_position = nullptr;   // [S] position of the first sampled token
  const int32_t* first_logit_tokens = nullptr;  // [S] of pass 1
  int32_t *token_id = nullptr, *token_row = nullptr, *position = nullptr, *cache_position = nullptr, *source = nullptr,
          *logit_tokens = nullptr;            // [S]
};
void run_later_draft(const LaterDraftParams& params, cudaStream_t queue);

}  // namespace twelvex::cuda
