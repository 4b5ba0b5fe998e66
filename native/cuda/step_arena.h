// SPDX-License-Identifier: MIT
// The plan of a step on its way to the device: arrays at fixed places of one pinned buffer and of its device twin, so that a
// step costs one copy and kernels (and captured graphs) always find an array at the same address.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace twelvex::cuda {

template <class T>
struct StepArray {
  T* host = nullptr;     // pinned; written by begin_step
  T* device = nullptr;   // valid behind the copy
  size_t capacity = 0;
};

/// Lay out with `add` (largest, variable arrays last), then `allocate` once.
class StepArena {
 public:
  StepArena() = default;
  ~StepArena();
  StepArena(const StepArena&) = delete;
  StepArena& operator=(const StepArena&) = delete;

  /// The array's pointers become valid in `allocate`.
  template <class T>
  void add(StepArray<T>& array, size_t capacity) {
    array.capacity = capacity;
    place(reinterpret_cast<void**>(&array.host), reinterpret_cast<void**>(&array.device), capacity * sizeof(T));
  }
  void allocate();
  /// Copies the first `bytes` of the buffer (to the end of the last array in use).
  void upload(size_t bytes, cudaStream_t queue) const;
  /// Copies the first `count` elements of one array.
  template <class T>
  static void upload(const StepArray<T>& array, size_t count, cudaStream_t queue) {
    if (count > 0) copy(array.device, array.host, count * sizeof(T), cudaMemcpyHostToDevice, queue);
  }
  template <class T>
  static void download(const StepArray<T>& array, size_t count, cudaStream_t queue) {
    if (count > 0) copy(array.host, array.device, count * sizeof(T), cudaMemcpyDeviceToHost, queue);
  }
  template <class T>
  size_t end_of(const StepArray<T>& array, size_t count) const {
    return static_cast<size_t>(reinterpret_cast<const uint8_t*>(array.host + count) - host_);
  }

 private:
  static constexpr int kMaxArrays = 160;
  struct Place {
    void **host, **device;
    size_t offset;
  };
  void place(void** host, void** device, size_t bytes);
  static void copy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t queue);

  Place places_[kMaxArrays];
  int count_ = 0;
  size_t bytes_ = 0;
  uint8_t* host_ = nullptr;
  uint8_t* device_ = nullptr;
};

}  // namespace twelvex::cuda
