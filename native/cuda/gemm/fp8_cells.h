// SPDX-License-Identifier: MIT
// Activations as e4m3 with a scale per 128 columns, the operand of the FP8 products. A group of 128 columns becomes a cell of 256
// bytes, as many as its bf16 values take: addresses of rows and of column slices (multiples of 128) stay the same, and a buffer
// can be quantised in place.
//   bytes 0 .. 127    e4m3 in the order of mma_fp8.cuh's B operand: lane t of a quad finds its columns 8 t .. 8 t + 7 of the four
//                     blocks of 32 one after another, each as two words of columns 0, 2, 1, 3 and 4, 6, 5, 7 (weight_layout.h)
//   bytes 128 .. 131  scale, e8m0 in the lowest byte; the rest of the cell is not written
#pragma once

#include "gemm/quantise.h"
#include "gemm/weight_layout.h"

namespace twelvex::cuda {

inline constexpr int kFp8CellBytes = 256, kFp8CellScale = 128;

/// Byte of column 0 .. 127 of a group in its cell.
TWELVEX_GEMM_HD constexpr int fp8_cell_byte(int column) {
  const int inner = column % 4;
  return column % 32 / 8 * 32 + column / 32 * 8 + column % 8 / 4 * 4 + (inner == 1 ? 2 : inner == 2 ? 1 : inner);
}

/// Like run_quantise, but y receives cells. `cols` and `ldx` are multiples of 128; y may be x when ldx == cols.
void run_quantise_fp8(const QuantiseParams& params);

}  // namespace twelvex::cuda
