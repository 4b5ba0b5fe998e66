// SPDX-License-Identifier: MIT
// A short name for exactly which weights a build serves.
#pragma once

#include <cstdint>
#include <string>

#include "checkpoint.h"

namespace twelvex {

/// 16 hex digits over config.json, the names, types, shapes and places of all tensors, the layer cut and the build's version.
/// @throws Error kBadCheckpoint when config.json cannot be read.
std::string fingerprint_checkpoint(const std::string& directory, const CheckpointFiles& files, int layers);

/// The same for generated weights: config.json, the seed, the layer cut and the build's version.
std::string fingerprint_dummy(const std::string& directory, uint64_t seed, int layers);

}  // namespace twelvex
