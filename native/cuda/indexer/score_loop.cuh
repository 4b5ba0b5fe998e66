// SPDX-License-Identifier: MIT
// The loop that both score kernels share.
//
// Block: 256 entries x a group of up to 16 tokens of one batch row; eight warps, 32 entries each. The entries go to B fragments
// that stay in registers; the tokens' queries follow through shared memory, double-buffered: [heads x 128] as A, relu, weight,
// sum over heads. One float per (token, entry) leaves the block. An entry's scale is positive, so it multiplies the finished
// score.
#pragma once

#include "arch/async_copy.cuh"
#include "arch/dependent_launch.cuh"
#include "indexer/head_sums.cuh"
#include "indexer/indexer.h"

namespace twelvex::cuda {

inline constexpr int kScoreWarps = 8;
inline constexpr int kScoreThreads = kScoreWarps * 32;
static_assert(kScoreTile == kScoreWarps * 32);

/// Scores is the kernel's way to hold entries and queries:
///   load_entries(row, first, visible)  entries [first, first + 256) to registers and, at `entry_scale`, this lane's scale
///   clear_queries()                    zeros where no head's query or weight comes to lie
///   load_query(buffer, token)          asynchronous
///   score(buffer)                      of this lane's entry, without its scale
/// The first entries are fetched before the launch before this one has ended: it writes none.
template <class Scores>
__device__ __forceinline__ void score_entries(const IndexScoreParams& p, Scores& scores) {
  const int first = p.groups.first[blockIdx.y], count = p.groups.count[blockIdx.y];
  const int row = count > 0 ? p.batch.token_row[first] : -1;
  const int visible = row >= 0 ? (p.batch.cache_position[first + count - 1] + 1) / kCsaRatio : 0;
  const int begin = blockIdx.x * kScoreTile, end = visible > p.topk ? visible : 0;
  const int own = threadIdx.x / 32 * 32 + summed_entry(threadIdx.x % 32);
  for (int tile = begin; tile == begin || tile < end; tile += gridDim.x * kScoreTile) {
    if (tile < end) scores.load_entries(row, tile, visible);
    if (tile == begin) {
      wait_for_previous_kernel();
      let_next_kernel_start();
    }
    if (tile >= end) break;
    scores.clear_queries();
    scores.load_query(0, first);
    cp_async_commit();
    for (int i = 0; i < count; ++i) {
      if (i + 1 < count) scores.load_query((i + 1) % 2, first + i + 1);
      cp_async_commit();
      cp_async_wait<1>();
      __syncthreads();
      const float score = scores.score(i % 2) * scores.entry_scale;
      if (tile + own < (p.batch.cache_position[first + i] + 1) / kCsaRatio) {
        p.scores[(first + i - p.first_token) * p.stride + tile + own] = score;
      }
      __syncthreads();
    }
  }
}

}  // namespace twelvex::cuda
