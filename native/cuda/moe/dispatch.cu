// SPDX-License-Identifier: MIT
// A counting sort in two launches.
//   sort   block e counts the slots of lower experts and of its own, then writes its own behind them in slot order
//   tiles  one block cuts the experts' runs into tiles, in expert order
// Up to kSmallSlots slots (decode) one block does both (dispatch_small.cuh).
#include <cuda_bf16.h>

#include "arch/dependent_launch.cuh"
#include "common/check.h"
#include "moe/combine.cuh"
#include "moe/dispatch.h"
#include "moe/dispatch_small.cuh"

namespace twelvex::cuda {

namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kSmallThreads) dispatch_small_kernel(const DispatchParams p) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  __shared__ SmallDispatch memory;
  dispatch_small(p, memory);
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

__global__ void __launch_bounds__(kThreads, 6) combine_kernel(const CombineParams p) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  const int vectors = p.cols / 8;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int token = static_cast<int>(index / vectors);
  const int64_t at = index - static_cast<int64_t>(token) * vectors;
  if (token >= p.tokens) return;
  reinterpret_cast<uint4*>(p.y)[index] = combine_vector(p, token, static_cast<int>(at), p.row_of_slot + int64_t{token} * p.picks);
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
