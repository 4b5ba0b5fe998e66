// SPDX-License-Identifier: MIT
// Layout of prepared weight matrices, for host and device. One copy serves the streaming kernels (decode) and the tile
// kernels (prefill): weights are the A operand of mma.m16n8k16, stored in the order in which lanes hold its fragments, so a
// warp reads a tile as whole 16-byte vectors, lane after lane, and needs neither ldmatrix nor a transposition.
//
//   cell            16 rows x 64 columns; cells of a row tile follow each other, row tiles follow each other:
//                   cell (n, c) at (n * cells_per_row + c) * cell_bytes, n = row / 16, c = column / 64.
//   inside a cell   vectors of 16 bytes, [vector][lane]. Lane 4 g + t holds rows g and g + 8 and, of every block of 32
//                   columns, the columns 8 t .. 8 t + 7. Of these, step s (0, 1) of the mma takes 4 s .. 4 s + 3: register
//                   pair j (0, 1) holds columns 4 s + 2 j and 4 s + 2 j + 1. Activations use the same assignment: a lane's
//                   operand for a block of 32 columns is one 16-byte load from a row-major row.
//   bf16            4 vectors: [block of 32][step]; words are the registers a0 .. a3 (g j0, g+8 j0, g j1, g+8 j1).
//   fp8 (e4m3)      2 vectors: [block of 32]; words [step][row g, g + 8]; bytes of a word: columns 0, 2, 1, 3 of the step,
//                   so that bytes 0, 2 and bytes 1, 3 widen to the pairs j = 0 and j = 1.
//   fp4 (e2m1)      1 vector; words [block of 32][row g, g + 8]; nibbles 0 .. 7 of a word: columns 0, 4, 2, 6, 1, 5, 3, 7, so
//                   that nibble i of the low and of the high half widen to one pair, and the even (odd) nibbles are the bytes of
//                   the fp8 order's first (second) step.
//   scales fp8      e8m0 byte at (row / 128) * ceil(columns / 128) + column / 128, as in the checkpoint.
//   scales fp4      32-bit words [row tile][cell][g]: bytes (g, block 0), (g + 8, block 0), (g, block 1), (g + 8, block 1).
//
// So the words of fp8 and fp4 weights lie on sm_12x, whose FP8 tensor cores take them as they are. On sm_90, which widens all of
// them, the bits of each word, and of each word of fp4 scales, are folded into the order in which that takes the fewest
// instructions (weight_order.cuh).
//
// Rows are padded to 16 and columns to 64 with zeros (scale byte 127).
#pragma once

#include <cstddef>
#include <cstdint>

#include "runtime/ops.h"

#if defined(__CUDACC__)
#define TWELVEX_GEMM_HD __host__ __device__ __forceinline__
#else
#define TWELVEX_GEMM_HD inline
#endif

namespace twelvex::cuda {

inline constexpr int kCellRows = 16;
inline constexpr int kCellCols = 64;
inline constexpr int kScaleBlock = 128;  // fp8 weights: rows and columns of a scale; activations: columns of a group

/// Columns summed by one chain of mma before the partial sum joins the total. Every GEMM kernel adds the partial sums of these
/// chunks in ascending order, so a result is the same whatever kernel and however many rows computed it.
inline constexpr int kChunkCols = 256;
inline constexpr int kChunkCells = kChunkCols / kCellCols;

/// Widening multiplies by 2^(byte + bias - 127) in bf16; larger scale bytes would leave its range.
inline constexpr int kFp8ScaleBias = 120, kFp8MaxScaleByte = 254 - kFp8ScaleBias;
inline constexpr int kFp4ScaleBias = 126, kFp4MaxScaleByte = 254 - kFp4ScaleBias;

TWELVEX_GEMM_HD constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

TWELVEX_GEMM_HD constexpr int cell_bytes(WeightFormat format) {
  return format == WeightFormat::kBF16 ? 2048 : format == WeightFormat::kFp8Block128 ? 1024 : 512;
}

TWELVEX_GEMM_HD constexpr int64_t row_tiles(int64_t rows) { return ceil_div(rows, kCellRows); }
TWELVEX_GEMM_HD constexpr int64_t cells_per_row(int64_t cols) { return ceil_div(cols, kCellCols); }

/// Bytes of the prepared payload and of its scales (0 for bf16).
TWELVEX_GEMM_HD constexpr size_t weight_bytes(WeightFormat format, int64_t rows, int64_t cols) {
  return static_cast<size_t>(row_tiles(rows) * cells_per_row(cols)) * cell_bytes(format);
}
TWELVEX_GEMM_HD constexpr size_t scale_bytes(WeightFormat format, int64_t rows, int64_t cols) {
  if (format == WeightFormat::kFp8Block128) {
    return static_cast<size_t>(ceil_div(rows, kScaleBlock) * ceil_div(cols, kScaleBlock));
  }
  return format == WeightFormat::kFp4Group32 ? static_cast<size_t>(row_tiles(rows) * cells_per_row(cols)) * 32 : 0;
}

/// Byte offset of element (row, col) of a prepared bf16 matrix; an even column and the next are neighbours.
TWELVEX_GEMM_HD constexpr size_t bf16_offset(int64_t row, int64_t col, int64_t cols) {
  const int64_t cell = row / kCellRows * cells_per_row(cols) + col / kCellCols;
  const int vector = static_cast<int>(col % kCellCols / 32 * 2 + col % 8 / 4);
  const int lane = static_cast<int>(row % 8 * 4 + col % 32 / 8);
  const int word = static_cast<int>(row % kCellRows / 8 + col % 4 / 2 * 2);
  return static_cast<size_t>(cell * cell_bytes(WeightFormat::kBF16) + vector * 512 + lane * 16 + word * 4 + col % 2 * 2);
}

}  // namespace twelvex::cuda
