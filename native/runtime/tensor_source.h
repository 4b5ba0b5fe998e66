// SPDX-License-Identifier: MIT
// Where weights come from: a mapped checkpoint or generated numbers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "safetensors.h"

namespace twelvex {

/// A whole tensor in host memory, row-major, little-endian, not necessarily aligned to its element.
struct TensorView {
  Dtype dtype = Dtype::kF32;
  std::vector<int64_t> shape;
  const uint8_t* data = nullptr;
  size_t bytes = 0;
  std::shared_ptr<const void> owner;  // keeps `data` alive when it is not the source's own
};

class TensorSource {
 public:
  virtual ~TensorSource() = default;

  /// The tensor of that name; `data` is valid while both the view and the source live. Safe to call from several threads.
  /// @throws Error kBadCheckpoint when there is none.
  virtual TensorView tensor(const std::string& name) const = 0;

  /// Announces that the tensors whose names start with `prefix` are wanted soon. May start reading them.
  virtual void prefetch(const std::string& prefix) const {}

  /// Announces that the tensors whose names start with `prefix` have been copied.
  virtual void release(const std::string& prefix) const {}
};

}  // namespace twelvex
