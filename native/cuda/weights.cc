// SPDX-License-Identifier: MIT
#include "weights.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "common/check.h"
#include "gemm/prepare.h"
#include "hyper/hyper.h"
#include "runtime/error.h"

namespace twelvex::cuda {

namespace {

constexpr size_t kStagingBytes = size_t{32} << 20;

size_t row_payload(WeightFormat format, int64_t cols) {
  switch (format) {
    case WeightFormat::kF32:
      return static_cast<size_t>(cols) * 4;
    case WeightFormat::kBF16:
      return static_cast<size_t>(cols) * 2;
    case WeightFormat::kFp8Block128:
      return static_cast<size_t>(cols);
    case WeightFormat::kFp4Group32:
      return static_cast<size_t>(cols) / 2;
  }
  return 0;
}

size_t align16(size_t bytes) { return (bytes + 15) / 16 * 16; }

/// Widening re-biases in bf16 (gemm/widen.cuh), which bounds the scales from above.
void check_scales(const uint8_t* row, size_t count, WeightFormat format) {
  const int most = format == WeightFormat::kFp8Block128 ? kFp8MaxScaleByte : kFp4MaxScaleByte;
  const int largest = *std::max_element(row, row + count);
  if (largest > most) {
    throw Error(ErrorCode::kBadCheckpoint, "weight scale 2^" + std::to_string(largest - 127) + " is over 2^" +
                                               std::to_string(most - 127) + ", the largest that the CUDA backend can widen");
  }
}

/// Rows of an f32 or bf16 matrix -> f32.
void copy_f32(const MatrixView& view, int64_t first, int64_t rows, uint8_t* to) {
  if (view.format != WeightFormat::kF32 && view.format != WeightFormat::kBF16)
    throw Error(ErrorCode::kBadCheckpoint, "expected an f32 or bf16 tensor, got a quantised one");
  const size_t pitch = static_cast<size_t>(view.cols) * 4;
  for (int64_t r = 0; r < rows; ++r) {
    const uint8_t* from = view.data + (first + r) * view.row_bytes;
    if (view.format == WeightFormat::kF32) {
      std::memcpy(to + r * pitch, from, pitch);
      continue;
    }
    for (int64_t c = 0; c < view.cols; ++c) {
      uint16_t half;
      std::memcpy(&half, from + c * 2, 2);
      const uint32_t bits = static_cast<uint32_t>(half) << 16;
      std::memcpy(to + r * pitch + c * 4, &bits, 4);
    }
  }
}

}  // namespace

WeightStore::WeightStore(cudaStream_t stream) : stream_(stream) {
  try {
    for (Staging& s : staging_) {
      check(cudaMallocHost(reinterpret_cast<void**>(&s.host), kStagingBytes), "cudaMallocHost of a staging buffer");
      s.device = static_cast<uint8_t*>(device_alloc(kStagingBytes, "staging"));
      check(cudaEventCreateWithFlags(&s.free, cudaEventDisableTiming), "cudaEventCreate");
    }
  } catch (...) {
    release_staging();
    throw;
  }
}

WeightStore::~WeightStore() {
  cudaStreamSynchronize(stream_);
  release_staging();
  for (void* pointer : owned_) cudaFree(pointer);
}

void WeightStore::release_staging() noexcept {
  for (Staging& s : staging_) {
    cudaFreeHost(s.host);
    cudaFree(s.device);
    if (s.free != nullptr) cudaEventDestroy(s.free);
    s = {};
  }
}

void WeightStore::finish() {
  check(cudaStreamSynchronize(stream_), "upload of weights");
  release_staging();
}

void* WeightStore::allocate(size_t bytes, const char* purpose) {
  owned_.reserve(owned_.size() + 1);
  owned_.push_back(device_alloc(bytes, purpose));
  bytes_ += bytes;
  return owned_.back();
}

WeightStore::Staging& WeightStore::next_staging() {
  if (staging_[0].host == nullptr) throw Error(ErrorCode::kInternal, "weights were loaded after the store was finished");
  Staging& s = staging_[turn_++ % 2];
  check(cudaEventSynchronize(s.free), "upload of weights");
  return s;
}

Linear WeightStore::empty_like(WeightFormat format, int64_t rows, int64_t cols, int64_t count) {
  Linear linear{.format = format, .rows = rows, .cols = cols};
  if (rows == 0 || cols == 0 || count == 0) return linear;
  if (format == WeightFormat::kF32) {
    throw Error(ErrorCode::kUnsupported, "f32 projection of " + std::to_string(rows) + " x " + std::to_string(cols) +
                                             ": the CUDA backend multiplies bf16, fp8 and fp4 weights");
  }
  linear.data = allocate(weight_bytes(format, rows, cols) * count, "weights");
  const size_t scales = scale_bytes(format, rows, cols) * count;
  if (scales != 0) linear.scale = allocate(scales, "weight scales");
  return linear;
}

void WeightStore::upload(const MatrixView& view, uint8_t* data, uint8_t* scale, int64_t first_tile) {
  const size_t payload = row_payload(view.format, view.cols);
  const size_t pitch = align16(payload);
  const int64_t rows_at_once = static_cast<int64_t>(kStagingBytes / pitch) / kCellRows * kCellRows;
  TWELVEX_NEED_LE(kCellRows, rows_at_once);
  for (int64_t row = 0; row < view.rows; row += rows_at_once) {
    const int64_t rows = std::min(rows_at_once, view.rows - row);
    Staging& s = next_staging();
    for (int64_t r = 0; r < rows; ++r) std::memcpy(s.host + r * pitch, view.data + (row + r) * view.row_bytes, payload);
    check(cudaMemcpyAsync(s.device, s.host, rows * pitch, cudaMemcpyHostToDevice, stream_), "upload of weights");
    run_prepare({.format = view.format, .rows = rows, .cols = view.cols, .raw = s.device, .pitch = pitch,
                 .first_tile = first_tile + row / kCellRows, .prepared = data, .stream = stream_});
    check(cudaEventRecord(s.free, stream_), "cudaEventRecord");
  }
  if (view.format != WeightFormat::kBF16) upload_scales(view, scale, first_tile);
}

void WeightStore::upload_scales(const MatrixView& view, uint8_t* scale, int64_t first_tile) {
  const bool fp8 = view.format == WeightFormat::kFp8Block128;
  const int64_t rows = fp8 ? ceil_div(view.rows, kScaleBlock) : view.rows;
  const size_t payload = static_cast<size_t>(ceil_div(view.cols, fp8 ? kScaleBlock : 32));
  const size_t pitch = fp8 ? payload : align16(payload);
  const int64_t rows_at_once = static_cast<int64_t>(kStagingBytes / pitch) / kCellRows * kCellRows;
  for (int64_t row = 0; row < rows; row += rows_at_once) {
    const int64_t count = std::min(rows_at_once, rows - row);
    Staging& s = next_staging();
    for (int64_t r = 0; r < count; ++r) {
      const uint8_t* from = view.scale + (row + r) * view.scale_row_bytes;
      check_scales(from, payload, view.format);
      std::memcpy(s.host + r * pitch, from, payload);
    }
    uint8_t* to = fp8 ? scale + row * payload : s.device;
    check(cudaMemcpyAsync(to, s.host, count * pitch, cudaMemcpyHostToDevice, stream_), "upload of weight scales");
    if (!fp8) {
      run_prepare_fp4_scales({.format = view.format, .rows = count, .cols = view.cols, .raw = s.device, .pitch = pitch,
                              .first_tile = first_tile + row / kCellRows, .prepared = scale, .stream = stream_});
    }
    check(cudaEventRecord(s.free, stream_), "cudaEventRecord");
  }
}

Linear WeightStore::linear(const MatrixView& view) {
  Linear linear = empty_like(view.format, view.rows, view.cols, 1);
  if (linear.data != nullptr) upload(view, static_cast<uint8_t*>(linear.data), static_cast<uint8_t*>(linear.scale), 0);
  return linear;
}

Experts WeightStore::experts(std::span<const ExpertView> views) {
  Experts experts;
  experts.count = static_cast<int>(views.size());
  if (views.empty()) return experts;
  const MatrixView& gate = views[0].w1;
  TWELVEX_NEED(gate.rows % kCellRows, 0);
  experts.gate_up = empty_like(gate.format, 2 * gate.rows, gate.cols, experts.count);
  for (size_t i = 0; i < kParts; ++i) {
    const MatrixView& down = views[0].w2[i];
    if (down.cols > 0) experts.down[i] = empty_like(down.format, down.rows, down.cols, experts.count);
  }
  if (experts.gate_up.data == nullptr) return experts;
  for (size_t e = 0; e < views.size(); ++e) {
    upload_expert(views[e].w1, experts.gate_up, e, 0);
    upload_expert(views[e].w3, experts.gate_up, e, row_tiles(gate.rows));
    for (size_t i = 0; i < kParts; ++i) {
      if (experts.down[i].cols > 0) upload_expert(views[e].w2[i], experts.down[i], e, 0);
    }
  }
  return experts;
}

void WeightStore::upload_expert(const MatrixView& view, const Linear& stacked, size_t expert, int64_t first_tile) {
  upload(view, static_cast<uint8_t*>(stacked.data) + expert * weight_bytes(stacked.format, stacked.rows, stacked.cols),
         static_cast<uint8_t*>(stacked.scale) + expert * scale_bytes(stacked.format, stacked.rows, stacked.cols), first_tile);
}

Array WeightStore::matrix_f32(const MatrixView& view) {
  const size_t count = static_cast<size_t>(view.rows * view.cols);
  Array array{.data = allocate(count * 4, "f32 weights"), .bytes = count * 4};
  const size_t pitch = static_cast<size_t>(view.cols) * 4;
  const int64_t rows_at_once = static_cast<int64_t>(kStagingBytes / std::max<size_t>(pitch, 4));
  TWELVEX_NEED_LE(1, rows_at_once);
  for (int64_t row = 0; row < view.rows; row += rows_at_once) {
    const int64_t rows = std::min(rows_at_once, view.rows - row);
    Staging& s = next_staging();
    copy_f32(view, row, rows, s.host);
    check(cudaMemcpyAsync(static_cast<uint8_t*>(array.data) + row * pitch, s.host, rows * pitch, cudaMemcpyHostToDevice, stream_),
          "upload of weights");
    check(cudaEventRecord(s.free, stream_), "cudaEventRecord");
  }
  return array;
}

Array WeightStore::hyper_matrix(const MatrixView& view) {
  const size_t bytes = static_cast<size_t>(view.rows * view.cols) * 4;
  TWELVEX_NEED(view.rows, kHyperMixes);
  TWELVEX_NEED_LE(bytes, kStagingBytes);
  Array array{.data = allocate(bytes, "f32 weights"), .bytes = bytes};
  Staging& s = next_staging();
  copy_f32(view, 0, view.rows, s.host);
  check(cudaMemcpyAsync(s.device, s.host, bytes, cudaMemcpyHostToDevice, stream_), "upload of weights");
  run_prepare_hyper(reinterpret_cast<const float*>(s.device), static_cast<float*>(array.data),
                    static_cast<int>(view.cols / kStreams), stream_);
  check(cudaEventRecord(s.free, stream_), "cudaEventRecord");
  return array;
}

Array WeightStore::vector(const MatrixView& view) { return matrix_f32(view); }

Array WeightStore::token_table(std::span<const int32_t> table) {
  return matrix_f32({.format = WeightFormat::kF32,  // the same bytes
                     .rows = static_cast<int64_t>(table.size()),
                     .cols = 1,
                     .data = reinterpret_cast<const uint8_t*>(table.data()),
                     .row_bytes = 4});
}

}  // namespace twelvex::cuda
