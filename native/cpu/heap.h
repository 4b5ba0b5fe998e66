// SPDX-License-Identifier: MIT
// Memory of the CPU backend: cache-line aligned, zeroed, owned until the backend goes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "runtime/error.h"

namespace twelvex::cpu {

class Heap {
 public:
  /// Zeroed memory on a 64-byte border, readable 64 bytes past its end. Pages never touched cost no resident memory.
  /// @throws Error kOutOfMemory.
  void* bytes(size_t size) {
    std::unique_ptr<void, Free> block(std::calloc(1, size + 128));
    if (!block)
      throw Error(ErrorCode::kOutOfMemory, "the CPU backend needs " + std::to_string(size) + " more bytes of host memory");
    blocks_.push_back(std::move(block));
    const auto address = reinterpret_cast<uintptr_t>(blocks_.back().get());
    return reinterpret_cast<void*>((address + 63) / 64 * 64);
  }

  template <class T>
  T* array(size_t count) {
    return static_cast<T*>(bytes(count * sizeof(T)));
  }

 private:
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  std::vector<std::unique_ptr<void, Free>> blocks_;
};

}  // namespace twelvex::cpu
