// SPDX-License-Identifier: MIT
// Programmatic dependent launch: a kernel may start while the one before it in the stream still runs, does what depends on no
// other kernel (fetch weights), and waits before it touches anything else. Works in graphs.
//
// Every thread block of a kernel launched by launch_dependent calls wait_for_previous_kernel, and lets the next kernel start only
// then. So what comes later in the stream is behind all that came before, and what the kernel before the previous one wrote may
// be read without waiting.
//
// A kernel that takes single words as the one before writes them (indexer/topk.cu) may let the next one start sooner, but waits
// before it ends. What is behind it may then read early only what the kernel before both had waited for.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "common/check.h"

namespace twelvex::cuda {

/// Returns when the kernel before has ended and its writes are visible.
__device__ __forceinline__ void wait_for_previous_kernel() { asm volatile("griddepcontrol.wait;\n" ::: "memory"); }

/// The next kernel may start as soon as there is room for it.
__device__ __forceinline__ void let_next_kernel_start() { asm volatile("griddepcontrol.launch_dependents;\n"); }

/// By one thread: returns when the kernel before, which need not have ended, has counted that far. What it wrote before is then
/// visible to this thread, and behind a barrier to its block.
__device__ __forceinline__ void wait_for_count(const uint32_t* counter, uint32_t count) {
  uint32_t now = 0;
  do {
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];\n" : "=r"(now) : "l"(counter) : "memory");
  } while (now < count);
}

/// Who sees the count sees what this thread has seen written.
__device__ __forceinline__ void count_up(uint32_t* counter) {
  asm volatile("red.release.gpu.global.add.u32 [%0], 1;\n" ::"l"(counter) : "memory");
}

struct LaunchShape {
  dim3 grid, block;
  size_t shared_bytes = 0;
  cudaStream_t stream = nullptr;
  bool early = true;  // false: starts when the kernel before has ended, as ever
  unsigned cluster = 1;  // blocks of a cluster, along x (cluster.cuh)
  int carveout = -1;     // shared_carveout()
};

template <class... Params>
void launch_dependent(const LaunchShape& shape, void (*kernel)(Params...), const Params&... params) {
  cudaLaunchAttribute attributes[3] = {};
  unsigned count = 0;
  if (shape.early) {
    attributes[count].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[count++].val.programmaticStreamSerializationAllowed = 1;
  }
  if (shape.cluster > 1) {
    // More than eight blocks are not portable (common/clusters.h).
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1), "cudaFuncSetAttribute");
    attributes[count].id = cudaLaunchAttributeClusterDimension;
    attributes[count++].val.clusterDim = {shape.cluster, 1, 1};
  }
  if (shape.carveout >= 0) {
    attributes[count].id = cudaLaunchAttributePreferredSharedMemoryCarveout;
    attributes[count++].val.sharedMemCarveout = static_cast<unsigned>(shape.carveout);
  }
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = shape.stream;
  config.attrs = attributes;
  config.numAttrs = count;
  check(cudaLaunchKernelEx(&config, kernel, params...), "cudaLaunchKernelEx");
}

}  // namespace twelvex::cuda
