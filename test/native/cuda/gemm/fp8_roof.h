// SPDX-License-Identifier: MIT
// What FP8 products should take on sm_12x, by arithmetic done before any run there (bench/results/2026-11-22-cuda-sm12x.md):
// printed beside what they take, so that an owner of a card sees where the arithmetic is wrong.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "common/device.h"
#include "gemm/fp8_gemm.h"

namespace twelvex::test {

inline bool has_fp8() { return cuda::device_info().arch >= cuda::kFirstFp8Arch; }

/// The current device, per microsecond.
struct Card {
  double multiprocessors = 0, clocks = 0, dram_bytes = 0;

  static Card current() {
    const auto attribute = [](cudaDeviceAttr name) {
      int value = 0, device = 0;
      cuda::check(cudaGetDevice(&device), "cudaGetDevice");
      cuda::check(cudaDeviceGetAttribute(&value, name, device), "cudaDeviceGetAttribute");
      return static_cast<double>(value);
    };
    const double bus = attribute(cudaDevAttrGlobalMemoryBusWidth) / 8, memory = attribute(cudaDevAttrMemoryClockRate) / 1e3;
    return {attribute(cudaDevAttrMultiProcessorCount), attribute(cudaDevAttrClockRate) / 1e3, 2 * bus * memory};
  }
  double reading(double bytes) const { return bytes / (0.9 * dram_bytes); }
};

/// Blocks of weight_rows (of weight_bytes an element) x rows.
struct Fp8Blocks {
  double count = 0, rows = 0, cols = 0;
  double weight_rows = cuda::kFp8BlockRows, weight_bytes = 1;

  double us(const Card& card) const {
    constexpr double kMmaClocks = 4;      // 8,192 operations at 2,048 a clock
    constexpr double kL2Bytes = 17.7;     // a clock and multiprocessor
    constexpr double kBusy = 0.88;        // barriers and dependencies of two warps a scheduler
    constexpr double kBlockClocks = 1600; // first loads and epilogue
    const double mma = weight_rows / 16 * (rows / 8) * 4 * kMmaClocks;
    const double load = (weight_rows * 128 * weight_bytes + rows * 132) / kL2Bytes;
    const double clocks = cols / 128 * std::max(mma, load) / kBusy + kBlockClocks;
    return std::max(1.0, std::ceil(count / card.multiprocessors)) * clocks / card.clocks;
  }
};

/// The pass that makes cells: bf16 read, e4m3 written.
inline double predicted_cells_us(const Card& card, double rows, double cols) { return 3 + card.reading(3 * rows * cols); }

/// A dense product with its cells.
inline double predicted_dense_us(const Card& card, const cuda::GemmParams& p) {
  const cuda::TilePlan plan = cuda::plan_fp8(p);
  const double n = p.segments[0].rows, rows = plan.rows_m;
  const Fp8Blocks blocks = {static_cast<double>(plan.grid_n) * plan.grid_m, rows, static_cast<double>(p.cols)};
  return std::max(blocks.us(card), card.reading(n * p.cols + 1.0 * p.rows * p.cols)) + predicted_cells_us(card, p.rows, p.cols);
}

/// A layer's experts: `counts` rows of every routed expert, hidden size, width.
inline double predicted_experts_us(const Card& card, const std::vector<int>& counts, int tokens, double hidden, double width) {
  constexpr double kLaunches = 15;
  constexpr double kFp4Bytes = 0.5 + 1.0 / 32;
  constexpr double kBlock = cuda::kFp8GroupBlockRows;
  double tiles = 0, slots = 0;
  for (const int n : counts) slots += n, tiles += std::ceil(1.0 * n / cuda::kFp8GroupRows);
  const double shared_tiles = std::ceil(tokens / 128.0);
  const Fp8Blocks up = {tiles * 2 * width / kBlock, cuda::kFp8GroupRows, hidden, kBlock, kFp4Bytes};
  const Fp8Blocks down = {tiles * hidden / kBlock, cuda::kFp8GroupRows, width, kBlock, kFp4Bytes};
  const Fp8Blocks shared_up = {shared_tiles * width / 64, 128, hidden}, shared_down = {shared_tiles * hidden / 128, 128, width};
  const double weights = static_cast<double>(counts.size()) * hidden * width * kFp4Bytes;
  const double cells = predicted_cells_us(card, tokens, hidden) + predicted_cells_us(card, tokens, width);
  const double combine = card.reading(2 * hidden * (slots + 2.0 * tokens));
  return std::max(up.us(card), card.reading(2 * weights)) + std::max(down.us(card), card.reading(weights)) + cells + combine +
         shared_up.us(card) + shared_down.us(card) + kLaunches;
}

/// Indexer scores of so many multiply-adds: tensor cores busy for 88 %, a fifth more for what happens between products.
inline double predicted_scores_us(const Card& card, double multiply_adds) {
  return 2 * multiply_adds / (2048 * card.multiprocessors * card.clocks) / 0.88 * 1.2;
}

}  // namespace twelvex::test
