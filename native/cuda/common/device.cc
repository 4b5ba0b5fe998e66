// SPDX-License-Identifier: MIT
#include "common/device.h"

#include <map>
#include <mutex>
#include <utility>

#include "common/clusters.h"

namespace twelvex::cuda {

namespace {

DeviceInfo read_device(int device) {
  const auto attribute = [device](cudaDeviceAttr name) {
    int value = 0;
    check(cudaDeviceGetAttribute(&value, name, device), "cudaDeviceGetAttribute");
    return value;
  };
  DeviceInfo info;
  info.arch = attribute(cudaDevAttrComputeCapabilityMajor) * 10 + attribute(cudaDevAttrComputeCapabilityMinor);
  info.multiprocessors = attribute(cudaDevAttrMultiProcessorCount);
  info.shared_bytes = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
  info.clusters = info.arch == kClusterArch && runs_clusters();
  return info;
}

}  // namespace

const DeviceInfo& device_info() {
  thread_local int cached_device = -1;
  thread_local DeviceInfo info;
  int device = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  if (device != cached_device) {
    info = read_device(device);
    cached_device = device;
  }
  return info;
}

void raise_shared_limit(const void* kernel, int bytes) {
  static std::mutex mutex;
  static std::map<std::pair<int, const void*>, int> limits;
  int device = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  const std::lock_guard lock(mutex);  // until it is raised: who finds it high enough launches at once
  int& limit = limits[{device, kernel}];
  if (bytes <= limit) return;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), "cudaFuncSetAttribute");
  limit = bytes;
}

}  // namespace twelvex::cuda
