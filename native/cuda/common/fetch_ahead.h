// SPDX-License-Identifier: MIT
// What a later launch will read of device memory, for a launch that waits more than it reads to bring into L2 meanwhile
// (arch/fetch_ahead.cuh). Nothing but time depends on it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace twelvex::cuda {

struct FetchAhead {
  static constexpr int kRanges = 8;
  struct Range {
    const uint8_t* first = nullptr;  // 16-byte aligned
    uint32_t bytes = 0;              // a multiple of 16
  };
  Range ranges[kRanges];
  int count = 0;

  /// Behind the ranges there; what does not fit or is empty is left out.
  void add(const void* first, size_t bytes) {
    if (count == kRanges || bytes == 0 || bytes % 16 != 0 || bytes > UINT32_MAX) return;
    ranges[count++] = {static_cast<const uint8_t*>(first), static_cast<uint32_t>(bytes)};
  }
};

}  // namespace twelvex::cuda
