// SPDX-License-Identifier: MIT
#include "elementwise/norm_rope.h"

#include "arch/dependent_launch.cuh"
#include "common/check.h"
#include "common/convert.cuh"
#include "common/reduce.cuh"
#include "layout/row_store.cuh"

namespace twelvex::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kMaxVectors = 4;  // of 8 elements a thread: rows of up to 8,192
constexpr int kMaxDim = kThreads * 8 * kMaxVectors;

__global__ void rope_table_kernel(const __grid_constant__ RopeTableParams p) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= p.tokens * 32) return;
  const int position = p.position[i / 32];
  p.rope_plain[i] = rope_turn(position, p.plain.pair[i % 32]);
  p.rope_long[i] = rope_turn(position, p.compressed.pair[i % 32]);
}

/// One row by one block; norm weights are f32.
__device__ __forceinline__ void norm_row(const bf16* in, const float* norm, bf16* out, int dim, float eps, float* scratch) {
  float v[kMaxVectors][8];
  float squares = 0;
#pragma unroll
  for (int k = 0; k < kMaxVectors; ++k) {
    const int at = (k * kThreads + static_cast<int>(threadIdx.x)) * 8;
    if (at >= dim) continue;
    unpack_bf16x8(*reinterpret_cast<const uint4*>(in + at), v[k]);
#pragma unroll
    for (int i = 0; i < 8; ++i) squares += v[k][i] * v[k][i];
  }
  const float factor = rsqrtf(block_sum<kThreads>(squares, scratch) / static_cast<float>(dim) + eps);
#pragma unroll
  for (int k = 0; k < kMaxVectors; ++k) {
    const int at = (k * kThreads + static_cast<int>(threadIdx.x)) * 8;
    if (at >= dim) continue;
    const float4 a = *reinterpret_cast<const float4*>(norm + at), b = *reinterpret_cast<const float4*>(norm + at + 4);
    const float w[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
#pragma unroll
    for (int i = 0; i < 8; ++i) v[k][i] *= factor * w[i];
    *reinterpret_cast<uint4*>(out + at) = pack_bf16x8(v[k]);
  }
}

__global__ void __launch_bounds__(kThreads) norm_rows_kernel(const __grid_constant__ NormRowsParams p) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  __shared__ float scratch[kThreads / 32];
  const size_t at = static_cast<size_t>(blockIdx.x) * p.dim;
  norm_row(p.in + at, p.norm, p.out + at, p.dim, p.eps, scratch);
}

/// A lane's 16 values of a row of 512: dims 16 l ..
__device__ __forceinline__ void load_row16(const bf16* row, float (&v)[16], int lane) {
  const auto* in = reinterpret_cast<const uint4*>(row) + lane * 2;
  float half[8];
  unpack_bf16x8(in[0], half);
#pragma unroll
  for (int i = 0; i < 8; ++i) v[i] = half[i];
  unpack_bf16x8(in[1], half);
#pragma unroll
  for (int i = 0; i < 8; ++i) v[8 + i] = half[i];
}

__device__ __forceinline__ void store_row16(bf16* row, const float (&v)[16], int lane) {
  auto* out = reinterpret_cast<uint4*>(row) + lane * 2;
  out[0] = make_uint4(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]), pack_bf16(v[6], v[7]));
  out[1] = make_uint4(pack_bf16(v[8], v[9]), pack_bf16(v[10], v[11]), pack_bf16(v[12], v[13]), pack_bf16(v[14], v[15]));
}

/// Rotates lanes 28 .. 31 of a row of 512 by the token's turns.
__device__ __forceinline__ void rotate_row16(float (&v)[16], const float2* turns, int lane) {
  if (lane < kNopeDim / 16) return;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const float2 turn = turns[(lane - kNopeDim / 16) * 8 + i];
    const float x = v[2 * i], y = v[2 * i + 1];
    v[2 * i] = x * turn.x - y * turn.y;
    v[2 * i + 1] = y * turn.x + x * turn.y;
  }
}

__device__ __forceinline__ float mean_square16(const float (&v)[16]) {
  float squares = 0;
#pragma unroll
  for (int i = 0; i < 16; ++i) squares += v[i] * v[i];
  return warp_sum(squares) / kHeadDim;
}

// Block (token): all threads norm the latent, warp 0 then norms and rotates the kv row.
__global__ void __launch_bounds__(kThreads, 3) latent_kv_kernel(const __grid_constant__ LatentKvParams p) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  __shared__ float scratch[kThreads / 32];
  const size_t token = blockIdx.x;
  norm_row(p.latent + token * p.latent_dim, p.q_norm, p.latent + token * p.latent_dim, p.latent_dim, p.eps, scratch);
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

// One warp a (token, head).
__global__ void __launch_bounds__(kThreads) norm_rotate_query_kernel(const __grid_constant__ QueryParams p) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  const int64_t at = static_cast<int64_t>(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32;
  if (at >= static_cast<int64_t>(p.tokens) * p.heads) return;
  const int lane = threadIdx.x % 32;
  bf16* row = p.query + at * kHeadDim;
  float v[16];
  load_row16(row, v, lane);
  const float factor = rsqrtf(mean_square16(v) + p.eps);
#pragma unroll
  for (int i = 0; i < 16; ++i) v[i] *= factor;
  rotate_row16(v, p.rope + at / p.heads * 32, lane);
  store_row16(row, v, lane);
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
  TWELVEX_NEED_LE(p.latent_dim, kMaxDim);
  launch_dependent({p.tokens, kThreads, 0, queue}, latent_kv_kernel, p);
}

void run_norm_rotate_query(const QueryParams& p, cudaStream_t queue) {
  const int64_t rows = static_cast<int64_t>(p.tokens) * p.heads;
  if (rows == 0) return;
  launch_dependent({static_cast<unsigned>((rows + 7) / 8), kThreads, 0, queue}, norm_rotate_query_kernel, p);
}

void run_norm_rows(const NormRowsParams& p, cudaStream_t queue) {
  if (p.rows == 0) return;
  TWELVEX_NEED_LE(p.dim, kMaxDim);
  launch_dependent({p.rows, kThreads, 0, queue}, norm_rows_kernel, p);
}

void run_store_window(const StoreWindowParams& p, cudaStream_t queue) {
  if (p.batch.tokens == 0) return;
  launch_dependent({(p.batch.tokens + 7) / 8, kThreads, 0, queue}, store_window_kernel, p);
}

}  // namespace twelvex::cuda
