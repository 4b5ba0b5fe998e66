// SPDX-License-Identifier: MIT
// Blocks (token, part): the latent, the window row, the token's position in each compressor. Behind the tokens of a compressor's
// part come blocks (row) that restore rings.
#include "attention/decode_rows.h"

#include "arch/dependent_launch.cuh"
#include "common/check.h"
#include "compressor/compress.cuh"
#include "elementwise/norm_rope.cuh"

namespace twelvex::cuda {

namespace {

constexpr int kThreads = kNormThreads;
constexpr int kLatent = 0, kWindowRow = 1, kFirstCompressor = 2;

/// One warp.
__device__ __forceinline__ void store_window_row(const DecodeRowsParams& p, int token, int lane) {
  const int row = p.batch.token_row[token];
  if (row < 0) return;
  const int position = p.batch.cache_position[token];
  float v[16];
  load_row16(p.norm.kv + static_cast<size_t>(token) * kHeadDim, v, lane);
  const float factor = rsqrtf(mean_square16(v) + p.norm.eps);
#pragma unroll
  for (int i = 0; i < 16; ++i) v[i] *= factor * p.norm.kv_norm[lane * 16 + i];
  rotate_row16(v, p.norm.rope + static_cast<size_t>(token) * (kRopeDim / 2), lane);
#pragma unroll
  for (int i = 0; i < 16; ++i) v[i] = round_bf16(v[i]);
  store_kv_row(p.window, window_block(p.batch, row, position), position % kBlockTokens, v, lane);
}

__device__ __forceinline__ void keep_and_pool(const CompressorParams& c, int block, float* shared) {
  if (block >= c.batch.tokens) return restore_ring(c, block - c.batch.tokens);
  keep_position(c, block);
  if (c.dim == kHeadDim) {
    pool_entry<kHeadDim, kThreads>(c, block, shared);
  } else {
    pool_entry<kIndexDim, kThreads>(c, block, shared);
  }
}

__global__ void __launch_bounds__(kThreads) decode_rows_kernel(const __grid_constant__ DecodeRowsParams p) {
  __shared__ float shared[kHeadDim];
  const int block = blockIdx.x, part = blockIdx.y;
  const bool reads_previous = part >= kFirstCompressor || !p.kv_ready;
  if (reads_previous) {
    wait_for_previous_kernel();
    let_next_kernel_start();
  }
  if (part == kLatent && block < p.norm.tokens) {
    bf16* latent = p.norm.latent + static_cast<size_t>(block) * p.norm.latent_dim;
    norm_row(latent, p.norm.q_norm, latent, p.norm.latent_dim, p.norm.eps, shared);
  } else if (part == kWindowRow && block < p.norm.tokens && threadIdx.x < 32) {
    store_window_row(p, block, threadIdx.x);
  } else if (part >= kFirstCompressor) {
    keep_and_pool(p.compressors[part - kFirstCompressor], block, shared);
  }
  if (!reads_previous) {
    wait_for_previous_kernel();
    let_next_kernel_start();
  }
}

}  // namespace

void run_decode_rows(const DecodeRowsParams& p, cudaStream_t queue) {
  if (p.norm.tokens == 0) return;
  TWELVEX_NEED_LE(p.norm.latent_dim, kMaxNormDim);
  const int blocks = p.norm.tokens + (p.num_compressors > 0 ? p.batch.rows : 0);
  launch_dependent({dim3(blocks, kFirstCompressor + p.num_compressors), kThreads, 0, queue}, decode_rows_kernel, p);
}

}  // namespace twelvex::cuda
