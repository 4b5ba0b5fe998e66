// SPDX-License-Identifier: MIT
// Sparse attention of decode tokens: memory-bound, so candidates are split over blocks and merged.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include "common/fetch_ahead.h"
#include "layout/batch_view.h"

namespace twelvex::cuda {

/// Candidates of one split, whatever the batch: a token's result has one order of additions. hca lists are long.
TWELVEX_HD constexpr int decode_split(LayerKind kind) { return kind == LayerKind::kHca ? 512 : 128; }

struct SparseDecodeParams {
  BatchView batch;
  KvSource kv;                      // paged rows, bf16 or fp8
  LayerKind kind = LayerKind::kSwa;
  int heads = 0;
  int topk = 0;
  int max_splits = 0;               // room in `partial` and `state`, >= decode_splits()
  const __nv_bfloat16* query = nullptr;  // [T, H, 512]
  const int32_t* selection = nullptr;    // [T, topk]
  const float* sinks = nullptr;          // [H]
  const float2* rope = nullptr;          // [T, 32]
  float* partial = nullptr;              // [T, max_splits, H, 512] unnormalised outputs
  float2* state = nullptr;               // [T, max_splits, H] maximum (log2 units) and sum
  __nv_bfloat16* attended = nullptr;     // [T, H, 512]
  int tokens = 0;
  float scale = 0.04419417382415922f;
  FetchAhead ahead;                      // what later launches read
};

/// Splits that a launch must cover for sequences of up to `context_tokens`: a pure function, so that a captured graph fits.
int decode_splits(LayerKind kind, int topk, int context_tokens);

void run_sparse_decode(const SparseDecodeParams& params, cudaStream_t queue);

}  // namespace twelvex::cuda
