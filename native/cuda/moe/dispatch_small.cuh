// SPDX-License-Identifier: MIT
// The dispatch of few slots by one block: a slot's place is found by counting equal ids before it.
#pragma once

#include <cuda_bf16.h>

#include "common/reduce.cuh"
#include "moe/dispatch.h"
#include "moe/route.h"

namespace twelvex::cuda {

inline constexpr int kSmallSlots = 512;
inline constexpr int kSmallThreads = 512;
static_assert(kSmallThreads >= kMaxExperts && kSmallThreads >= kSmallSlots);

/// Exclusive sum over the threads of a block; `scratch` holds 32 ints. `total` is the sum of all.
__device__ inline int exclusive_sum(int value, int* scratch, int& total) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  const int sum = warp_scan(value);
  if (lane == 31) scratch[warp] = sum;
  __syncthreads();
  int before = 0;
  total = 0;
  for (int w = 0; w < warps; ++w) {
    if (w < warp) before += scratch[w];
    total += scratch[w];
  }
  __syncthreads();
  return before + sum - value;
}

__device__ inline void place(const DispatchParams& p, int slot, int row) {
  p.sorted_token[row] = slot / p.picks;
  p.sorted_weight[row] = p.weights[slot];
  p.row_of_slot[slot] = row;
}

/// Thread e: the tiles of expert e, behind those of lower experts.
__device__ inline void cut_tiles(const DispatchParams& p, int begin, int count, int* scratch) {
  const int tiles = (count + p.tile_rows - 1) / p.tile_rows;
  int total = 0;
  const int first = exclusive_sum(tiles, scratch, total);
  for (int i = 0; i < tiles; ++i) {
    p.tiles[first + i] =
        GroupTile{static_cast<int>(threadIdx.x), begin + i * p.tile_rows, min(p.tile_rows, count - i * p.tile_rows)};
  }
  if (threadIdx.x == 0) *p.tile_count = total;
}

struct SmallDispatch {
  int ids[kSmallSlots], counts[kSmallThreads], begins[kSmallThreads], scratch[32];
};

/// By a block of kSmallThreads threads. What its threads have written to ids and weights is followed by a barrier.
__device__ inline void dispatch_small(const DispatchParams& p, SmallDispatch& s) {
  const int slot = threadIdx.x;
  s.counts[slot] = 0;
  const int expert = slot < p.slots ? p.ids[slot] : -1;
  s.ids[slot] = expert;
  __syncthreads();
  int rank = 0;
  if (expert >= 0) {
    for (int i = 0; i < slot; ++i) rank += s.ids[i] == expert;
    atomicAdd(&s.counts[expert], 1);  // an integer sum: any order gives the same
  }
  __syncthreads();
  int total = 0;
  const int count = s.counts[threadIdx.x];
  s.begins[threadIdx.x] = exclusive_sum(count, s.scratch, total);
  __syncthreads();
  if (slot < p.slots) {
    if (expert >= 0) {
      place(p, slot, s.begins[expert] + rank);
    } else {
      p.row_of_slot[slot] = -1;
    }
  }
  if (static_cast<int>(threadIdx.x) < p.experts) p.begin[threadIdx.x] = s.begins[threadIdx.x];
  if (threadIdx.x == 0) p.begin[p.experts] = total;
  cut_tiles(p, s.begins[threadIdx.x], count, s.scratch);
}

}  // namespace twelvex::cuda
