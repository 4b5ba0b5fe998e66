// SPDX-License-Identifier: MIT
// RMS norms, rotary embedding and the rows around them.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include "common/rope.cuh"
#include "layout/batch_view.h"

namespace twelvex::cuda {

/// Fills the cos and sin tables of a batch, [T, 32] each, at its rotary positions.
struct RopeTableParams {
  const int32_t* position = nullptr;  // [T]
  int tokens = 0;
  RopeFrequencies plain, compressed;
  float2* rope_plain = nullptr;
  float2* rope_long = nullptr;
};
void run_rope_table(const RopeTableParams& params, cudaStream_t queue);

/// latent = rms_norm(latent) * q_norm in place; kv = rotate(rms_norm(kv) * kv_norm) in place.
struct LatentKvParams {
  int tokens = 0;
  int latent_dim = 0;                // Q, a multiple of 8
  float eps = 1e-6f;
  __nv_bfloat16* latent = nullptr;   // [T, Q]
  __nv_bfloat16* kv = nullptr;       // [T, 512]
  const float* q_norm = nullptr;     // [Q]
  const float* kv_norm = nullptr;    // [512]
  const float2* rope = nullptr;      // [T, 32]
};
void run_latent_kv(const LatentKvParams& params, cudaStream_t queue);

/// Every head: query = rotate(query * rsqrt(mean(query^2) + eps)); every index head: its last 64 of 128 dims rotated. In place.
struct QueryParams {
  int tokens = 0, heads = 0, index_heads = 0;
  float eps = 1e-6f;
  __nv_bfloat16* query = nullptr;        // [T, H, 512]
  __nv_bfloat16* index_query = nullptr;  // [T, index heads, 128]
  bool index_cells = false;              // index queries become cells of gemm/fp8_cells.h
  const float2* rope = nullptr;          // [T, 32]
};
void run_finish_queries(const QueryParams& params, cudaStream_t queue);

/// out[r] = rms_norm(in[r]) * norm over rows of `dim` (a multiple of 8, <= 8192).
struct NormRowsParams {
  int rows = 0, dim = 0;
  float eps = 1e-6f;
  const __nv_bfloat16* in = nullptr;   // [rows, dim]
  const float* norm = nullptr;         // [dim]
  __nv_bfloat16* out = nullptr;        // [rows, dim], may be `in`
};
void run_norm_rows(const NormRowsParams& params, cudaStream_t queue);

/// Rows of the layer's window cache from kv [T, 512].
struct StoreWindowParams {
  BatchView batch;
  RowPages window;
  const __nv_bfloat16* kv = nullptr;
};
void run_store_window(const StoreWindowParams& params, cudaStream_t queue);

}  // namespace twelvex::cuda
