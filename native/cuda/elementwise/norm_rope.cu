// SPDX-License-Identifier: MIT
#include "elementwise/norm_rope.h"

#include "arch/dependent_launch.cuh"
#include "common/check.h"
#include "elementwise/norm_rope.cuh"
#include "gemm/fp8_cells.cuh"
#include "layout/row_store.cuh"

namespace twelvex::cuda {

namespace {

constexpr int kThreads = kNormThreads;

__global__ void rope_table_kernel(const __grid_constant__ RopeTableParams p) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= p.tokens * 32) return;
  const int position = p.position[i / 32];
  p.rope_plain[i] = rope_turn(position, p.plain.pair[i % 32]);
  p.rope_long[i] = rope_turn(position, p.compressed.pair[i % 32]);
}

__global__ void __launch_bounds__(kThreads) norm_rows_kernel(const __grid_constant__ NormRowsParams p) {
  const NormWeights norm(p.norm, p.dim);
  wait_for_previous_kernel();
  let_next_kernel_start();
  __shared__ float scratch[kThreads / 32];
  const size_t at = static_cast<size_t>(blockIdx.x) * p.dim;
  norm_row({.in = p.in + at, .out = p.out + at, .dim = p.dim, .eps = p.eps}, norm, scratch);
}

// Block (token): all threads norm the latent, warp 0 then norms and rotates the kv row.
__global__ void __launch_bounds__(kThreads, 3) latent_kv_kernel(const __grid_constant__ LatentKvParams p) {
  const NormWeights norm(p.q_norm, p.latent_dim);
  wait_for_previous_kernel();
  let_next_kernel_start();
  __shared__ float scratch[kThreads / 32];
  const size_t token = blockIdx.x;
  bf16* latent = p.latent + token * p.latent_dim;
  norm_row({.in = latent, .out = latent, .dim = p.latent_dim, .eps = p.eps}, norm, scratch);
  if (threadIdx.x >= 32) return;
  const int lane = threadIdx.x;
  float v[16];
  load_row16(p.kv + token * kHeadDim, v, lane);
  const float factor = rsqrtf(mean_square16(v) + p.eps);
#pragma unroll
  for (int i = 0; i < 16; ++i) v[i] *= factor * p.kv_norm[lane * 16 + i];
  rotate_row16(v, p.rope + token * 32, lane);
  store_row16(p.kv + token * kHeadDim, v, lane);
}

__device__ __forceinline__ void finish_head(const QueryParams& p, int64_t at, int lane) {
  bf16* row = p.query + at * kHeadDim;
  float v[16];
  load_row16(row, v, lane);
  norm_rotate_row16(v, p.eps, p.rope + at / p.heads * (kRopeDim / 2), lane);
  store_row16(row, v, lane);
}

/// Two index heads by a warp, eight dims a lane.
__device__ __forceinline__ void finish_index_heads(const QueryParams& p, int64_t first, int lane) {
  const int64_t at = first + lane / 16;
  const bool valid = at < static_cast<int64_t>(p.tokens) * p.index_heads;
  uint4* row = reinterpret_cast<uint4*>(p.index_query + at * kIndexDim);
  const int part = lane % 16;
  uint4 v = make_uint4(0, 0, 0, 0);
  if (valid) v = rotate_index_part(row[part], part, p.rope + at / p.index_heads * (kRopeDim / 2));
  if (p.index_cells) return write_cell(valid ? reinterpret_cast<uint8_t*>(row) : nullptr, part, v);
  if (valid) row[part] = v;
}

// One warp a (token, head), then one a pair of index heads.
__global__ void __launch_bounds__(kThreads) finish_queries_kernel(const __grid_constant__ QueryParams p) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  const int64_t at = static_cast<int64_t>(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32;
  const int64_t heads = static_cast<int64_t>(p.tokens) * p.heads;
  if (at < heads) {
    finish_head(p, at, threadIdx.x % 32);
  } else {
    finish_index_heads(p, (at - heads) * 2, threadIdx.x % 32);
  }
}

__global__ void __launch_bounds__(kThreads) store_window_kernel(const __grid_constant__ StoreWindowParams p) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  const int token = blockIdx.x * (kThreads / 32) + threadIdx.x / 32;
  if (token >= p.batch.tokens) return;
  const int row = p.batch.token_row[token];
  if (row < 0) return;
  const int position = p.batch.cache_position[token], lane = threadIdx.x % 32;
  float v[16];
  load_row16(p.kv + static_cast<size_t>(token) * kHeadDim, v, lane);
  store_kv_row(p.window, window_block(p.batch, row, position), position % kBlockTokens, v, lane);
}

}  // namespace

void run_rope_table(const RopeTableParams& p, cudaStream_t queue) {
  if (p.tokens == 0) return;
  launch_dependent({(p.tokens * 32 + 127) / 128, 128, 0, queue}, rope_table_kernel, p);
}

void run_latent_kv(const LatentKvParams& p, cudaStream_t queue) {
  if (p.tokens == 0) return;
  TWELVEX_NEED_LE(p.latent_dim, kMaxNormDim);
  launch_dependent({p.tokens, kThreads, 0, queue}, latent_kv_kernel, p);
}

void run_finish_queries(const QueryParams& p, cudaStream_t queue) {
  const int64_t warps = static_cast<int64_t>(p.tokens) * p.heads + (static_cast<int64_t>(p.tokens) * p.index_heads + 1) / 2;
  if (warps == 0) return;
  launch_dependent({static_cast<unsigned>((warps + 7) / 8), kThreads, 0, queue}, finish_queries_kernel, p);
}

void run_norm_rows(const NormRowsParams& p, cudaStream_t queue) {
  if (p.rows == 0) return;
  TWELVEX_NEED_LE(p.dim, kMaxNormDim);
  launch_dependent({p.rows, kThreads, 0, queue}, norm_rows_kernel, p);
}

void run_store_window(const StoreWindowParams& p, cudaStream_t queue) {
  if (p.batch.tokens == 0) return;
  launch_dependent({(p.batch.tokens + 7) / 8, kThreads, 0, queue}, store_window_kernel, p);
}

}  // namespace twelvex::cuda
