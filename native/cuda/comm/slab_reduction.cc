// SPDX-License-Identifier: MIT
#include "comm/slab_reduction.h"

#include "common/check.h"

namespace twelvex::cuda {

SlabReduction::SlabReduction(const Communicator& comm) : comm_(comm) {
  // Of the highest priority: its few blocks take the first multiprocessors that become free beside a product of many blocks.
  int lowest = 0, highest = 0;
  check(cudaDeviceGetStreamPriorityRange(&lowest, &highest), "cudaDeviceGetStreamPriorityRange");
  check(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, highest), "cudaStreamCreateWithPriority");
  check(cudaEventCreateWithFlags(&computed_, cudaEventDisableTiming), "cudaEventCreate");
  check(cudaEventCreateWithFlags(&reduced_, cudaEventDisableTiming), "cudaEventCreate");
}

SlabReduction::~SlabReduction() {
  cudaEventDestroy(computed_);
  cudaEventDestroy(reduced_);
  cudaStreamDestroy(stream_);
}

void SlabReduction::begin(AllReduceParams slab, cudaStream_t queue) {
  check(cudaEventRecord(computed_, queue), "cudaEventRecord");
  check(cudaStreamWaitEvent(stream_, computed_), "cudaStreamWaitEvent");
  slab.stream = stream_;
  comm_.all_reduce(slab);
}

void SlabReduction::join(cudaStream_t queue) {
  check(cudaEventRecord(reduced_, stream_), "cudaEventRecord");
  check(cudaStreamWaitEvent(queue, reduced_), "cudaStreamWaitEvent");
}

}  // namespace twelvex::cuda
