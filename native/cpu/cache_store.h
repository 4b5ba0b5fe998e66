// SPDX-License-Identifier: MIT
// The caches in host memory, laid out as cache_layout.h says, and the formats of their rows.
#pragma once

#include "heap.h"
#include "kernels.h"
#include "runtime/cache_layout.h"
#include "runtime/ops.h"

namespace twelvex::cpu {

/// The rows part of a block: `count` rows of 512 or (index) 128 dims.
struct RowBlock {
  uint8_t* data = nullptr;
  int count = 0;
  bool index = false;
};

/// One row of a block.
struct RowPlace {
  RowFormat format = RowFormat::kF32;
  RowBlock block;
  int row = 0;
};

/// Stores values [512 | 128], quantised as the format says (spec/checkpoint.md, "Quantisers").
void store_row(const RowPlace& place, const float* values);

/// The row as floats: in place for kF32, else dequantised into `scratch` [512 | 128].
const float* row_values(const Kernels& kernels, const RowPlace& place, float* scratch);

class CacheStore {
 public:
  CacheStore(const CacheLayout& layout, const CachePlan& plan);

  RowFormat format() const { return layout_.format; }

  RowBlock window(int layer, int block) const;
  /// [4][2][1024] main, [4][2][256] indexer: un-pooled kv and gate (+ ape) of the block's last four positions.
  float* window_tail(int layer, int block, bool index) const;
  /// [4][D] streams of the block's last position.
  float* streams_tail(int block) const;
  /// Compressed rows of a context block: 32 (csa) or 1 (hca); the indexer's 32.
  RowBlock context(int layer, int block, bool index) const;
  /// [ring][2][width] un-pooled kv and gate (+ ape) by position.
  float* ring(int layer, int slot, bool index) const;

 private:
  CacheLayout layout_;
  Heap heap_;
  std::vector<uint8_t*> window_, context_, slots_;  // per layer
  uint8_t* streams_ = nullptr;
};

}  // namespace twelvex::cpu
