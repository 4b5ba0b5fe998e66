// SPDX-License-Identifier: MIT
// The candidates of one query token, in the order in which every attention kernel visits them:
//   csa  selection[0 .. topk) (entries < 0 are skipped), then the window     hca  all visible entries, then the window
//   swa  the window
// so results do not depend on how rows are batched.
#pragma once

#include "layout/batch_view.h"

namespace twelvex::cuda {

struct CandidateList {
  const int32_t* chosen;  // csa: the token's row of the selection; null otherwise
  int compressed;         // compressed candidates (chosen or all)
  int total;              // compressed + window
  int row;                // batch row
  int window_begin;       // position of the first window candidate

  /// An empty list (total 0) for padding.
  __device__ static CandidateList of(const BatchView& b, LayerKind kind, const int32_t* selection, int topk, int token) {
    CandidateList list{nullptr, 0, 0, b.token_row[token], 0};
    const int p = b.cache_position[token];
    if (list.row < 0) return list;
    if (kind == LayerKind::kCsa) {
      list.chosen = selection + static_cast<size_t>(token) * topk;
      list.compressed = min(topk, (p + 1) / kCsaRatio);
    } else if (kind == LayerKind::kHca) {
      list.compressed = (p + 1) / kHcaRatio;
    }
    list.window_begin = cuda::window_begin(b, p);
    list.total = list.compressed + p + 1 - list.window_begin;
    return list;
  }

  /// Position of the token itself: the last window candidate.
  __device__ int own_position() const { return window_begin + total - compressed - 1; }

  /// Entry number or position of candidate i; negative when it is invalid (padding or past the end).
  __device__ int id(int i) const {
    if (i >= total) return -1;
    if (i >= compressed) return window_begin + i - compressed;
    return chosen ? chosen[i] : i;
  }
};

/// A candidate's row in the paged cache.
struct PagedRow {
  const RowPages* pages;
  int block, row;
};

__device__ __forceinline__ PagedRow paged_row(const BatchView& b, const KvSource& kv, int batch_row, bool compressed, int id) {
  if (!compressed) return {&kv.window, window_block(b, batch_row, id), id % kBlockTokens};
  const int rows = kv.compressed.rows;
  return {&kv.compressed, context_block(b, batch_row, id / rows), id % rows};
}

/// Address of a candidate's bf16 row, in the workspace or in bf16 pages.
__device__ __forceinline__ const uint8_t* bf16_row(const BatchView& b, const KvSource& kv, int batch_row, bool compressed,
                                                   int id) {
  if (kv.workspace) {
    const int row = compressed ? kv.gathered_compressed[batch_row] + id
                               : kv.gathered_window[batch_row] + id - kv.gathered_start[batch_row];
    return kv.workspace + static_cast<size_t>(row) * kBf16RowBytes;
  }
  const PagedRow at = paged_row(b, kv, batch_row, compressed, id);
  return at.pages->row_bf16(at.block, at.row);
}

}  // namespace twelvex::cuda
