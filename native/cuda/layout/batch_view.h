// SPDX-License-Identifier: MIT
// What kernels know of a batch: device arrays that begin_step uploads in one copy. Padding tokens of a CUDA graph have
// row -1 and are skipped by every kernel; a launch shape depends on `tokens` and `rows` alone.
#pragma once

#include <cstdint>

#include "layout/kv_row.h"

namespace twelvex::cuda {

struct BatchView {
  int tokens = 0;                          // T, padded
  int rows = 0;                            // R, padded
  int window_first = 0;                    // first cache position that exists: 0, or 1 in MTP passes (row of i at i + 1)
  const int32_t* token_id = nullptr;       // [T]
  const int32_t* token_row = nullptr;      // [T], -1 = padding
  const int32_t* position = nullptr;       // [T] rotary position
  const int32_t* cache_position = nullptr; // [T] position of the token's window row
  const float2* rope_plain = nullptr;      // [T, 32] cos, sin at `position`, swa frequencies
  const float2* rope_long = nullptr;       // [T, 32] the same with the frequencies of csa and hca layers
  const int32_t* row_slot = nullptr;       // [R]
  const int32_t* row_first_token = nullptr;    // [R] index of the row's first token in the batch
  const int32_t* row_count = nullptr;          // [R] tokens of the row in the batch
  const int32_t* row_position = nullptr;       // [R] cache position of the row's first token
  const uint8_t* row_flags = nullptr;          // [R]
  const int32_t* window_base = nullptr;        // [R] logical number of the row's first window block
  const int32_t* window_offset = nullptr;      // [R] into window_blocks
  const int32_t* window_blocks = nullptr;
  const int32_t* context_offset = nullptr;     // [R] into context_blocks
  const int32_t* context_blocks = nullptr;
};

/// Where attention finds the KV rows of a layer: in the paged cache, or gathered to bf16 by run_gather.
struct KvSource {
  RowPages window;                     // rows of raw tokens
  RowPages compressed;                 // csa or hca entries; unused for swa
  const uint8_t* workspace = nullptr;  // bf16 rows of 1,024 bytes, or null: read the pages
  const int32_t* gathered_compressed = nullptr;  // [R] first workspace row of the row's compressed entries
  const int32_t* gathered_window = nullptr;      // [R] first workspace row of its window rows
  const int32_t* gathered_start = nullptr;       // [R] position of that window row
};

#if defined(__CUDACC__)
/// Physical block and row of cache position `p` of batch row `row`.
__device__ __forceinline__ int window_block(const BatchView& b, int row, int p) {
  return b.window_blocks[b.window_offset[row] + p / kBlockTokens - b.window_base[row]];
}
__device__ __forceinline__ int context_block(const BatchView& b, int row, int logical) {
  return b.context_blocks[b.context_offset[row] + logical];
}
/// First position of the window of a token at cache position `p`.
__device__ __forceinline__ int window_begin(const BatchView& b, int p) { return max(b.window_first, p - (kWindow - 1)); }
#endif

}  // namespace twelvex::cuda
