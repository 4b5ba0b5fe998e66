// SPDX-License-Identifier: MIT
// Thread block clusters: blocks that run at the same time on neighbouring multiprocessors and write each other's shared memory.
#pragma once

#include "arch/mma.cuh"

namespace twelvex::cuda {

/// This block's place in its cluster.
__device__ __forceinline__ uint32_t cluster_rank() {
  uint32_t rank;
  asm("mov.u32 %0, %%cluster_ctarank;\n" : "=r"(rank));
  return rank;
}

/// Barrier of all threads of a cluster in two halves; every thread takes part in both. It orders mbarrier_fence_init and nothing
/// else.
__device__ __forceinline__ void cluster_arrive() { asm volatile("barrier.cluster.arrive.relaxed.aligned;\n" ::: "memory"); }
__device__ __forceinline__ void cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;\n" ::: "memory"); }

/// The place in block `rank`'s shared memory that `own` has in this block's.
__device__ __forceinline__ uint32_t peer_address(const void* own, uint32_t rank) {
  uint32_t address;
  asm("mapa.shared::cluster.u32 %0, %1, %2;\n" : "=r"(address) : "r"(smem_address(own)), "r"(rank));
  return address;
}

/// Writes to a block's shared memory; counts as 4 (8, 16) bytes on a barrier of that block, which has to expect them.
__device__ __forceinline__ void send(uint32_t to, uint32_t value, uint32_t barrier) {
  asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0], %1, [%2];\n" ::"r"(to), "r"(value),
               "r"(barrier)
               : "memory");
}
__device__ __forceinline__ void send(uint32_t to, float value, uint32_t barrier) { send(to, __float_as_uint(value), barrier); }
__device__ __forceinline__ void send(uint32_t to, uint2 value, uint32_t barrier) {
  asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.b32 [%0], {%1, %2}, [%3];\n" ::"r"(to),
               "r"(value.x), "r"(value.y), "r"(barrier)
               : "memory");
}
__device__ __forceinline__ void send(uint32_t to, const uint4& value, uint32_t barrier) {
  asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1, %2, %3, %4}, [%5];\n" ::"r"(to),
               "r"(value.x), "r"(value.y), "r"(value.z), "r"(value.w), "r"(barrier)
               : "memory");
}

/// Waits for the phase of a barrier that blocks of the cluster complete.
__device__ __forceinline__ void cluster_mbarrier_wait(uint64_t* barrier, uint32_t parity) {
  asm volatile(
      "{\n .reg .pred done;\n"
      "again:\n mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%0], %1;\n"
      " @!done bra again;\n}\n" ::"r"(smem_address(barrier)),
      "r"(parity)
      : "memory");
}

}  // namespace twelvex::cuda
