// SPDX-License-Identifier: MIT
// Blocks (token, part): the latent, the window row, the token's position in each compressor, the entry that it completes there,
// comb.
// A part of its own keeps a position while another pools: what one writes the other does not read (decode_rows.h).
#include "attention/decode_rows.h"

#include "arch/dependent_launch.cuh"
#include "common/check.h"
#include "compressor/compress.cuh"
#include "elementwise/norm_rope.cuh"
#include "hyper/hyper_math.cuh"

namespace twelvex::cuda {

namespace {

constexpr int kThreads = kNormThreads;
constexpr int kLatent = 0, kFirstCompressor = 2;  // 1: the window row; from 2 on keep and pool in turn

/// What was there before this step is fetched before this; nothing else is.
__device__ __forceinline__ void wait_for_projections() {
  wait_for_previous_kernel();
  let_next_kernel_start();
}

__device__ __forceinline__ void norm_latent(const DecodeRowsParams& p, int token, float* shared) {
  const NormWeights norm(p.norm.q_norm, p.norm.latent_dim);
  wait_for_projections();
  bf16* latent = p.norm.latent + static_cast<size_t>(token) * p.norm.latent_dim;
  norm_row({.in = latent, .out = latent, .dim = p.norm.latent_dim, .eps = p.norm.eps, .quantise = p.quantise_latent}, norm,
           shared);
}

/// The first warp.
__device__ __forceinline__ void store_window_row(const DecodeRowsParams& p, int token) {
  const int row = p.batch.token_row[token], lane = threadIdx.x;
  if (row < 0 || lane >= 32) return wait_for_projections();
  const int position = p.batch.cache_position[token], block = window_block(p.batch, row, position);
  float norm[16], v[16];
  float2 turns[8];
#pragma unroll
  for (int i = 0; i < 16; ++i) norm[i] = p.norm.kv_norm[lane * 16 + i];
#pragma unroll
  for (int i = 0; i < 8; ++i) turns[i] = turn_of_row16(p.norm.rope + static_cast<size_t>(token) * (kRopeDim / 2), lane, i);
  wait_for_projections();
  load_row16(p.norm.kv + static_cast<size_t>(token) * kHeadDim, v, lane);
  const float factor = rsqrtf(mean_square16(v) + p.norm.eps);
#pragma unroll
  for (int i = 0; i < 16; ++i) v[i] *= factor * norm[i];
  rotate_own16(v, turns, lane);
#pragma unroll
  for (int i = 0; i < 16; ++i) v[i] = round_bf16(v[i]);
  store_kv_row(p.window, block, position % kBlockTokens, v, lane);
}

__device__ __forceinline__ void pool(const CompressorParams& c, int token, float* shared) {
  const auto ready = [] { wait_for_projections(); };
  if (c.dim == kHeadDim) {
    pool_entry<kHeadDim, kThreads>(c, token, shared, ready);
  } else {
    pool_entry<kIndexDim, kThreads>(c, token, shared, ready);
  }
}

/// Behind the tokens come rows, whose rings are restored.
__device__ __forceinline__ void keep(const CompressorParams& c, int block) {
  if (block < c.batch.tokens) return keep_position(c, block, [] { wait_for_projections(); });
  wait_for_projections();
  restore_ring(c, block - c.batch.tokens);
}

/// The first thread: what mHC leaves by, so that it finds it done.
__device__ __forceinline__ void make_comb_of(const DecodeRowsParams& p, int token) {
  if (threadIdx.x == 0 && token < p.norm.tokens) {
    make_comb(p.comb, token, p.comb.mix + static_cast<size_t>(token) * kHyperKept);
  }
  wait_for_projections();
}

__global__ void __launch_bounds__(kThreads) decode_rows_kernel(const __grid_constant__ DecodeRowsParams p) {
  __shared__ float shared[kHeadDim];
  const int block = blockIdx.x, part = blockIdx.y, parts = kFirstCompressor + 2 * p.num_compressors;
  if (part == parts) return make_comb_of(p, block);
  const int compressor = (part - kFirstCompressor) / 2;
  if (part >= kFirstCompressor && part % 2 == 0) return keep(p.compressors[compressor], block);
  if (block >= p.norm.tokens) return wait_for_projections();
  if (part >= kFirstCompressor) return pool(p.compressors[compressor], block, shared);
  part == kLatent ? norm_latent(p, block, shared) : store_window_row(p, block);
}

}  // namespace

void run_decode_rows(const DecodeRowsParams& p, cudaStream_t queue) {
  if (p.norm.tokens == 0) return;
  TWELVEX_NEED_LE(p.norm.latent_dim, kMaxNormDim);
  const int blocks = p.norm.tokens + (p.num_compressors > 0 ? p.batch.rows : 0);
  const int parts = kFirstCompressor + 2 * p.num_compressors + (p.comb.mix != nullptr);
  launch_dependent({dim3(blocks, parts), kThreads, 0, queue}, decode_rows_kernel, p);
}

}  // namespace twelvex::cuda
