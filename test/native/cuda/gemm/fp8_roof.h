// SPDX-License-Identifier: MIT
// What the FP8 products should take on sm_12x, by arithmetic done before any run there (bench/results/2026-11-22-cuda-sm12x.md):
// printed beside what they take, so that an owner of a card sees where the arithmetic is wrong.
#pragma once

#include <algorithm>

#include "common/device.h"
#include "gemm/fp8_gemm.h"

namespace twelvex::test {

/// The current device.
struct Card {
  double multiprocessors, clocks_per_us, dram_bytes_per_us;

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
};

/// Microseconds of `tiles` blocks of 128 weight rows x plan.rows_m activation rows over `cols` columns, whose inputs have `bytes`.
inline double predicted_us(const Card& card, double tiles, int rows_m, int cols, bool fp4, double bytes) {
  constexpr double kMmaClocks = 4;         // 8,192 operations at 2,048 a clock
  constexpr double kL2Bytes = 17.7;        // a clock and multiprocessor
  constexpr double kIssue = 0.88;          // barriers and dependencies of two warps a scheduler
  constexpr double kBlockClocks = 1600;    // first loads and epilogue
  const double mma = 8.0 * (rows_m / 8) * 4 * kMmaClocks, load = (fp4 ? 8704 : 16384) + rows_m * 132.0;
  const double stages = cols / 128.0, clocks = stages * std::max(mma, load / kL2Bytes) / kIssue + kBlockClocks;
  const double rounds = std::max(1.0, std::ceil(tiles / card.multiprocessors));
  return std::max(rounds * clocks / card.clocks_per_us, bytes / (0.9 * card.dram_bytes_per_us));
}

/// The pass that makes cells: bf16 read, e4m3 written.
inline double predicted_cells_us(const Card& card, double rows, double cols) {
  return 3 + rows * cols * 3 / (0.9 * card.dram_bytes_per_us);
}

}  // namespace twelvex::test
