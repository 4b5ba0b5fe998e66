// SPDX-License-Identifier: MIT
// The ground truth of test/oracle/tiny.
#pragma once

#include <cstring>
#include <string>
#include <vector>

#include "runtime/error.h"
#include "runtime/mapped_file.h"
#include "runtime/safetensors.h"

namespace twelvex::check {

inline const std::string kTiny = std::string(TWELVEX_ROOT) + "/test/oracle/tiny";
constexpr double kTolerance = 2e-3;  // of a logit

template <class T>
std::vector<T> expected(const std::string& name) {
  const MappedFile file(kTiny + "/expected.safetensors");
  for (const SafetensorsEntry& entry : parse_safetensors_header(file.bytes(), file.size(), file.path())) {
    if (entry.name != name) continue;
    std::vector<T> values(entry.bytes / sizeof(T));
    std::memcpy(values.data(), file.data() + entry.offset, entry.bytes);
    return values;
  }
  throw Error(ErrorCode::kInternal, "no expected tensor " + name);
}

}  // namespace twelvex::check
