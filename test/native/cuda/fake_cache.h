// SPDX-License-Identifier: MIT
// A paged cache of one layer with random rows and a batch over it, for the attention, gather and insertion tests.
#pragma once

#include "layout/batch_view.h"
#include "support.h"

namespace twelvex::test {

using cuda::BatchView;
using cuda::KvSource;
using cuda::RowPages;

struct RowSpec {
  int position, count;  // cache position of the first token, tokens
};

/// One part of the cache on the device, and its rows as the floats that they decode to.
class FakePart {
 public:
  FakePart(RowFormat format, int blocks, int rows, size_t extra = 256)
      : format_(format), blocks_(blocks), rows_(rows), stride_((row_block_bytes(format, rows, false) + extra + 255) / 256 * 256) {
    std::vector<uint8_t> bytes(stride_ * blocks, 0xff);
    decoded_.resize(static_cast<size_t>(blocks) * rows * kHeadDim);
    for (int b = 0; b < blocks; ++b)
      for (int r = 0; r < rows; ++r)
        fill_row(bytes.data() + b * stride_, r, decoded_.data() + (static_cast<size_t>(b) * rows + r) * kHeadDim);
    device_ = DeviceArray<uint8_t>(bytes);
  }
  RowPages pages() const { return {device_.get(), stride_, rows_, format_}; }
  const float* row(int block, int row) const { return decoded_.data() + (static_cast<size_t>(block) * rows_ + row) * kHeadDim; }
  int blocks() const { return blocks_; }
  const DeviceArray<uint8_t>& device() const { return device_; }

 private:
  void fill_row(uint8_t* block, int r, float* out) {
    if (format_ == RowFormat::kBF16) {
      auto* row = reinterpret_cast<__nv_bfloat16*>(block + r * cuda::kBf16RowBytes);
      for (int d = 0; d < kHeadDim; ++d) out[d] = __bfloat162float(row[d] = __float2bfloat16(gauss()));
      return;
    }
    uint8_t* data = block + r * cuda::kFp8RowBytes;
    uint8_t* scales = block + rows_ * cuda::kFp8RowBytes + r * cuda::kFp8ScaleBytes;
    scales[7] = 0;
    for (int g = 0; g < 7; ++g) {
      scales[g] = static_cast<uint8_t>(117 + below(4));
      for (int d = 0; d < 64; ++d) {
        const __nv_fp8_e4m3 q(std::clamp(gauss(90.0f), -448.0f, 448.0f));
        data[g * 64 + d] = q.__x;
        out[g * 64 + d] = static_cast<float>(q) * std::ldexp(1.0f, scales[g] - 127);
      }
    }
    auto* rope = reinterpret_cast<__nv_bfloat16*>(data + kNopeDim);
    for (int d = 0; d < kRopeDim; ++d) out[kNopeDim + d] = __bfloat162float(rope[d] = __float2bfloat16(gauss()));
  }

  RowFormat format_;
  int blocks_, rows_;
  size_t stride_;
  std::vector<float> decoded_;
  DeviceArray<uint8_t> device_;
};

/// Rows with shuffled block tables. Cache position = rotary position (trunk).
class FakeBatch {
 public:
  FakeBatch(const std::vector<RowSpec>& rows, int window_pool, int context_pool) : specs(rows) {
    std::vector<int> free_window(window_pool), free_context(context_pool);
    for (int i = 0; i < window_pool; ++i) free_window[i] = i;
    for (int i = 0; i < context_pool; ++i) free_context[i] = i;
    std::shuffle(free_window.begin(), free_window.end(), rng());
    std::shuffle(free_context.begin(), free_context.end(), rng());
    size_t w = 0, c = 0;
    for (size_t r = 0; r < rows.size(); ++r) {
      const int begin = std::max(0, rows[r].position - (kWindow - 1)) / kBlockTokens;
      const int end = (rows[r].position + rows[r].count - 1) / kBlockTokens;
      first_token.push_back(static_cast<int>(token_row.size()));
      count.push_back(rows[r].count);
      position.push_back(rows[r].position);
      slot.push_back(static_cast<int>(r));
      flags.push_back(0);
      window_base.push_back(begin);
      window_offset.push_back(static_cast<int>(window_blocks.size()));
      context_offset.push_back(static_cast<int>(context_blocks.size()));
      for (int b = begin; b <= end; ++b) window_blocks.push_back(free_window[w++ % window_pool]);
      for (int b = 0; b <= end; ++b) context_blocks.push_back(free_context[c++ % context_pool]);
      for (int i = 0; i < rows[r].count; ++i)
        token_row.push_back(static_cast<int>(r)), token_position.push_back(rows[r].position + i);
    }
    upload();
  }
  /// The first `rows` rows of another batch, over the same blocks.
  FakeBatch(const FakeBatch& other, size_t rows)
      : specs(other.specs.begin(), other.specs.begin() + rows),
        token_row(other.token_row),
        token_position(other.token_position),
        first_token(other.first_token),
        count(other.count),
        position(other.position),
        slot(other.slot),
        window_base(other.window_base),
        window_offset(other.window_offset),
        window_blocks(other.window_blocks),
        context_offset(other.context_offset),
        context_blocks(other.context_blocks),
        flags(other.flags) {
    size_t tokens = 0;
    for (const RowSpec& r : specs) tokens += r.count;
    token_row.resize(tokens);
    token_position.resize(tokens);
    upload();
  }
  int tokens() const { return static_cast<int>(token_row.size()); }
  const float* window_row(const FakePart& part, int r, int p) const {
    return part.row(window_blocks[window_offset[r] + p / kBlockTokens - window_base[r]], p % kBlockTokens);
  }
  const float* compressed_row(const FakePart& part, int r, int e, int rows) const {
    return part.row(context_blocks[context_offset[r] + e / rows], e % rows);
  }
  const BatchView& view() const { return view_; }

  std::vector<RowSpec> specs;
  std::vector<int32_t> token_row, token_position, first_token, count, position, slot, window_base, window_offset, window_blocks,
      context_offset, context_blocks;
  std::vector<uint8_t> flags;
  std::vector<float2> rope;

 private:
  void upload() {
    for (int p : token_position)
      for (int i = 0; i < kRopeDim / 2; ++i) {
        const double angle = p * std::pow(10000.0, -i / 32.0);
        rope.push_back(make_float2(static_cast<float>(std::cos(angle)), static_cast<float>(std::sin(angle))));
      }
    const auto put = [this](const std::vector<int32_t>& v) { return arrays_.emplace_back(v).get(); };
    arrays_.reserve(16);
    view_.tokens = tokens();
    view_.rows = static_cast<int>(specs.size());
    view_.token_row = put(token_row);
    view_.position = view_.cache_position = put(token_position);
    view_.row_slot = put(slot);
    view_.row_first_token = put(first_token);
    view_.row_count = put(count);
    view_.row_position = put(position);
    view_.window_base = put(window_base);
    view_.window_offset = put(window_offset);
    view_.window_blocks = put(window_blocks);
    view_.context_offset = put(context_offset);
    view_.context_blocks = put(context_blocks);
    flags_ = DeviceArray<uint8_t>(flags);
    view_.row_flags = flags_;
    rope_ = DeviceArray<float2>(rope);
    view_.rope_plain = view_.rope_long = rope_;
  }
  std::vector<DeviceArray<int32_t>> arrays_;
  DeviceArray<uint8_t> flags_;
  DeviceArray<float2> rope_;
  BatchView view_;
};

}  // namespace twelvex::test
