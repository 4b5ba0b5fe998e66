// SPDX-License-Identifier: MIT
// Bytes of every cache object; shared by the backends, `inspect` and the scheduler's memory plan.
//
// Window block (128 positions), per layer and for the MTP block:
//   rows   [128] of RowFormat (position p in row p mod 128; the MTP block stores position i in row (i + 1) mod 128)
//   tail   csa layers: un-pooled kv and gate (+ ape) of the last 4 positions, f32 [4, 2 * 1024] main, [4, 2 * 256] indexer
// and once per block: streams of position 127 (MTP input behind a prefix hit), f32 or bf16 [4, D].
// Context block (128 tokens): csa 32 rows + 32 indexer rows, hca 1 row, per layer.
// Slot (per sequence): compressor rings of un-pooled kv and gate (+ ape), f32, row = position mod ring:
//   csa ring 16 >= 8 + kMaxMtp, [16, 2 * 1024] main, [16, 2 * 256] indexer; hca ring 136 >= 128 + kMaxMtp, [136, 2 * 512].
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "model_config.h"

namespace twelvex {

enum class RowFormat : uint8_t {
  kF32,   // 512 floats; indexer 128 floats
  kBF16,  // 512 bf16; indexer 128 bf16
  kFp8,   // 448 e4m3 + 64 bf16 = 576 bytes, then behind all rows of the block 8 scale bytes a row (7 e8m0 + 0);
          // indexer 128 e4m3, then behind all rows one f32 scale a row
};

inline constexpr int kCsaRing = 16;
inline constexpr int kHcaRing = 136;

struct LayerCacheBytes {
  LayerKind kind = LayerKind::kSwa;
  size_t window_rows = 0;    // bytes of the rows part of a window block (offset of the tail)
  size_t window_block = 0;   // whole, 256-byte aligned
  size_t context_rows = 0;   // compressed rows part of a context block (offset of the indexer rows)
  size_t context_block = 0;  // whole, 256-byte aligned; 0 for swa
  size_t slot = 0;           // main ring, then the indexer ring
  size_t slot_index_ring = 0;  // offset of the indexer ring
};

struct CacheLayout {
  RowFormat format = RowFormat::kF32;
  std::vector<LayerCacheBytes> layers;  // [L (+ 1 with MTP)]
  size_t streams_tail = 0;              // per window block, once
  size_t window_block_bytes = 0;        // all layers and the streams tail
  size_t context_block_bytes = 0;
  size_t slot_bytes = 0;

  static CacheLayout make(const ModelConfig& config, RowFormat format, bool with_mtp, size_t stream_element_bytes);
};

/// Bytes of a block part with `rows` rows of 512 or (index) 128 dims.
size_t row_block_bytes(RowFormat format, int rows, bool index);

}  // namespace twelvex
