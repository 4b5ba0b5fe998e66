// SPDX-License-Identifier: MIT
#include "cache_store.h"

#include <cstring>

#include "number_formats.h"

namespace twelvex::cpu {

namespace {

constexpr int kFp8Group = 64;
constexpr int kFp8Groups = kNopeDim / kFp8Group;
constexpr size_t kFp8RowBytes = kNopeDim + 2 * kRopeDim;
constexpr size_t kFp8ScaleBytes = 8;

void store_bf16(uint8_t* out, const float* values, int count) {
  for (int i = 0; i < count; ++i) {
    const uint16_t bits = float_to_bf16(values[i]);
    std::memcpy(out + 2 * i, &bits, 2);
  }
}

void store_fp8(const RowBlock& block, int row, const float* values) {
  uint8_t* data = block.data + static_cast<size_t>(row) * kFp8RowBytes;
  uint8_t* scales = block.data + static_cast<size_t>(block.count) * kFp8RowBytes + static_cast<size_t>(row) * kFp8ScaleBytes;
  for (int g = 0; g < kFp8Groups; ++g) {
    scales[g] = quantise_e4m3(values + g * kFp8Group, kFp8Group, data + g * kFp8Group);
  }
  scales[kFp8Groups] = 0;
  store_bf16(data + kNopeDim, values + kNopeDim, kRopeDim);
}

void store_fp8_index(const RowBlock& block, int row, const float* values) {
  const uint8_t byte = quantise_e4m3(values, kIndexDim, block.data + static_cast<size_t>(row) * kIndexDim);
  const float scale = e8m0_to_float(byte);
  std::memcpy(block.data + static_cast<size_t>(block.count) * kIndexDim + static_cast<size_t>(row) * 4, &scale, 4);
}

const float* read_fp8(const Kernels& kernels, const RowBlock& block, int row, float* out) {
  const uint8_t* data = block.data + static_cast<size_t>(row) * kFp8RowBytes;
  const uint8_t* scales =
      block.data + static_cast<size_t>(block.count) * kFp8RowBytes + static_cast<size_t>(row) * kFp8ScaleBytes;
  for (int g = 0; g < kFp8Groups; ++g) {
    kernels.widen_e4m3(data + g * kFp8Group, e8m0_to_float(scales[g]), kFp8Group, out + g * kFp8Group);
  }
  kernels.widen_bf16(reinterpret_cast<const uint16_t*>(data + kNopeDim), kRopeDim, out + kNopeDim);
  return out;
}

const float* read_fp8_index(const Kernels& kernels, const RowBlock& block, int row, float* out) {
  float scale;
  std::memcpy(&scale, block.data + static_cast<size_t>(block.count) * kIndexDim + static_cast<size_t>(row) * 4, 4);
  kernels.widen_e4m3(block.data + static_cast<size_t>(row) * kIndexDim, scale, kIndexDim, out);
  return out;
}

}  // namespace

void store_row(const RowPlace& place, const float* values) {
  const auto& [format, block, row] = place;
  const size_t dims = block.index ? kIndexDim : kHeadDim;
  const auto at = static_cast<size_t>(row) * dims;
  switch (format) {
    case RowFormat::kF32:
      std::memcpy(block.data + at * 4, values, dims * 4);
      return;
    case RowFormat::kBF16:
      return store_bf16(block.data + at * 2, values, static_cast<int>(dims));
    case RowFormat::kFp8:
      return block.index ? store_fp8_index(block, row, values) : store_fp8(block, row, values);
  }
}

const float* row_values(const Kernels& kernels, const RowPlace& place, float* scratch) {
  const auto& [format, block, row] = place;
  const size_t dims = block.index ? kIndexDim : kHeadDim;
  const auto at = static_cast<size_t>(row) * dims;
  switch (format) {
    case RowFormat::kF32:
      return reinterpret_cast<const float*>(block.data) + at;
    case RowFormat::kBF16:
      kernels.widen_bf16(reinterpret_cast<const uint16_t*>(block.data) + at, static_cast<int>(dims), scratch);
      return scratch;
    case RowFormat::kFp8:
      return block.index ? read_fp8_index(kernels, block, row, scratch) : read_fp8(kernels, block, row, scratch);
  }
  return scratch;
}

CacheStore::CacheStore(const CacheLayout& layout, const CachePlan& plan) : layout_(layout) {
  for (const LayerCacheBytes& layer : layout_.layers) {
    window_.push_back(static_cast<uint8_t*>(heap_.bytes(layer.window_block * static_cast<size_t>(plan.window_blocks))));
    context_.push_back(static_cast<uint8_t*>(heap_.bytes(layer.context_block * static_cast<size_t>(plan.context_blocks))));
    slots_.push_back(static_cast<uint8_t*>(heap_.bytes(layer.slot * static_cast<size_t>(plan.slots))));
  }
  streams_ = static_cast<uint8_t*>(heap_.bytes(layout_.streams_tail * static_cast<size_t>(plan.window_blocks)));
}

RowBlock CacheStore::window(int layer, int block) const {
  const auto l = static_cast<size_t>(layer);
  return {window_[l] + static_cast<size_t>(block) * layout_.layers[l].window_block, kWindow, false};
}

float* CacheStore::window_tail(int layer, int block, bool index) const {
  constexpr size_t kMainTail = size_t{kCsaRatio} * 2 * 2 * kHeadDim;
  const LayerCacheBytes& bytes = layout_.layers[static_cast<size_t>(layer)];
  return reinterpret_cast<float*>(window(layer, block).data + bytes.window_rows) + (index ? kMainTail : 0);
}

float* CacheStore::streams_tail(int block) const {
  return reinterpret_cast<float*>(streams_ + static_cast<size_t>(block) * layout_.streams_tail);
}

RowBlock CacheStore::context(int layer, int block, bool index) const {
  const auto l = static_cast<size_t>(layer);
  const LayerCacheBytes& bytes = layout_.layers[l];
  uint8_t* data = context_[l] + static_cast<size_t>(block) * bytes.context_block + (index ? bytes.context_rows : 0);
  return {data, kBlockTokens / (bytes.kind == LayerKind::kCsa ? kCsaRatio : kHcaRatio), index};
}

float* CacheStore::ring(int layer, int slot, bool index) const {
  const auto l = static_cast<size_t>(layer);
  const LayerCacheBytes& bytes = layout_.layers[l];
  return reinterpret_cast<float*>(slots_[l] + static_cast<size_t>(slot) * bytes.slot + (index ? bytes.slot_index_ring : 0));
}

}  // namespace twelvex::cpu
