// SPDX-License-Identifier: MIT
// Weights from a seed, for checkpoints nobody has on disk.
#pragma once

#include <memory>

#include "model_config.h"
#include "tensor_source.h"

namespace twelvex {

/// A source of every tensor of the configuration. The bytes of a tensor depend on the configuration's sizes, its name and
/// `seed`; matrices have variance 1 / columns, so that activations neither explode nor vanish, and expert tables are valid.
/// A tensor is a window of a shared random tile: gigabytes of experts cost no generation and next to no memory. Only
/// tensors larger than a tile (the embedding and head of a large model) are copied out.
/// @throws Error kUnsupported for config.fp8_experts.
std::unique_ptr<TensorSource> make_dummy_source(const ModelConfig& config, uint64_t seed);

}  // namespace twelvex
