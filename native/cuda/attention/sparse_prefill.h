// SPDX-License-Identifier: MIT
// Sparse attention of prefill tokens: every token against its own candidates, all heads of the rank at once.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include "layout/batch_view.h"

namespace twelvex::cuda {

struct SparsePrefillParams {
  BatchView batch;                  // T tokens
  KvSource kv;                      // bf16 workspace, bf16 pages or fp8 pages
  LayerKind kind = LayerKind::kSwa;
  int heads = 0;                    // H of this rank, 1 .. any
  int part_heads = 0;               // see PrefillHeads; 0: as many
  int topk = 0;                     // width of `selection`
  const __nv_bfloat16* query = nullptr;  // [T, H, 512], rotated
  const int32_t* selection = nullptr;    // [T, topk] csa entries, -1 padded
  const float* sinks = nullptr;          // [H]
  const float2* rope = nullptr;          // [T, 32] cos, sin for the inverse rotation of the output
  __nv_bfloat16* attended = nullptr;     // [T, H, 512]
  bool cells = false;                    // attended receives cells of gemm/fp8_cells.h, for FP8 products
  int first_token = 0;              // tokens [first_token, first_token + tokens) of the batch
  int tokens = 0;
  float scale = 0.04419417382415922f;    // 512^-0.5
};

/// How many heads share a block decides the order in which a head's weights are added. It follows the heads of the largest part
/// that two or more ranks hold, so that one rank, which has more, gives their bits.
struct PrefillHeads {
  int own = 0;
  int part = own;
};

/// Launch shape: a pure function of the problem and the device.
struct SparsePrefillPlan {
  int head_block;   // heads a block: 16 or 32
  int head_groups;
  int tile;         // candidates a tile
  int blocks;       // persistent blocks
};
SparsePrefillPlan plan_sparse_prefill(int tokens, PrefillHeads heads, int multiprocessors, int arch, bool fp8_pages);

void run_sparse_prefill(const SparsePrefillParams& params, cudaStream_t queue);

}  // namespace twelvex::cuda
