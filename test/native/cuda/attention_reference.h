// SPDX-License-Identifier: MIT
// Sparse attention of one token and head in double precision.
#pragma once

#include "fake_cache.h"

namespace twelvex::test {

/// `rows`: candidates. Returns the output before rounding, its last 64 dims rotated back.
inline std::vector<double> reference_attention(const __nv_bfloat16* query, const std::vector<const float*>& rows, float sink,
                                               const float2* rope, double scale) {
  std::vector<double> score(rows.size());
  double top = sink;
  for (size_t i = 0; i < rows.size(); ++i) {
    double dot = 0;
    for (int d = 0; d < kHeadDim; ++d) dot += static_cast<double>(__bfloat162float(query[d])) * rows[i][d];
    score[i] = dot * scale;
    top = std::max(top, score[i]);
  }
  double sum = std::exp(sink - top);
  std::vector<double> out(kHeadDim, 0.0);
  for (size_t i = 0; i < rows.size(); ++i) {
    const double weight = std::exp(score[i] - top);
    sum += weight;
    for (int d = 0; d < kHeadDim; ++d) out[d] += weight * rows[i][d];
  }
  for (double& x : out) x /= sum;
  for (int i = 0; i < kRopeDim / 2; ++i) {
    double& x = out[kNopeDim + 2 * i];
    double& y = out[kNopeDim + 2 * i + 1];
    const double c = rope[i].x, s = rope[i].y, a = x, b = y;
    x = a * c + b * s;
    y = b * c - a * s;
  }
  return out;
}

/// The candidate rows of token t as attention sees them.
inline std::vector<const float*> candidate_rows(const FakeBatch& batch, LayerKind kind, const FakePart& window,
                                                const FakePart& compressed, int rows_per_block,
                                                const std::vector<int32_t>& selection, int topk, int t) {
  std::vector<const float*> rows;
  const int r = batch.token_row[t], p = batch.token_position[t];
  if (kind == LayerKind::kCsa) {
    for (int i = 0; i < std::min(topk, (p + 1) / kCsaRatio); ++i) {
      const int e = selection[static_cast<size_t>(t) * topk + i];
      if (e >= 0) rows.push_back(batch.compressed_row(compressed, r, e, rows_per_block));
    }
  } else if (kind == LayerKind::kHca) {
    for (int e = 0; e < (p + 1) / kHcaRatio; ++e) rows.push_back(batch.compressed_row(compressed, r, e, rows_per_block));
  }
  for (int q = std::max(0, p - (kWindow - 1)); q <= p; ++q) rows.push_back(batch.window_row(window, r, q));
  return rows;
}

/// Distinct random visible entries per token, fewer than topk now and then (the rest -1).
inline std::vector<int32_t> random_selection(const FakeBatch& batch, int topk, bool all_invalid) {
  std::vector<int32_t> selection(static_cast<size_t>(batch.tokens()) * topk, -1);
  std::vector<int32_t> entries;
  for (int t = 0; t < batch.tokens() && !all_invalid; ++t) {
    const int visible = (batch.token_position[t] + 1) / kCsaRatio;
    entries.resize(visible);
    for (int e = 0; e < visible; ++e) entries[e] = e;
    const int wanted = std::min(topk, visible), kept = t % 5 == 4 ? wanted / 2 : wanted;
    for (int i = 0; i < kept; ++i) {
      std::swap(entries[i], entries[i + below(visible - i)]);
      selection[static_cast<size_t>(t) * topk + i] = entries[i];
    }
  }
  return selection;
}

}  // namespace twelvex::test
