// SPDX-License-Identifier: MIT
// Two launches in order: entries are pooled from this step's projections and from the rings as earlier steps left them; then
// the rings take this step's positions. Rings are addressed by absolute position, so a rejected draft is written again.
#include "compressor/compressor.h"

#include "arch/dependent_launch.cuh"
#include "common/check.h"
#include "compressor/compress.cuh"

namespace twelvex::cuda {

namespace {

constexpr int kThreads = 128;

// Block (token); works when the token completes a window.
template <int kDim>
__global__ void __launch_bounds__(kThreads) pool_entries_kernel(const __grid_constant__ CompressorParams p) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  __shared__ float entry[kDim];
  pool_entry<kDim, kThreads>(p, blockIdx.x, entry, IsReady{});
}

// Blocks [0, T): a token each. Blocks [T, T + R): a row each.
__global__ void __launch_bounds__(kThreads, 4) keep_positions_kernel(const __grid_constant__ CompressorParams p) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  const int block = blockIdx.x;
  if (block < p.batch.tokens) {
    keep_position(p, block, [] {});
  } else {
    restore_ring(p, block - p.batch.tokens);
  }
}

}  // namespace

void run_compressor(const CompressorParams& p, cudaStream_t queue) {
  if (p.batch.tokens == 0) return;
  if (p.dim == kHeadDim) {
    launch_dependent({p.batch.tokens, kThreads, 0, queue}, pool_entries_kernel<kHeadDim>, p);
  } else {
    TWELVEX_NEED(p.dim, kIndexDim);
    launch_dependent({p.batch.tokens, kThreads, 0, queue}, pool_entries_kernel<kIndexDim>, p);
  }
  launch_dependent({p.batch.tokens + p.batch.rows, kThreads, 0, queue}, keep_positions_kernel, p);
}

}  // namespace twelvex::cuda
