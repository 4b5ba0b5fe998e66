// SPDX-License-Identifier: MIT
// The register-blocked matrix product of kernels.h. A tile is ROWS rows of x times PANELS weight panels, all of whose sums
// live in registers while k runs once; sums never leave their order, so every tile shape gives the same bits.
#pragma once

#include "kernels.h"
#include "simd.h"

namespace twelvex::cpu {
namespace {

constexpr int kHalves = 16 / W;     // vectors in half a panel
constexpr int kVecs = 2 * kHalves;  // vectors in a panel
constexpr int kMaxRows = W == 16 ? 12 : W == 8 ? 3 : 2;

/// One k of one panel as float vectors, outputs in order.
template <bool BF16>
inline void load_panel(const void* panels, size_t offset, Vec (&weights)[kVecs]) {
  if constexpr (BF16) {
    const auto* words = static_cast<const uint32_t*>(panels) + offset * 16;
    for (int i = 0; i < kHalves; ++i) {
      const Words w = load_words(words + i * W);
      weights[i] = as_floats(w << 16);
      weights[kHalves + i] = as_floats(w & 0xffff0000u);
    }
  } else {
    const auto* floats = static_cast<const float*>(panels) + offset * kPanel;
    for (int i = 0; i < kVecs; ++i) weights[i] = load(floats + i * W);
  }
}

template <bool BF16>
inline void fetch_panel(const void* panels, size_t offset) {
  const auto* bytes = static_cast<const uint8_t*>(panels) + offset * kPanel * (BF16 ? 2 : 4);
  __builtin_prefetch(bytes);
  if constexpr (!BF16) __builtin_prefetch(bytes + 64);
}

/// silu(min(g, limit)) * clamp(u, -limit, limit) * weight; limit 0 clamps nothing.
inline Vec gated(Vec gate, Vec up, float limit, float weight) {
  if (limit > 0) {
    gate = smaller(gate, broadcast(limit));
    up = larger(smaller(up, broadcast(limit)), broadcast(-limit));
  }
  return gate / (1.0f + exp_lanes(-gate)) * up * weight;
}

/// Writes one row's 32 sums of the panel whose first column is `column`.
inline void store_panel(const GemmArgs& a, int row, int64_t column, const Vec (&sums)[kVecs]) {
  const size_t out_row = a.out_rows != nullptr ? static_cast<size_t>(a.out_rows[row]) : static_cast<size_t>(row);
  if (a.store == GemmStore::kGated) {
    float* out = a.out + out_row * a.out_stride + column / 2;
    const float weight = a.row_weight != nullptr ? a.row_weight[row] : 1.0f;
    for (int i = 0; i < kHalves; ++i) store(out + i * W, gated(sums[i], sums[kHalves + i], a.limit, weight));
    return;
  }
  float* out = a.out + out_row * a.out_stride + column;
  const int64_t valid = a.columns - column;
  if (valid >= kPanel) {
    for (int i = 0; i < kVecs; ++i) store(out + i * W, a.store == GemmStore::kAdd ? load(out + i * W) + sums[i] : sums[i]);
    return;
  }
  float whole[kPanel];
  for (int i = 0; i < kVecs; ++i) store(whole + i * W, sums[i]);
  for (int64_t i = 0; i < valid; ++i) out[i] = a.store == GemmStore::kAdd ? out[i] + whole[i] : whole[i];
}

/// k's ahead at which weights are fetched from main memory (12 rows of 48 MB on Zen 4: 101 GFLOP/s at 48, 98 at 16, 82 without).
/// With fewer than four rows the memory itself is the limit and fetching only costs.
constexpr size_t kAhead = 48;

template <int ROWS, int PANELS, bool BF16>
void gemm_tile(const GemmArgs& a, int row, int panel) {
  const float* x = a.x + static_cast<size_t>(row) * a.x_stride;
  const size_t stride = a.x_stride;
  const auto depth = static_cast<size_t>(a.k);
  Vec sums[PANELS][ROWS][kVecs] = {};
  for (size_t k = 0; k < depth; ++k) {
#pragma GCC unroll 4
    for (int p = 0; p < PANELS; ++p) {
      Vec weights[kVecs];
      if constexpr (ROWS > 3) fetch_panel<BF16>(a.panels, static_cast<size_t>(panel + p) * depth + k + kAhead);
      load_panel<BF16>(a.panels, static_cast<size_t>(panel + p) * depth + k, weights);
#pragma GCC unroll 12
      for (int m = 0; m < ROWS; ++m) {
        const Vec value = broadcast(x[static_cast<size_t>(m) * stride + k]);
#pragma GCC unroll 8
        for (int i = 0; i < kVecs; ++i) sums[p][m][i] += value * weights[i];
      }
    }
  }
  for (int p = 0; p < PANELS; ++p) {
    for (int m = 0; m < ROWS; ++m) store_panel(a, row + m, static_cast<int64_t>(panel + p) * kPanel, sums[p][m]);
  }
}

/// Few rows share one pass over more panels, so that enough sums are in flight to hide the latency of an addition.
template <int ROWS, bool BF16>
void gemm_rows(const GemmArgs& a, int row) {
  constexpr int kWide = W == 16 ? (ROWS <= 3 ? 4 : ROWS <= 6 ? 2 : 1) : W == 8 && ROWS == 1 ? 2 : 1;
  int panel = 0;
  for (; panel + kWide <= a.panel_count; panel += kWide) gemm_tile<ROWS, kWide, BF16>(a, row, panel);
  if constexpr (kWide > 1) {
    for (; panel < a.panel_count; ++panel) gemm_tile<ROWS, 1, BF16>(a, row, panel);
  }
}

template <int ROWS, bool BF16>
void gemm_rows_up_to(const GemmArgs& a, int row, int rows) {
  if (rows == ROWS) return gemm_rows<ROWS, BF16>(a, row);
  if constexpr (ROWS > 1) gemm_rows_up_to<ROWS - 1, BF16>(a, row, rows);
}

void gemm(const GemmArgs& a) {
  // Tiles of nearly equal height: 13 rows are 7 + 6, not 12 + 1.
  const int tiles = (a.rows + kMaxRows - 1) / kMaxRows;
  for (int tile = 0, row = 0; tile < tiles; ++tile) {
    const int rows = (a.rows - row + tiles - tile - 1) / (tiles - tile);
    a.bf16 ? gemm_rows_up_to<kMaxRows, true>(a, row, rows) : gemm_rows_up_to<kMaxRows, false>(a, row, rows);
    row += rows;
  }
}

}  // namespace
}  // namespace twelvex::cpu
