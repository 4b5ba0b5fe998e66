// SPDX-License-Identifier: MIT
// Facts about the calling thread's current device, read once.
#pragma once

#include <cuda_runtime_api.h>

#include "common/check.h"

namespace twelvex::cuda {

inline constexpr int kMaxSharedBytes = 101376;  // of one block on sm_12x: 99 KiB

inline constexpr int kClusterArch = 90;  // for which clusters of 16 blocks are written

struct DeviceInfo {
  int arch = 0;             // 90, 120, 121
  int multiprocessors = 0;
  int shared_bytes = 0;     // most dynamic shared memory of a block
  bool clusters = false;    // kClusterArch, and this device has room for them (clusters.h)
};

/// Of the current device; cached per thread.
const DeviceInfo& device_info();

/// Raises a kernel's dynamic shared memory limit where it needs more than 48 KiB.
template <class Kernel>
void allow_shared_bytes(Kernel* kernel, int bytes) {
  if (bytes > 48 * 1024) {
    check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
          "cudaFuncSetAttribute");
  }
}

}  // namespace twelvex::cuda
