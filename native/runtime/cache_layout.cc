// SPDX-License-Identifier: MIT
#include "cache_layout.h"

namespace twelvex {

namespace {

constexpr size_t kAlign = 256;  // every part of a block that a layer owns starts on this border
constexpr size_t kCsaWidth = 2 * kHeadDim;        // channels of a csa compressor: previous and current window
constexpr size_t kCsaIndexWidth = 2 * kIndexDim;  // the same of the indexer's compressor
constexpr size_t kKvAndGate = 2;                  // un-pooled kv, then gate + ape

size_t align_up(size_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

/// Bytes of `positions` un-pooled compressor positions with `width` channels.
size_t state_bytes(size_t positions, size_t width) { return positions * kKvAndGate * width * sizeof(float); }

LayerCacheBytes layer_bytes(LayerKind kind, RowFormat format) {
  LayerCacheBytes bytes;
  bytes.kind = kind;
  bytes.window_rows = row_block_bytes(format, kWindow, false);
  size_t tail = 0;
  if (kind == LayerKind::kCsa) {
    const int rows = kBlockTokens / kCsaRatio;
    tail = state_bytes(kCsaRatio, kCsaWidth) + state_bytes(kCsaRatio, kCsaIndexWidth);
    bytes.context_rows = align_up(row_block_bytes(format, rows, false));
    bytes.context_block = align_up(bytes.context_rows + row_block_bytes(format, rows, true));
    bytes.slot_index_ring = state_bytes(kCsaRing, kCsaWidth);
    bytes.slot = align_up(bytes.slot_index_ring + state_bytes(kCsaRing, kCsaIndexWidth));
  } else if (kind == LayerKind::kHca) {
    bytes.context_rows = row_block_bytes(format, kBlockTokens / kHcaRatio, false);
    bytes.context_block = align_up(bytes.context_rows);
    bytes.slot = align_up(state_bytes(kHcaRing, kHeadDim));
  }
  bytes.window_block = align_up(bytes.window_rows + tail);
  return bytes;
}

}  // namespace

size_t row_block_bytes(RowFormat format, int rows, bool index) {
  const size_t dims = index ? kIndexDim : kHeadDim;
  const auto count = static_cast<size_t>(rows);
  switch (format) {
    case RowFormat::kF32: return count * dims * 4;
    case RowFormat::kBF16: return count * dims * 2;
    case RowFormat::kFp8: return index ? count * (kIndexDim + 4) : count * (kNopeDim + 2 * kRopeDim + 8);
  }
  return 0;
}

CacheLayout CacheLayout::make(const ModelConfig& config, RowFormat format, bool with_mtp, size_t stream_element_bytes) {
  CacheLayout layout;
  layout.format = format;
  for (LayerKind kind : config.layers) layout.layers.push_back(layer_bytes(kind, format));
  if (with_mtp) layout.layers.push_back(layer_bytes(LayerKind::kSwa, format));
  layout.streams_tail =
      with_mtp ? align_up(static_cast<size_t>(kStreams) * static_cast<size_t>(config.hidden_size) * stream_element_bytes) : 0;
  layout.window_block_bytes = layout.streams_tail;
  for (const LayerCacheBytes& layer : layout.layers) {
    layout.window_block_bytes += layer.window_block;
    layout.context_block_bytes += layer.context_block;
    layout.slot_bytes += layer.slot;
  }
  return layout;
}

}  // namespace twelvex
