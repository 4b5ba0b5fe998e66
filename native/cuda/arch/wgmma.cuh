// SPDX-License-Identifier: MIT
// Warpgroup products of sm_90a: D[64, N] (+)= A[64, 16] . B[N, 16]^T, bf16 operands, f32 sums. Warp w of four holds rows
// 16 w .. 16 w + 15 of A and D, A in registers in the fragment order of mma.m16n8k16; eight columns of D follow each other in
// its order too. B lies in shared memory: rows of 128 bytes whose 16-byte chunk c is at c ^ (row & 7), base aligned to 1,024.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "arch/mma.cuh"

namespace twelvex::cuda {

/// Names the rows of B from `address` on. 32 bytes on (16 columns) is + 2.
__device__ __forceinline__ uint64_t wgmma_descriptor(uint32_t address) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62, kEightRows = uint64_t{1024 / 16} << 32, kUnused = uint64_t{1} << 16;
  return kSwizzle128 | kEightRows | kUnused | ((address & 0x3ffffu) >> 4);
}

/// Orders earlier register writes before the products that follow.
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory"); }
/// Waits until at most kPending groups are in flight.
template <int kPending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(kPending) : "memory");
}
/// Makes shared memory written by ordinary stores and cp.async visible to the products.
__device__ __forceinline__ void fence_async_proxy() { asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory"); }

/// `add` 0 starts the sums from zero.
template <int kN>
__device__ __forceinline__ void wgmma_bf16(float (&d)[kN / 2], const uint32_t (&a)[4], uint64_t b, int32_t add);

// The instruction names every sum, so each width is a text of its own; the numbers of its operands follow the sums'.
#define TWELVEX_WGMMA(N, SUMS, A, B, ADD, ...)                                                                                \
  template <>                                                                                                                 \
  __device__ __forceinline__ void wgmma_bf16<N>(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, int32_t add) {         \
    asm volatile("{\n .reg .pred add;\n setp.ne.b32 add, " ADD ", 0;\n"                                                       \
                 " wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" SUMS "}, {" A "}, " B ", add, 1, 1, 0;\n}\n"   \
                 : __VA_ARGS__                                                                                                \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));                                             \
  }
#define TWELVEX_NAMES16 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define TWELVEX_NAMES32 TWELVEX_NAMES16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define TWELVEX_NAMES48 TWELVEX_NAMES32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define TWELVEX_NAMES64 TWELVEX_NAMES48 ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define TWELVEX_SUM4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define TWELVEX_SUM16(i) TWELVEX_SUM4(i), TWELVEX_SUM4(i + 4), TWELVEX_SUM4(i + 8), TWELVEX_SUM4(i + 12)

TWELVEX_WGMMA(32, TWELVEX_NAMES16, "%16, %17, %18, %19", "%20", "%21", TWELVEX_SUM16(0))
TWELVEX_WGMMA(64, TWELVEX_NAMES32, "%32, %33, %34, %35", "%36", "%37", TWELVEX_SUM16(0), TWELVEX_SUM16(16))
TWELVEX_WGMMA(96, TWELVEX_NAMES48, "%48, %49, %50, %51", "%52", "%53", TWELVEX_SUM16(0), TWELVEX_SUM16(16), TWELVEX_SUM16(32))
TWELVEX_WGMMA(128, TWELVEX_NAMES64, "%64, %65, %66, %67", "%68", "%69", TWELVEX_SUM16(0), TWELVEX_SUM16(16), TWELVEX_SUM16(32),
              TWELVEX_SUM16(48))

#undef TWELVEX_WGMMA
#undef TWELVEX_NAMES16
#undef TWELVEX_NAMES32
#undef TWELVEX_NAMES48
#undef TWELVEX_NAMES64
#undef TWELVEX_SUM4
#undef TWELVEX_SUM16

}  // namespace twelvex::cuda
