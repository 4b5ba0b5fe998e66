// SPDX-License-Identifier: MIT
// Packed (small): a thread pushes 16 bytes to every rank as two vectors of (data, turn, data, turn) and waits until the turn
// stands in the vectors that it receives; memory keeps the halves of a vector, 8 bytes, whole. Messages alternate between two
// places by turn: a sender writes turn n + 2 only after it has seen the receiver's message of turn n + 1, which the receiver
// sends after it has read turn n. Two shots (large): barrier, then a rank adds its share of all arrays in rank order and writes
// it to all, barrier. Blocks with the same index talk to each other alone, so no collective needs all its blocks to be
// resident.
#include "arch/dependent_launch.cuh"
#include "comm/all_reduce.h"
#include "common/check.h"
#include "common/convert.cuh"

namespace twelvex::cuda {

namespace {

constexpr int kThreads = 512;

__device__ __forceinline__ void announce(uint32_t* flag, uint32_t turn) {
  asm volatile("st.release.sys.global.u32 [%0], %1;\n" ::"l"(flag), "r"(turn) : "memory");
}

__device__ __forceinline__ uint32_t announced(const uint32_t* flag) {
  uint32_t turn;
  asm volatile("ld.acquire.sys.global.u32 %0, [%1];\n" : "=r"(turn) : "l"(flag) : "memory");
  return turn;
}

__device__ __forceinline__ uint64_t now_ns() {
  uint64_t ns;
  asm volatile("mov.u64 %0, %globaltimer;\n" : "=l"(ns));
  return ns;
}

/// True when the ranks have failed: a rank that waits too long says so and ends everybody's wait.
__device__ bool gave_up(const CommView& c, uint64_t begin) {
  if (*c.failure != 0) return true;
  if (now_ns() - begin <= c.patience_ns) return false;
  *c.failure = 1 + c.rank;
  __threadfence_system();
  return true;
}

/// Waits for `turn`. False when the ranks have failed.
__device__ bool wait_for(const uint32_t* flag, uint32_t turn, const CommView& c) {
  const uint64_t begin = now_ns();
  for (uint32_t spins = 1; static_cast<int32_t>(announced(flag) - turn) < 0; ++spins) {
    if (spins % 64 != 0) continue;
    if (gave_up(c, begin)) return false;
    __nanosleep(100);
  }
  return true;
}

/// All threads: everything that the block's threads wrote is announced to the peers, and the peers' blocks have come as far.
__device__ bool barrier(const CommView& c, uint32_t turn) {
  __threadfence_system();
  __syncthreads();
  bool ok = true;
  const int peer = threadIdx.x;
  if (peer < c.ranks && peer != c.rank) {
    announce(&c.mailbox[peer]->barrier[c.rank][blockIdx.x], turn);
    ok = wait_for(&c.mailbox[c.rank]->barrier[peer][blockIdx.x], turn, c);
  }
  return __syncthreads_and(ok);
}

__device__ __forceinline__ void add(float (&sum)[8], const uint4& v) {
  float x[8];
  unpack_bf16x8(v, x);
#pragma unroll
  for (int i = 0; i < 8; ++i) sum[i] += x[i];
}

__device__ __forceinline__ void store_packed(uint4* to, uint32_t a, uint32_t b, uint32_t turn) {
  asm volatile("st.volatile.global.v4.u32 [%0], {%1, %3, %2, %3};\n" ::"l"(to), "r"(a), "r"(b), "r"(turn) : "memory");
}

/// Waits for a vector of `turn`. False when the ranks have failed, as in wait_for.
__device__ bool load_packed(const uint4* from, uint32_t turn, const CommView& c, uint32_t& a, uint32_t& b) {
  const uint64_t begin = now_ns();
  for (uint32_t spins = 1;; ++spins) {
    uint32_t first, second;
    asm volatile("ld.volatile.global.v4.u32 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(a), "=r"(first), "=r"(b), "=r"(second)
                 : "l"(from)
                 : "memory");
    if (first == turn && second == turn) return true;
    if (spins % 256 == 0 && gave_up(c, begin)) return false;
  }
}

__global__ void __launch_bounds__(kPackedVectors) packed_kernel(const AllReduceParams p) {
  const CommView& c = p.comm;
  Mailbox* own = c.mailbox[c.rank];
  const int block = blockIdx.x, slot = 2 * threadIdx.x;
  const int64_t i = static_cast<int64_t>(block) * kPackedVectors + threadIdx.x;
  wait_for_previous_kernel();
  // On a device of its own: blocks of the next kernel would take the room that the other rank's blocks are waited for.
  if (c.apart) let_next_kernel_start();
  const uint32_t turn = own->packed_turn[block] + 1;
  if (i < p.count / 8) {
    uint4* at = static_cast<uint4*>(p.array.at[c.rank]) + i;
    const uint4 mine = *at;
    for (int peer = 0; peer < c.ranks; ++peer) {
      if (peer == c.rank) continue;
      uint4* to = &c.mailbox[peer]->packed[turn % 2][c.rank][block][slot];
      store_packed(to, mine.x, mine.y, turn);
      store_packed(to + 1, mine.z, mine.w, turn);
    }
    float sum[8] = {};
    bool ok = true;
    for (int peer = 0; peer < c.ranks && ok; ++peer) {
      uint4 v = mine;
      if (peer != c.rank) {
        const uint4* from = &own->packed[turn % 2][peer][block][slot];
        ok = load_packed(from, turn, c, v.x, v.y) && load_packed(from + 1, turn, c, v.z, v.w);
      }
      add(sum, v);
    }
    if (ok) *at = pack_bf16x8(sum);
  }
  __syncthreads();  // everybody has read the turn
  if (threadIdx.x == 0) own->packed_turn[block] = turn;
}

__global__ void __launch_bounds__(kThreads, 1) two_shot_kernel(const AllReduceParams p) {
  constexpr int kUnroll = 4;  // loads of a thread under way at once: the link's latency is some 2 us
  const CommView& c = p.comm;
  uint32_t* turns = c.mailbox[c.rank]->barrier_turn;
  const uint32_t turn = turns[blockIdx.x];
  const bool ok = barrier(c, turn + 1);
  if (ok) {
    const int64_t vectors = p.count / 8;
    const int64_t first = vectors * c.rank / c.ranks, share = vectors * (c.rank + 1) / c.ranks - first;
    const int64_t begin = first + share * blockIdx.x / gridDim.x, end = first + share * (blockIdx.x + 1) / gridDim.x;
    for (int64_t i = begin + threadIdx.x; i < end; i += kThreads * kUnroll) {
      float sum[kUnroll][8] = {};
      for (int peer = 0; peer < c.ranks; ++peer) {
        const uint4* from = static_cast<const uint4*>(p.array.at[peer]) + i;
        uint4 v[kUnroll] = {};
#pragma unroll
        for (int u = 0; u < kUnroll; ++u)
          if (i + u * kThreads < end) v[u] = __ldcv(from + u * kThreads);
#pragma unroll
        for (int u = 0; u < kUnroll; ++u) add(sum[u], v[u]);
      }
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        if (i + u * kThreads >= end) continue;
        const uint4 v = pack_bf16x8(sum[u]);
        for (int peer = 0; peer < c.ranks; ++peer) static_cast<uint4*>(p.array.at[peer])[i + u * kThreads] = v;
      }
    }
  }
  barrier(c, turn + 2);
  if (threadIdx.x == 0) turns[blockIdx.x] = turn + 2;
}

template <class Word>
__global__ void __launch_bounds__(kThreads, 1) all_gather_kernel(const AllGatherParams p) {
  const CommView& c = p.comm;
  uint32_t* turns = c.mailbox[c.rank]->barrier_turn;
  const uint32_t turn = turns[blockIdx.x];
  if (barrier(c, turn + 1)) {
    const int64_t words = p.bytes / static_cast<int64_t>(sizeof(Word)), all = p.rows * words;
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < all;
         i += static_cast<int64_t>(gridDim.x) * kThreads) {
      const int64_t row = i / words;
      const int64_t at = row * p.row_bytes + p.offset + (i - row * words) * static_cast<int64_t>(sizeof(Word));
      const Word v = *reinterpret_cast<const Word*>(static_cast<const uint8_t*>(p.array.at[c.rank]) + at);
      for (int peer = 0; peer < c.ranks; ++peer) {
        if (peer != c.rank) *reinterpret_cast<Word*>(static_cast<uint8_t*>(p.array.at[peer]) + at) = v;
      }
    }
  }
  barrier(c, turn + 2);
  if (threadIdx.x == 0) turns[blockIdx.x] = turn + 2;
}

}  // namespace

void load_collectives() {
  cudaFuncAttributes attributes;
  check(cudaFuncGetAttributes(&attributes, packed_kernel), "packed_kernel");
  check(cudaFuncGetAttributes(&attributes, two_shot_kernel), "two_shot_kernel");
  check(cudaFuncGetAttributes(&attributes, all_gather_kernel<uint4>), "all_gather_kernel");
  check(cudaFuncGetAttributes(&attributes, all_gather_kernel<uint32_t>), "all_gather_kernel");
}

void run_all_reduce(const AllReduceParams& p) {
  if (p.comm.ranks == 1 || p.count == 0) return;
  TWELVEX_NEED(p.count % 8, 0);
  TWELVEX_NEED_LE(p.max_blocks, kCommBlocks);
  const int64_t bytes = p.count * 2;
  if (p.path == AllReducePath::kPacked) {
    TWELVEX_NEED_LE(bytes, kPackedBytes);
    return launch_dependent({.grid = dim3(static_cast<unsigned>(all_reduce_blocks(p.path, bytes, kCommBlocks))),
                             .block = dim3(kPackedVectors), .stream = p.stream},
                            packed_kernel, p);
  }
  TWELVEX_NEED(static_cast<int>(p.path), static_cast<int>(AllReducePath::kTwoShot));
  two_shot_kernel<<<all_reduce_blocks(p.path, bytes, p.max_blocks), kThreads, 0, p.stream>>>(p);
  check_launch("two_shot_kernel");
}

void run_all_gather(const AllGatherParams& p) {
  if (p.comm.ranks == 1) return;
  TWELVEX_NEED((p.row_bytes | p.offset | p.bytes) % 4, 0);
  // Every rank has to launch the same number of blocks, whatever its part: the barriers pair them.
  const bool wide = (p.row_bytes | p.offset | p.bytes) % 16 == 0;
  const auto kernel = wide ? all_gather_kernel<uint4> : all_gather_kernel<uint32_t>;
  kernel<<<all_reduce_blocks(AllReducePath::kTwoShot, p.rows * p.row_bytes, kTwoShotBlocks), kThreads, 0, p.stream>>>(p);
  check_launch("all_gather_kernel");
}

}  // namespace twelvex::cuda
