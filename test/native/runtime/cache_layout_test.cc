// SPDX-License-Identifier: MIT
// Expected figures are written out from the byte layouts of spec/checkpoint.md (c) and cache_layout.h.
#include "runtime/cache_layout.h"

#include "check.h"

using namespace twelvex;

namespace {

ModelConfig three_kinds() {
  ModelConfig config;
  config.hidden_size = 4096;
  config.num_layers = 3;
  config.layers = {LayerKind::kSwa, LayerKind::kCsa, LayerKind::kHca};
  return config;
}

}  // namespace

TEST("an FP8 row is 576 data bytes and 8 scale bytes, an indexer row 128 and 4") {
  CHECK_EQ(row_block_bytes(RowFormat::kFp8, 64, false), 37376u);
  CHECK_EQ(row_block_bytes(RowFormat::kFp8, 64, true), 8448u);
  CHECK_EQ(row_block_bytes(RowFormat::kF32, 1, false), 2048u);
  CHECK_EQ(row_block_bytes(RowFormat::kBF16, 2, true), 512u);
  CHECK_EQ(row_block_bytes(RowFormat::kF32, 0, false), 0u);
}

TEST("each layer kind has its window tail, context rows and rings") {
  const CacheLayout layout = CacheLayout::make(three_kinds(), RowFormat::kF32, false, 4);
  REQUIRE(layout.layers.size() == 3);
  const LayerCacheBytes &swa = layout.layers[0], &csa = layout.layers[1], &hca = layout.layers[2];
  CHECK_EQ(swa.window_rows, 128u * 2048);
  CHECK_EQ(swa.window_block, 128u * 2048);
  CHECK_EQ(swa.context_block + swa.slot, 0u);
  CHECK_EQ(csa.window_block, 128u * 2048 + 4 * 4 * (2 * 1024 + 2 * 256));
  CHECK_EQ(csa.context_rows, 32u * 2048);
  CHECK_EQ(csa.context_block, 32u * 2048 + 32 * 512);
  CHECK_EQ(csa.slot_index_ring, 16u * 2 * 1024 * 4);
  CHECK_EQ(csa.slot, 16u * (2 * 1024 + 2 * 256) * 4);
  CHECK_EQ(hca.window_block, 128u * 2048);
  CHECK_EQ(hca.context_block, 2048u);
  CHECK_EQ(hca.slot, 136u * 2 * 512 * 4);
  CHECK_EQ(layout.window_block_bytes, swa.window_block + csa.window_block + hca.window_block);
  CHECK_EQ(layout.context_block_bytes, csa.context_block + hca.context_block);
  CHECK_EQ(layout.slot_bytes, csa.slot + hca.slot);
}

TEST("parts of a block are aligned to 256 bytes in every format") {
  for (RowFormat format : {RowFormat::kF32, RowFormat::kBF16, RowFormat::kFp8}) {
    for (const LayerCacheBytes& layer : CacheLayout::make(three_kinds(), format, true, 2).layers) {
      CHECK_EQ(layer.window_rows % 256, 0u);
      CHECK_EQ(layer.window_block % 256, 0u);
      CHECK_EQ(layer.context_block % 256, 0u);
      CHECK_EQ(layer.slot % 256, 0u);
      CHECK_EQ(layer.slot_index_ring % 256, 0u);
      CHECK(layer.kind != LayerKind::kCsa || layer.context_rows % 256 == 0);
    }
  }
}

TEST("MTP adds one window-only layer and the streams of a block's last position") {
  const ModelConfig config = three_kinds();
  const CacheLayout plain = CacheLayout::make(config, RowFormat::kFp8, false, 2);
  const CacheLayout mtp = CacheLayout::make(config, RowFormat::kFp8, true, 2);
  REQUIRE(mtp.layers.size() == 4);
  CHECK(mtp.layers[3].kind == LayerKind::kSwa);
  CHECK_EQ(plain.streams_tail, 0u);
  CHECK_EQ(mtp.streams_tail, 4u * 4096 * 2);
  CHECK_EQ(mtp.window_block_bytes, plain.window_block_bytes + mtp.layers[3].window_block + mtp.streams_tail);
  CHECK_EQ(mtp.context_block_bytes, plain.context_block_bytes);
  CHECK_EQ(mtp.slot_bytes, plain.slot_bytes);
}
