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

/// Percent of a multiprocessor's shared memory that a launch prefers, at least for `kilobytes` of the 228; -1: the driver
/// chooses, for as many of the kernel's blocks as fit. On sm_90 that is too much for a launch of few large blocks: what is left
/// of 256 KB is L1, without which loads wait, and a multiprocessor must be empty before it is divided otherwise, so that
/// neighbouring launches cannot share it (bench/results/2026-11-23-carveout.md).
constexpr int shared_carveout(int kilobytes, int arch) { return arch == kClusterArch ? kilobytes * 100 / 228 : -1; }

/// Raises a kernel's limit of dynamic shared memory on the current device, which is 48 KiB at first. Never lowers it: threads
/// whose ranks share a device launch the same kernel with other sizes at the same time.
void raise_shared_limit(const void* kernel, int bytes);

template <class Kernel>
void allow_shared_bytes(Kernel* kernel, int bytes) {
  if (bytes > 48 * 1024) raise_shared_limit(reinterpret_cast<const void*>(kernel), bytes);
}

}  // namespace twelvex::cuda
