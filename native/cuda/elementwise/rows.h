// SPDX-License-Identifier: MIT
// Rows that move without arithmetic to speak of: embeddings, copies of streams, sums for the draft block.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include "layout/batch_view.h"

namespace twelvex::cuda {

/// output[t] = embedding of token t where this rank owns its row, else zeros.
struct EmbedParams {
  const int32_t* token_id = nullptr;   // [T], < 0: padding, zeros
  int tokens = 0;
  int dim = 0;                         // D, even
  int64_t vocab_begin = 0, vocab_rows = 0;
  const uint8_t* embedding = nullptr;  // prepared bf16 matrix [rows, D] (gemm/weight_layout.h)
  __nv_bfloat16* output = nullptr;     // [T, D]
};
void run_embed(const EmbedParams& params, cudaStream_t queue);

/// streams[t, s] = hidden[t] for the four streams.
struct SpreadParams {
  int tokens = 0, dim = 0;
  const __nv_bfloat16* hidden = nullptr;  // [T, D]
  __nv_bfloat16* streams = nullptr;       // [T, 4, D]
};
void run_spread(const SpreadParams& params, cudaStream_t queue);

/// streams[t, s] += hidden[t].
void run_add_to_streams(const SpreadParams& params, cudaStream_t queue);

/// sum[t] = sum[t] + part[t], as ranks add (comm/all_reduce.h): the sum of two ranks' parts that one rank computes.
struct AddRowsParams {
  int tokens = 0, dim = 0;               // D, a multiple of 8
  const __nv_bfloat16* part = nullptr;   // [T, D]
  __nv_bfloat16* sum = nullptr;          // [T, D]
};
void run_add_rows(const AddRowsParams& params, cudaStream_t queue);

/// Streams of tokens at the last position of a block -> the tail of their window block (for rows that resume behind it).
struct KeepStreamsParams {
  BatchView batch;
  int dim = 0;
  const __nv_bfloat16* streams = nullptr;  // [T, 4, D]
  uint8_t* tail = nullptr;                 // window block b at tail + b * stride: [4, D]
  size_t stride = 0;
};
void run_keep_streams(const KeepStreamsParams& params, cudaStream_t queue);

/// Streams that a draft pass starts from: token `source[t]` of `streams`, or with source -1 the tail of the window block that
/// ends before the row's first position.
struct GatherStreamsParams {
  BatchView batch;                         // the draft batch; cache_position - 1 is the position whose streams are read
  int dim = 0;
  const int32_t* source = nullptr;         // [T]
  const __nv_bfloat16* streams = nullptr;  // [.., 4, D]
  const uint8_t* tail = nullptr;
  size_t stride = 0;
  __nv_bfloat16* out = nullptr;            // [T, 4, D], not overlapping `streams`
};
void run_gather_streams(const GatherStreamsParams& params, cudaStream_t queue);

}  // namespace twelvex::cuda
