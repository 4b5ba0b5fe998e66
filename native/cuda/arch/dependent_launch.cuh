// SPDX-License-Identifier: MIT
// Programmatic dependent launch: a kernel may start while the one before it in the stream still runs, does what depends on no
// other kernel (fetch weights), and waits before it touches anything else. Works in graphs.
//
// Every thread block of a kernel launched by launch_dependent calls wait_for_previous_kernel: work behind it in the stream
// relies on that to be behind all that came before.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "common/check.h"

namespace twelvex::cuda {

/// Returns when the kernel before has ended and its writes are visible.
__device__ __forceinline__ void wait_for_previous_kernel() { asm volatile("griddepcontrol.wait;\n" ::: "memory"); }

/// The next kernel may start as soon as there is room for it.
__device__ __forceinline__ void let_next_kernel_start() { asm volatile("griddepcontrol.launch_dependents;\n"); }

/// Asks for `bytes` (a multiple of 16) from the 16-byte aligned address on to be brought into L2.
__device__ __forceinline__ void prefetch_to_l2(const void* address, uint32_t bytes) {
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;\n" ::"l"(address), "r"(bytes) : "memory");
}

struct LaunchShape {
  dim3 grid, block;
  size_t shared_bytes = 0;
  cudaStream_t stream = nullptr;
};

template <class... Params>
void launch_dependent(const LaunchShape& shape, void (*kernel)(Params...), const Params&... params) {
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = shape.stream;
  config.attrs = &early;
  config.numAttrs = 1;
  check(cudaLaunchKernelEx(&config, kernel, params...), "cudaLaunchKernelEx");
}

}  // namespace twelvex::cuda
