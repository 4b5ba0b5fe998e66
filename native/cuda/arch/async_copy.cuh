// SPDX-License-Identifier: MIT
// Asynchronous copies into shared memory and the barriers they complete on.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "arch/mma.cuh"

namespace twelvex::cuda {

/// 16 bytes global -> shared, bypassing L1; zero-filled when `valid` is false (the address is then not read).
__device__ __forceinline__ void cp_async_16(uint32_t shared, const void* global, bool valid = true) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared), "l"(global), "r"(valid ? 16 : 0) : "memory");
}

/// The same of 4 bytes, through L1.
__device__ __forceinline__ void cp_async_4(uint32_t shared, const void* global, bool valid = true) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;\n" ::"r"(shared), "l"(global), "r"(valid ? 4 : 0) : "memory");
}

__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }

/// Waits until at most kPending groups of this thread are in flight.
template <int kPending>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending) : "memory");
}

/// Waits for all copies of this thread.
__device__ __forceinline__ void cp_async_wait_all() { asm volatile("cp.async.wait_all;\n" ::: "memory"); }

// ---- mbarrier

__device__ __forceinline__ void mbarrier_init(uint64_t* barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n" ::"r"(smem_address(barrier)), "r"(arrivals) : "memory");
}

/// Makes barrier initialisations visible to the copy engine; one thread, before the block's barrier.
__device__ __forceinline__ void mbarrier_fence_init() { asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory"); }

__device__ __forceinline__ void mbarrier_arrive(uint64_t* barrier) {
  asm volatile("{\n .reg .b64 state;\n mbarrier.arrive.shared::cta.b64 state, [%0];\n}\n" ::"r"(smem_address(barrier))
               : "memory");
}

// One lane arrives for its warp, after __syncwarp. racecheck follows only a thread's own arrivals, so it gets a build in which
// every lane arrives (scripts/gpu-tests.sh --sanitize); the order that it then checks is the same.
#if defined(TWELVEX_RACECHECK)
inline constexpr int kArrivalsPerWarp = 32;
#else
inline constexpr int kArrivalsPerWarp = 1;
#endif

/// Everything the warp has read or written so far is done before the barrier's phase completes.
__device__ __forceinline__ void mbarrier_arrive_warp(uint64_t* barrier, int lane) {
  __syncwarp();
  if (lane < kArrivalsPerWarp) mbarrier_arrive(barrier);
}

/// Arrives when this thread's copies so far (cp_async) are done; counts as one arrival.
__device__ __forceinline__ void mbarrier_arrive_copied(uint64_t* barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];\n" ::"r"(smem_address(barrier)) : "memory");
}

/// Announces `bytes` of bulk copies; the arrival follows.
__device__ __forceinline__ void mbarrier_expect(uint64_t* barrier, uint32_t bytes) {
  asm volatile("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;\n" ::"r"(smem_address(barrier)), "r"(bytes) : "memory");
}

/// One arrival that also announces `bytes` of bulk copies.
__device__ __forceinline__ void mbarrier_arrive_expect(uint64_t* barrier, uint32_t bytes) {
  asm volatile("{\n .reg .b64 state;\n mbarrier.arrive.expect_tx.shared::cta.b64 state, [%0], %1;\n}\n" ::"r"(
                   smem_address(barrier)),
               "r"(bytes)
               : "memory");
}

/// Waits for the completion of the phase with this parity.
__device__ __forceinline__ void mbarrier_wait(uint64_t* barrier, uint32_t parity) {
  asm volatile(
      "{\n .reg .pred done;\n"
      "again:\n mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      " @!done bra again;\n}\n" ::"r"(smem_address(barrier)),
      "r"(parity)
      : "memory");
}

/// `bytes` (a multiple of 16, both addresses 16-byte aligned) by the copy engine; completes on `barrier`.
__device__ __forceinline__ void bulk_copy(void* shared, const void* global, uint32_t bytes, uint64_t* barrier) {
  asm volatile("cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];\n" ::"r"(
                   smem_address(shared)),
               "l"(global), "r"(bytes), "r"(smem_address(barrier))
               : "memory");
}

/// Barrier `id` (1..15) among `threads` threads of the block.
__device__ __forceinline__ void named_barrier(int id, int threads) {
  asm volatile("bar.sync %0, %1;\n" ::"r"(id), "r"(threads) : "memory");
}

/// Gives registers back (producers) or takes them (math warps); every warp of a group of four executes it.
template <int kRegisters>
__device__ __forceinline__ void release_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;\n" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void acquire_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;\n" ::"n"(kRegisters));
}

}  // namespace twelvex::cuda
