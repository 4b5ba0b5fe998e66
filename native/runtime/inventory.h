// SPDX-License-Identifier: MIT
// Every tensor that a DeepSeek-V4 checkpoint of a given configuration holds, under the names it was released with.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "model_config.h"
#include "safetensors.h"

namespace twelvex {

enum class TensorKind : uint8_t {
  kEmbedding, kHead, kNorm, kHyper, kAttention, kCompressor, kIndexer, kRouter, kRoutedExpert, kSharedExpert, kMtp, kOther,
};

/// e.g. "routed experts".
const char* tensor_kind_name(TensorKind kind);

struct TensorSpec {
  std::string name;
  Dtype dtype = Dtype::kF32;
  std::vector<int64_t> shape;
  TensorKind kind = TensorKind::kOther;

  int64_t elements() const { return element_count(shape); }  // as stored: a packed FP4 byte is one element
  uint64_t bytes() const;
};

/// All tensors, in the order global, layers, MTP. FP8-expert (Base) configurations are not covered.
/// @throws Error kUnsupported for config.fp8_experts.
std::vector<TensorSpec> make_inventory(const ModelConfig& config);

/// Kind of a tensor by its name, also of names outside the inventory (kOther when unknown).
TensorKind tensor_kind(std::string_view name);

/// Model parameters held by a stored tensor: two for a packed FP4 byte, none for scales and token-to-expert tables.
int64_t tensor_parameters(Dtype dtype, std::span<const int64_t> shape);

}  // namespace twelvex
