// SPDX-License-Identifier: MIT
#include "elementwise/rows.h"

#include "arch/dependent_launch.cuh"
#include "common/check.h"
#include "common/convert.cuh"
#include "gemm/weight_layout.h"

namespace twelvex::cuda {

namespace {

constexpr int kThreads = 128;

__global__ void __launch_bounds__(kThreads) embed_kernel(const __grid_constant__ EmbedParams p) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  const int id = p.token_id[blockIdx.x];
  const int64_t row = id - p.vocab_begin;
  const bool own = id >= 0 && row >= 0 && row < p.vocab_rows;
  auto* out = reinterpret_cast<uint32_t*>(p.output + static_cast<size_t>(blockIdx.x) * p.dim);
  for (int i = threadIdx.x; i < p.dim / 2; i += kThreads) {
    out[i] = own ? *reinterpret_cast<const uint32_t*>(p.embedding + bf16_offset(row, 2 * i, p.dim)) : 0u;
  }
}

template <bool kAdd>
__global__ void __launch_bounds__(kThreads) spread_kernel(const __grid_constant__ SpreadParams p) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  const auto* in = reinterpret_cast<const uint4*>(p.hidden + static_cast<size_t>(blockIdx.x) * p.dim);
  auto* out = reinterpret_cast<uint4*>(p.streams + static_cast<size_t>(blockIdx.x) * kStreams * p.dim);
  const int vectors = p.dim / 8;
  for (int i = threadIdx.x; i < vectors; i += kThreads) {
    const uint4 v = in[i];
#pragma unroll
    for (int s = 0; s < kStreams; ++s) {
      if constexpr (kAdd) {
        float a[8], b[8];
        unpack_bf16x8(v, a);
        unpack_bf16x8(out[s * vectors + i], b);
#pragma unroll
        for (int k = 0; k < 8; ++k) b[k] += a[k];
        out[s * vectors + i] = pack_bf16x8(b);
      } else {
        out[s * vectors + i] = v;
      }
    }
  }
}

__global__ void __launch_bounds__(kThreads) add_rows_kernel(const __grid_constant__ AddRowsParams p) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= static_cast<int64_t>(p.tokens) * (p.dim / 8)) return;
  auto* at = reinterpret_cast<uint4*>(p.sum) + i;
  float total[8] = {}, first[8], second[8];  // from zero: all_reduce makes 0 of two -0
  unpack_bf16x8(*at, first);
  unpack_bf16x8(reinterpret_cast<const uint4*>(p.part)[i], second);
#pragma unroll
  for (int k = 0; k < 8; ++k) total[k] += first[k];
#pragma unroll
  for (int k = 0; k < 8; ++k) total[k] += second[k];
  *at = pack_bf16x8(total);
}

__device__ __forceinline__ void copy_streams(const void* from, void* to, int dim) {
  for (int i = threadIdx.x; i < kStreams * dim / 8; i += kThreads)
    static_cast<uint4*>(to)[i] = static_cast<const uint4*>(from)[i];
}

__global__ void __launch_bounds__(kThreads) keep_streams_kernel(const __grid_constant__ KeepStreamsParams p) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  const int token = blockIdx.x, row = p.batch.token_row[token];
  if (row < 0) return;
  const int position = p.batch.cache_position[token];
  if (position % kBlockTokens != kBlockTokens - 1) return;
  copy_streams(p.streams + static_cast<size_t>(token) * kStreams * p.dim,
               p.tail + window_block(p.batch, row, position) * p.stride, p.dim);
}

__global__ void __launch_bounds__(kThreads) gather_streams_kernel(const __grid_constant__ GatherStreamsParams p) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  const int token = blockIdx.x, row = p.batch.token_row[token];
  if (row < 0) return;
  const int source = p.source[token];
  const void* from = source >= 0 ? static_cast<const void*>(p.streams + static_cast<size_t>(source) * kStreams * p.dim)
                                 : p.tail + window_block(p.batch, row, p.batch.cache_position[token] - 1) * p.stride;
  copy_streams(from, p.out + static_cast<size_t>(token) * kStreams * p.dim, p.dim);
}

}  // namespace

void run_embed(const EmbedParams& p, cudaStream_t queue) {
  if (p.tokens == 0) return;
  launch_dependent({p.tokens, kThreads, 0, queue}, embed_kernel, p);
}

void run_spread(const SpreadParams& p, cudaStream_t queue) {
  if (p.tokens == 0) return;
  launch_dependent({p.tokens, kThreads, 0, queue}, spread_kernel<false>, p);
}

void run_add_to_streams(const SpreadParams& p, cudaStream_t queue) {
  if (p.tokens == 0) return;
  launch_dependent({p.tokens, kThreads, 0, queue}, spread_kernel<true>, p);
}

void run_add_rows(const AddRowsParams& p, cudaStream_t queue) {
  if (p.tokens == 0) return;
  const int64_t vectors = static_cast<int64_t>(p.tokens) * (p.dim / 8);
  launch_dependent({static_cast<unsigned>(ceil_div(vectors, kThreads)), kThreads, 0, queue}, add_rows_kernel, p);
}

void run_keep_streams(const KeepStreamsParams& p, cudaStream_t queue) {
  if (p.batch.tokens == 0) return;
  launch_dependent({p.batch.tokens, kThreads, 0, queue}, keep_streams_kernel, p);
}

void run_gather_streams(const GatherStreamsParams& p, cudaStream_t queue) {
  if (p.batch.tokens == 0) return;
  launch_dependent({p.batch.tokens, kThreads, 0, queue}, gather_streams_kernel, p);
}

}  // namespace twelvex::cuda
