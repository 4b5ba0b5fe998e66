// SPDX-License-Identifier: MIT
// What `inspect` shows of a checkpoint: mirrors CheckpointInfo of engine/native.ts.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cache_layout.h"
#include "model_config.h"

namespace twelvex {

struct TensorStatistics {
  std::string kind;    // "routed experts", "attention", ...
  std::string dtype;   // "BF16", ..., "FP4" for packed FP4
  int64_t tensors = 0;
  int64_t parameters = 0;  // of the model: scales and token tables have none, a packed FP4 byte has two
  int64_t bytes = 0;
};

struct CacheStatistics {
  RowFormat row_format = RowFormat::kF32;
  bool mtp = false;
  int64_t window_block_bytes = 0, context_block_bytes = 0, slot_bytes = 0;
};

struct CheckpointInfo {
  ModelConfig config;
  bool weights_present = false;  // false: statistics are those of the inventory of config.json
  std::vector<TensorStatistics> tensors;
  std::vector<CacheStatistics> cache;
};

/// Reads config.json and the headers in `directory`, or config.json alone when there are no weights.
/// @throws Error kBadCheckpoint, kBadConfig, kUnsupported.
CheckpointInfo inspect_checkpoint(const std::string& directory);

}  // namespace twelvex
