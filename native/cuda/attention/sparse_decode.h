// SPDX-License-Identifier: MIT
// Sparse attention of decode tokens: memory-bound, so candidates are split over blocks and merged.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include "layout/batch_view.h"

namespace twelvex::cuda {

/// Candidates of one split, whatever the batch: a token's result has one order of additions. hca lists are long.
TWELVEX_HD constexpr int decode_split(LayerKind kind) { return kind == LayerKind::kHca ? 512 : 128; }
inline constexpr int kDecodeTile = 32;        // candidates that are worked on at a time
inline constexpr int kMaxSpreadParts = 512;   // tokens x tiles

/// Who works out what; the sums and their order are the same.
struct SparseDecodePlan {
  bool spread = false;  // few tokens: a block a tile, and a token's parts are its tiles; else a block a split, parts are splits
  int parts = 0;        // of a token at most
  int blocks = 0;       // of a token and 16 heads
};
/// A pure function of what bounds a launch, so that a captured graph fits.
SparseDecodePlan plan_sparse_decode(LayerKind kind, int topk, int context_tokens, int tokens, int heads, int multiprocessors);

struct SparseDecodeParams {
  BatchView batch;
  KvSource kv;                      // paged rows, bf16 or fp8
  LayerKind kind = LayerKind::kSwa;
  int heads = 0;
  int topk = 0;
  SparseDecodePlan plan;
  const __nv_bfloat16* query = nullptr;  // [T, H, 512]
  const int32_t* selection = nullptr;    // [T, topk]
  bool all_kept = false;                 // no token sees more entries than are kept: nothing is chosen
  const float* sinks = nullptr;          // [H]
  const float2* rope = nullptr;          // [T, 32]
  float* partial = nullptr;              // [T, parts, H, 512] unnormalised outputs
  float2* state = nullptr;               // [T, parts, H] maximum (log2 units) and sum
  __nv_bfloat16* attended = nullptr;     // [T, H, 512]
  bool quantise = false;                 // as the product that reads them would; its doing so again changes nothing
  int tokens = 0;
  bool rows_ready = false;               // the launch before this one wrote no cache rows
  bool query_ready = false;              // nor queries
  bool raw_query = false;                // queries as their product leaves them: neither normalised (eps) nor rotated
  float eps = 1e-6f;
  float scale = 0.04419417382415922f;
};

/// Parts of all tokens, of `splits` each, for which partial results need room.
inline size_t decode_parts(size_t tokens, size_t splits) {
  return tokens * splits > kMaxSpreadParts ? tokens * splits : kMaxSpreadParts;
}
/// Most splits of a token.
int decode_splits(LayerKind kind, int topk, int context_tokens);

void run_sparse_decode(const SparseDecodeParams& params, cudaStream_t queue);

}  // namespace twelvex::cuda
