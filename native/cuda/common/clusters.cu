// SPDX-License-Identifier: MIT
#include "common/clusters.h"

#include <cuda_runtime_api.h>

namespace twelvex::cuda {

namespace {

// More than half of a multiprocessor's shared memory: a block each.
constexpr int kBlocks = 16, kThreads = 512, kSharedBytes = 120 * 1024;

/// Only asked about, never launched.
__global__ void __launch_bounds__(kThreads) cluster_probe_kernel() {}

}  // namespace

bool runs_clusters() {
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {kBlocks, 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = kBlocks;
  config.blockDim = kThreads;
  config.dynamicSmemBytes = kSharedBytes;
  config.attrs = &cluster;
  config.numAttrs = 1;
  int clusters = 0;
  const bool known =
      cudaFuncSetAttribute(cluster_probe_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes) == cudaSuccess &&
      cudaFuncSetAttribute(cluster_probe_kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1) == cudaSuccess &&
      cudaOccupancyMaxActiveClusters(&clusters, cluster_probe_kernel, &config) == cudaSuccess;
  if (!known) cudaGetLastError();  // a device that refuses the question has none
  return known && clusters > 0;
}

}  // namespace twelvex::cuda
