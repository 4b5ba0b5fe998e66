// SPDX-License-Identifier: MIT
// Checkpoint matrices -> the prepared layout, on the device.
#pragma once

#include <cuda_runtime_api.h>

#include "gemm/weight_layout.h"

namespace twelvex::cuda {

/// Rows of a matrix: `raw` holds `rows` rows, `pitch` bytes apart, of bf16, e4m3 or e2m1 pairs. Row tile `first_tile` of the
/// prepared matrix receives the first of them. The last rows of the last tile are zeros.
struct PrepareParams {
  WeightFormat format = WeightFormat::kBF16;
  int64_t rows = 0, cols = 0;
  const uint8_t* raw = nullptr;  // device, 16-byte aligned; pitch a multiple of 16
  size_t pitch = 0;
  int64_t first_tile = 0;
  uint8_t* prepared = nullptr;
  cudaStream_t stream = nullptr;
};
void run_prepare(const PrepareParams& params);

/// Scale bytes of the same rows of an fp4 matrix: `raw` [rows, cols / 32], `pitch` bytes apart.
void run_prepare_fp4_scales(const PrepareParams& params);

}  // namespace twelvex::cuda
