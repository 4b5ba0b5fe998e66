// SPDX-License-Identifier: MIT
// Whether a build has kernels for a device.
#pragma once

#include <charconv>
#include <string_view>

namespace twelvex::cuda {

/// Whether `archs` ("90a,120a,121a" or some of them) names sm_`arch`. Kernels of one architecture run on no other.
inline bool has_kernels(std::string_view archs, int arch) {
  while (!archs.empty()) {
    const std::string_view name = archs.substr(0, archs.find(','));
    int number = 0;
    std::from_chars(name.data(), name.data() + name.size(), number);
    if (number == arch) return true;
    archs.remove_prefix(name.size() == archs.size() ? name.size() : name.size() + 1);
  }
  return false;
}

}  // namespace twelvex::cuda
