// SPDX-License-Identifier: MIT
#include "step_arena.h"

#include "common/check.h"

namespace twelvex::cuda {

StepArena::~StepArena() {
  cudaFreeHost(host_);
  cudaFree(device_);
}

void StepArena::place(void** host, void** device, size_t bytes) {
  TWELVEX_NEED_LE(count_ + 1, kMaxArrays);
  places_[count_++] = {host, device, bytes_};
  bytes_ += (bytes + 15) / 16 * 16;
}

void StepArena::allocate() {
  check(cudaHostAlloc(reinterpret_cast<void**>(&host_), bytes_, cudaHostAllocDefault), "pinned step buffer");
  device_ = static_cast<uint8_t*>(device_alloc(bytes_, "the step buffer", true));
  for (int i = 0; i < count_; ++i) {
    *places_[i].host = host_ + places_[i].offset;
    *places_[i].device = device_ + places_[i].offset;
  }
}

void StepArena::upload(size_t bytes, cudaStream_t queue) const {
  check(cudaMemcpyAsync(device_, host_, bytes, cudaMemcpyHostToDevice, queue), "step upload");
}

void StepArena::copy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t queue) {
  check(cudaMemcpyAsync(to, from, bytes, kind, queue), "step copy");
}

}  // namespace twelvex::cuda
