// SPDX-License-Identifier: MIT
#pragma once

#include <cuda_runtime.h>

#include "common/fetch_ahead.h"

namespace twelvex::cuda {

/// `bytes` (a multiple of 16) from global memory on their way into L2. Nothing waits for it.
__device__ __forceinline__ void prefetch_l2(const void* global, uint32_t bytes) {
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;\n" ::"l"(global), "r"(bytes));
}

/// All threads of all blocks of a launch together: pieces in turn to the blocks, so that every multiprocessor asks for some.
/// Before wait_for_previous_kernel, for nothing in the ranges is written by a kernel.
__device__ __forceinline__ void fetch_ahead(const FetchAhead& ahead) {
  constexpr uint32_t kPiece = 8192;
  const uint32_t blocks = gridDim.x * gridDim.y * gridDim.z;
  const uint32_t block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  for (int i = 0; i < ahead.count; ++i) {
    const FetchAhead::Range range = ahead.ranges[i];
    for (uint32_t at = (threadIdx.x * blocks + block) * kPiece; at < range.bytes; at += blocks * blockDim.x * kPiece) {
      prefetch_l2(range.first + at, min(kPiece, range.bytes - at));
    }
  }
}

}  // namespace twelvex::cuda
