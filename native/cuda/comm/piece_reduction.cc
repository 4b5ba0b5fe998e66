// SPDX-License-Identifier: MIT
#include "comm/piece_reduction.h"

#include "common/check.h"

namespace twelvex::cuda {

namespace {

cudaEvent_t make_event() {
  cudaEvent_t event = nullptr;
  check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreate");
  return event;
}

}  // namespace

PieceReduction::PieceReduction(const Communicator& comm) : comm_(comm) {
  // Of the highest priority: its few blocks take the first multiprocessors that become free beside a kernel of many blocks.
  int lowest = 0, highest = 0;
  check(cudaDeviceGetStreamPriorityRange(&lowest, &highest), "cudaDeviceGetStreamPriorityRange");
  check(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, highest), "cudaStreamCreateWithPriority");
  computed_ = make_event();
}

PieceReduction::~PieceReduction() {
  for (cudaEvent_t event : reduced_) cudaEventDestroy(event);
  cudaEventDestroy(computed_);
  cudaStreamDestroy(stream_);
}

void PieceReduction::begin(size_t index, const PeerPointers& array, int64_t first, int64_t count, cudaStream_t queue) {
  while (reduced_.size() <= index) reduced_.push_back(make_event());
  check(cudaEventRecord(computed_, queue), "cudaEventRecord");
  check(cudaStreamWaitEvent(stream_, computed_), "cudaStreamWaitEvent");
  comm_.all_reduce({.array = array.behind(first * 2), .count = count, .path = comm_.path_of(count * 2),
                    .max_blocks = kPieceBlocks, .stream = stream_});
  check(cudaEventRecord(reduced_[index], stream_), "cudaEventRecord");
}

void PieceReduction::wait(size_t index, cudaStream_t queue) const {
  check(cudaStreamWaitEvent(queue, reduced_.at(index)), "cudaStreamWaitEvent");
}

}  // namespace twelvex::cuda
