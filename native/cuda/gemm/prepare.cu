// SPDX-License-Identifier: MIT
// One thread writes one 16-byte vector (scales: one word). Runs while loading, at the speed of the upload.
#include "common/check.h"
#include "gemm/prepare.h"
#include "gemm/weight_order.cuh"

namespace twelvex::cuda {

namespace {

constexpr int kThreads = 256;

struct Source {
  const PrepareParams& p;
  int64_t tile;  // relative to the first

  /// 32-bit word at `byte` of row `r` of the tile; zero outside the matrix.
  __device__ uint32_t word(int r, int64_t byte, int64_t row_bytes) const {
    const int64_t row = tile * kCellRows + r;
    if (row >= p.rows || byte >= row_bytes) return 0;
    return *reinterpret_cast<const uint32_t*>(p.raw + row * p.pitch + byte);
  }
};

constexpr bool kFold = kWeightOrder == WeightOrder::kFolded;

/// Eight e2m1 in column order -> a word of the layout.
__device__ uint32_t order_fp4(uint32_t word) {
  constexpr int kColumns[8] = {0, 4, 2, 6, 1, 5, 3, 7};
  uint32_t ordered = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) ordered |= ((word >> (4 * kColumns[i])) & 15u) << (4 * i);
  return kFold ? fold_fp4(ordered) : ordered;
}

/// Four e4m3 in column order -> a word of the layout.
__device__ uint32_t order_fp8(uint32_t word) {
  const uint32_t ordered = __byte_perm(word, 0, 0x3120);
  return kFold ? fold_fp8(ordered) : ordered;
}

__device__ uint4 gather(const Source& source, WeightFormat format, int64_t cell, int vector, int lane, int64_t cols) {
  const int g = lane / 4, t = lane % 4;
  uint32_t w[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (format == WeightFormat::kBF16) {  // vector = block * 2 + step; words (g j0), (g+8 j0), (g j1), (g+8 j1)
      const int64_t col = cell * kCellCols + vector / 2 * 32 + t * 8 + vector % 2 * 4 + i / 2 * 2;
      w[i] = source.word(g + i % 2 * 8, col * 2, cols * 2);
    } else if (format == WeightFormat::kFp8Block128) {  // vector = block; words [step][row]
      const int64_t col = cell * kCellCols + vector * 32 + t * 8 + i / 2 * 4;
      w[i] = order_fp8(source.word(g + i % 2 * 8, col, cols));
    } else {  // words [block][row]
      const int64_t col = cell * kCellCols + i / 2 * 32 + t * 8;
      w[i] = order_fp4(source.word(g + i % 2 * 8, col / 2, cols / 2));
    }
  }
  return make_uint4(w[0], w[1], w[2], w[3]);
}

__global__ void __launch_bounds__(kThreads) prepare_kernel(const PrepareParams p) {
  const int vectors = cell_bytes(p.format) / 512;
  const int64_t cells = cells_per_row(p.cols);
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int lane = static_cast<int>(index % 32);
  const int vector = static_cast<int>(index / 32 % vectors);
  const int64_t cell = index / 32 / vectors % cells;
  const int64_t tile = index / 32 / vectors / cells;
  if (tile >= row_tiles(p.rows)) return;
  const uint4 v = gather(Source{p, tile}, p.format, cell, vector, lane, p.cols);
  reinterpret_cast<uint4*>(p.prepared + ((p.first_tile + tile) * cells + cell) * cell_bytes(p.format))[vector * 32 + lane] = v;
}

__global__ void __launch_bounds__(kThreads) prepare_fp4_scales_kernel(const PrepareParams p) {
  const int64_t cells = cells_per_row(p.cols);
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int g = static_cast<int>(index % 8);
  const int64_t cell = index / 8 % cells;
  const int64_t tile = index / 8 / cells;
  if (tile >= row_tiles(p.rows)) return;
  uint32_t word = 0;
  for (int i = 0; i < 4; ++i) {
    const int64_t row = tile * kCellRows + g + i % 2 * 8;
    const int64_t block = cell * 2 + i / 2;
    const uint32_t byte = row < p.rows && block * 32 < p.cols ? p.raw[row * p.pitch + block] : 127;
    word |= byte << (8 * i);
  }
  reinterpret_cast<uint32_t*>(p.prepared)[((p.first_tile + tile) * cells + cell) * 8 + g] = kFold ? fold_scales(word) : word;
}

}  // namespace

void run_prepare(const PrepareParams& p) {
  if (p.rows == 0 || p.cols == 0) return;
  TWELVEX_NEED(p.pitch % 16, 0);
  TWELVEX_NEED(p.cols % 32, 0);
  const int64_t threads = row_tiles(p.rows) * cells_per_row(p.cols) * (cell_bytes(p.format) / 16);
  prepare_kernel<<<static_cast<unsigned>(ceil_div(threads, kThreads)), kThreads, 0, p.stream>>>(p);
  check_launch("prepare_kernel");
}

void run_prepare_fp4_scales(const PrepareParams& p) {
  if (p.rows == 0 || p.cols == 0) return;
  const int64_t threads = row_tiles(p.rows) * cells_per_row(p.cols) * 8;
  prepare_fp4_scales_kernel<<<static_cast<unsigned>(ceil_div(threads, kThreads)), kThreads, 0, p.stream>>>(p);
  check_launch("prepare_fp4_scales_kernel");
}

}  // namespace twelvex::cuda
