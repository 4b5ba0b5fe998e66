// SPDX-License-Identifier: MIT
// Memory of the CPU backend: cache-line aligned, zeroed, owned until the backend goes.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "runtime/error.h"

namespace twelvex::cpu {

class Heap {
 public:
  /// Zeroed memory on a 64-byte border, readable 64 bytes past its end. @throws Error kOutOfMemory.
  void* bytes(size_t size) {
    const size_t whole = (size + 127) / 64 * 64;
    std::unique_ptr<void, Free> block(std::aligned_alloc(64, whole));
    if (!block) throw Error(ErrorCode::kOutOfMemory, "the CPU backend needs " + std::to_string(size) + " more bytes of host memory");
    std::memset(block.get(), 0, whole);
    blocks_.push_back(std::move(block));
    return blocks_.back().get();
  }

  template <class T>
  T* array(size_t count) {
    return static_cast<T*>(bytes(count * sizeof(T)));
  }

  /// Untouched zero pages, so that cache blocks never used cost no resident memory.
  void* pages(size_t size) {
    std::unique_ptr<void, Free> block(std::calloc(1, size + 128));
    if (!block) throw Error(ErrorCode::kOutOfMemory, "the cache needs " + std::to_string(size) + " bytes of host memory");
    blocks_.push_back(std::move(block));
    const auto address = reinterpret_cast<uintptr_t>(blocks_.back().get());
    return reinterpret_cast<void*>((address + 63) / 64 * 64);
  }

 private:
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  std::vector<std::unique_ptr<void, Free>> blocks_;
};

}  // namespace twelvex::cpu
