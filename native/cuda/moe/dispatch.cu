// SPDX-License-Identifier: MIT
// A counting sort in two launches.
//   sort   block e counts the slots of lower experts and of its own, then writes its own behind them in slot order
//   tiles  one block cuts the experts' runs into tiles, in expert order
// Up to kSmallSlots slots (decode) one block does both: a slot's place is found by counting equal ids before it.
#include <cuda_bf16.h>

#include "arch/dependent_launch.cuh"
#include "common/check.h"
#include "common/convert.cuh"
#include "common/reduce.cuh"
#include "moe/dispatch.h"
#include "moe/route.h"

namespace twelvex::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kSmallSlots = 512;
constexpr int kSmallThreads = 512;
static_assert(kSmallThreads >= kMaxExperts && kSmallThreads >= kSmallSlots);

/// Exclusive sum over the threads of a block; `scratch` holds 32 ints. `total` is the sum of all.
__device__ int exclusive_sum(int value, int* scratch, int& total) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  int sum = value;
#pragma unroll
  for (int d = 1; d < 32; d <<= 1) {
    const int below = __shfl_up_sync(kFullWarp, sum, d);
    if (lane >= d) sum += below;
  }
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

__device__ void place(const DispatchParams& p, int slot, int row) {
  p.sorted_token[row] = slot / p.picks;
  p.sorted_weight[row] = p.weights[slot];
  p.row_of_slot[slot] = row;
}

/// Thread e: the tiles of expert e, behind those of lower experts.
__device__ void cut_tiles(const DispatchParams& p, int begin, int count, int* scratch) {
  const int tiles = (count + p.tile_rows - 1) / p.tile_rows;
  int total = 0;
  const int first = exclusive_sum(tiles, scratch, total);
  for (int i = 0; i < tiles; ++i) {
    p.tiles[first + i] =
        GroupTile{static_cast<int>(threadIdx.x), begin + i * p.tile_rows, min(p.tile_rows, count - i * p.tile_rows)};
  }
  if (threadIdx.x == 0) *p.tile_count = total;
}

__global__ void __launch_bounds__(kSmallThreads) dispatch_small_kernel(const DispatchParams p) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  __shared__ int ids[kSmallSlots], counts[kSmallThreads], begins[kSmallThreads], scratch[32];
  const int slot = threadIdx.x;
  counts[slot] = 0;
  const int expert = slot < p.slots ? p.ids[slot] : -1;
  ids[slot] = expert;
  __syncthreads();
  int rank = 0;
  if (expert >= 0) {
    for (int i = 0; i < slot; ++i) rank += ids[i] == expert;
    atomicAdd(&counts[expert], 1);  // an integer sum: any order gives the same
  }
  __syncthreads();
  int total = 0;
  const int count = counts[threadIdx.x];
  begins[threadIdx.x] = exclusive_sum(count, scratch, total);
  __syncthreads();
  if (slot < p.slots) {
    if (expert >= 0) {
      place(p, slot, begins[expert] + rank);
    } else {
      p.row_of_slot[slot] = -1;
    }
  }
  if (static_cast<int>(threadIdx.x) < p.experts) p.begin[threadIdx.x] = begins[threadIdx.x];
  if (threadIdx.x == 0) p.begin[p.experts] = total;
  cut_tiles(p, begins[threadIdx.x], count, scratch);
}

__global__ void __launch_bounds__(kThreads) dispatch_sort_kernel(const DispatchParams p) {
  __shared__ int scratch[32];
  const int expert = blockIdx.x;
  int lower = 0, own = 0;
  for (int slot = threadIdx.x; slot < p.slots; slot += kThreads) {
    const int id = p.ids[slot];
    lower += id >= 0 && id < expert;
    own += id == expert;
    if (expert == 0 && id < 0) p.row_of_slot[slot] = -1;
  }
  int begin = 0, count = 0;
  exclusive_sum(lower, scratch, begin);
  exclusive_sum(own, scratch, count);
  if (threadIdx.x == 0) {
    p.begin[expert] = begin;
    if (expert + 1 == p.experts) p.begin[p.experts] = begin + count;
  }
  for (int base = 0, placed = 0; base < p.slots && placed < count; base += kThreads) {
    const int slot = base + threadIdx.x;
    const int mine = slot < p.slots && p.ids[slot] == expert;
    int here = 0;
    const int before = exclusive_sum(mine, scratch, here);
    if (mine) place(p, slot, begin + placed + before);
    placed += here;
  }
}

__global__ void __launch_bounds__(kSmallThreads) dispatch_tiles_kernel(const DispatchParams p) {
  __shared__ int scratch[32];
  const int expert = threadIdx.x;
  const int begin = expert < p.experts ? p.begin[expert] : 0;
  cut_tiles(p, begin, expert < p.experts ? p.begin[expert + 1] - begin : 0, scratch);
}

__global__ void __launch_bounds__(kThreads) combine_kernel(const CombineParams p) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  const int vectors = p.cols / 8;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int token = static_cast<int>(index / vectors);
  const int64_t at = index - static_cast<int64_t>(token) * vectors;
  if (token >= p.tokens) return;
  float sum[8] = {};
  if (p.rows != nullptr) {
    for (int k = 0; k < p.picks; ++k) {
      const int row = p.row_of_slot[static_cast<int64_t>(token) * p.picks + k];
      if (row < 0) continue;
      float v[8];
      unpack_bf16x8(reinterpret_cast<const uint4*>(p.rows)[static_cast<int64_t>(row) * vectors + at], v);
#pragma unroll
      for (int i = 0; i < 8; ++i) sum[i] += v[i];
    }
  }
  if (p.shared != nullptr) {
    float v[8];
    unpack_bf16x8(reinterpret_cast<const uint4*>(p.shared)[index], v);
#pragma unroll
    for (int i = 0; i < 8; ++i) sum[i] += v[i];
  }
  reinterpret_cast<uint4*>(p.y)[index] = pack_bf16x8(sum);
}

}  // namespace

void run_dispatch(const DispatchParams& p) {
  if (p.slots == 0) return;
  TWELVEX_NEED_LE(p.experts, kMaxExperts);
  if (p.slots <= kSmallSlots) {
    return launch_dependent({1, kSmallThreads, 0, p.stream}, dispatch_small_kernel, p);
  }
  dispatch_sort_kernel<<<p.experts, kThreads, 0, p.stream>>>(p);
  check_launch("dispatch_sort_kernel");
  dispatch_tiles_kernel<<<1, kSmallThreads, 0, p.stream>>>(p);
  check_launch("dispatch_tiles_kernel");
}

void run_combine(const CombineParams& p) {
  if (p.tokens == 0) return;
  TWELVEX_NEED(p.cols % 8, 0);
  const int64_t threads = static_cast<int64_t>(p.tokens) * (p.cols / 8);
  launch_dependent({static_cast<unsigned>(ceil_div(threads, kThreads)), kThreads, 0, p.stream}, combine_kernel, p);
}

}  // namespace twelvex::cuda
