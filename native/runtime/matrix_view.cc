// SPDX-License-Identifier: MIT
#include "matrix_view.h"

#include "error.h"

namespace twelvex {

namespace {

constexpr int64_t kTile = 128;
constexpr int64_t kFp4Group = 32;

size_t column_bytes(WeightFormat format, int64_t cols) {
  const auto count = static_cast<size_t>(cols);
  switch (format) {
    case WeightFormat::kF32: return count * 4;
    case WeightFormat::kBF16: return count * 2;
    case WeightFormat::kFp8Block128: return count;
    case WeightFormat::kFp4Group32: return count / 2;
  }
  return 0;
}

WeightFormat format_of(const std::string& name, Dtype dtype) {
  switch (dtype) {
    case Dtype::kF32: return WeightFormat::kF32;
    case Dtype::kBF16: return WeightFormat::kBF16;
    case Dtype::kF8E4M3: return WeightFormat::kFp8Block128;
    case Dtype::kI8: return WeightFormat::kFp4Group32;
    default: throw Error(ErrorCode::kBadCheckpoint, "tensor \"" + name + "\": no weight has dtype " + dtype_name(dtype));
  }
}

}  // namespace

MatrixView view_matrix(const std::string& name, const TensorView& weight, const TensorView* scale) {
  MatrixView view;
  view.format = format_of(name, weight.dtype);
  view.rows = weight.shape.size() > 1 ? weight.shape[0] : 1;
  view.cols = weight.shape.back() * (view.format == WeightFormat::kFp4Group32 ? 2 : 1);
  view.data = weight.data;
  view.row_bytes = column_bytes(view.format, view.cols);
  if (scale != nullptr) {
    view.scale = scale->data;
    view.scale_row_bytes = static_cast<size_t>(scale->shape.back());
  }
  return view;
}

MatrixView cut_rows(const MatrixView& view, ShardRange range) {
  MatrixView cut = view;
  cut.rows = range.size();
  cut.data += static_cast<size_t>(range.begin) * view.row_bytes;
  if (view.scale != nullptr) {
    const int64_t scale_row = view.format == WeightFormat::kFp8Block128 ? range.begin / kTile : range.begin;
    cut.scale += static_cast<size_t>(scale_row) * view.scale_row_bytes;
  }
  return cut;
}

MatrixView cut_cols(const MatrixView& view, ShardRange range) {
  MatrixView cut = view;
  cut.cols = range.size();
  cut.data += column_bytes(view.format, range.begin);
  if (view.scale != nullptr) cut.scale += range.begin / (view.format == WeightFormat::kFp8Block128 ? kTile : kFp4Group);
  return cut;
}

}  // namespace twelvex
