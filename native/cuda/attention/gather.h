// SPDX-License-Identifier: MIT
// Gathers paged KV rows into a contiguous bf16 workspace, row by row of a prefill chunk.
#pragma once

#include <cuda_runtime_api.h>

#include "layout/batch_view.h"

namespace twelvex::cuda {

/// Workspace rows of the chunk's batch rows: compressed entries first, then window rows, one batch row after another.
struct GatherParams {
  BatchView batch;
  KvSource kv;              // pages (bf16 or fp8); gathered_* as attention will read them
  uint8_t* workspace = nullptr;  // [.., 512] bf16
  int first_row = 0;        // batch rows [first_row, first_row + rows)
  int rows = 0;
  int ratio = 4;            // of the compressed entries; 0: window rows only
};

/// Copies, for each batch row, every compressed entry visible to its last token and the window rows from gathered_start on.
void run_gather(const GatherParams& params, cudaStream_t queue);

/// Host side of the same: rows of the workspace that a batch row needs.
struct GatherShape {
  int compressed, window, window_start;
};
inline GatherShape gather_shape(int position, int count, int ratio, int window_first) {
  const int last = position + count - 1;
  const int start = position - (kWindow - 1) > window_first ? position - (kWindow - 1) : window_first;
  return {ratio ? (last + 1) / ratio : 0, last + 1 - start, start};
}

}  // namespace twelvex::cuda
