// SPDX-License-Identifier: MIT
// Sparse attention of a layer over a fake cache: random inputs, and the output of one token and head in double precision.
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

enum class Chosen { kMost, kNone, kAll };  // of the selection's places

struct AttentionSpec {
  LayerKind kind;
  RowFormat format;
  int heads, topk;
  std::vector<RowSpec> rows;
  Chosen chosen = Chosen::kMost;
  int window_blocks = 40, context_blocks = 80;
};

struct AttentionCase {
  const AttentionSpec spec;
  const FakeBatch batch;
  const int rows_per_block;
  const FakePart window, compressed;
  const std::vector<int32_t> selection;
  const std::vector<__nv_bfloat16> query;
  const std::vector<float> sinks;
  const DeviceArray<int32_t> d_selection;
  const DeviceArray<__nv_bfloat16> d_query;
  const DeviceArray<float> d_sinks;

  explicit AttentionCase(const AttentionSpec& s)
      : spec(s),
        batch(s.rows, s.window_blocks, s.context_blocks),
        rows_per_block(s.kind == LayerKind::kHca ? 1 : 32),
        window(s.format, s.window_blocks, kBlockTokens),
        compressed(s.format, s.context_blocks, rows_per_block),
        selection(choose()),
        query(random_bf16(static_cast<size_t>(batch.tokens()) * s.heads * kHeadDim, 1.5f)),
        sinks(random_f32(s.heads)),
        d_selection(selection),
        d_query(query),
        d_sinks(sinks) {}

  /// SparsePrefillParams or SparseDecodeParams, of pages.
  template <class Params>
  Params params(__nv_bfloat16* attended) const {
    Params p;
    p.batch = batch.view();
    p.kv.window = window.pages();
    p.kv.compressed = compressed.pages();
    p.kind = spec.kind;
    p.heads = spec.heads;
    p.topk = spec.topk;
    p.query = d_query;
    p.selection = d_selection;
    p.sinks = d_sinks;
    p.rope = batch.view().rope_plain;
    p.attended = attended;
    p.tokens = batch.tokens();
    return p;
  }

  /// The rows that token t sees.
  std::vector<const float*> candidates(int t) const {
    std::vector<const float*> rows;
    const int r = batch.token_row[t], p = batch.token_position[t];
    if (spec.kind == LayerKind::kCsa) {
      for (int i = 0; i < std::min(spec.topk, (p + 1) / kCsaRatio); ++i) {
        const int e = selection[static_cast<size_t>(t) * spec.topk + i];
        if (e >= 0) rows.push_back(batch.compressed_row(compressed, r, e, rows_per_block));
      }
    } else if (spec.kind == LayerKind::kHca) {
      for (int e = 0; e < (p + 1) / kHcaRatio; ++e) rows.push_back(batch.compressed_row(compressed, r, e, rows_per_block));
    }
    for (int q = std::max(0, p - (kWindow - 1)); q <= p; ++q) rows.push_back(batch.window_row(window, r, q));
    return rows;
  }

  std::string name() const {
    char text[160];
    std::snprintf(text, sizeof text, "%s %s rows, %d heads, top-k %d, %d tokens%s",
                  spec.kind == LayerKind::kSwa ? "swa" : spec.kind == LayerKind::kCsa ? "csa" : "hca",
                  spec.format == RowFormat::kFp8 ? "fp8" : "bf16", spec.heads, spec.topk, batch.tokens(),
                  spec.chosen == Chosen::kNone ? ", none chosen" : "");
    return text;
  }

  /// `samples` tokens and heads: every token if they are few, else the first, the last and random ones. All must be written.
  void check(const std::vector<__nv_bfloat16>& got, int samples) const {
    Difference difference;
    for (int n = 0; n < samples; ++n) {
      const int random = n == 0 ? 0 : n == 1 ? batch.tokens() - 1 : below(batch.tokens());
      const int t = batch.tokens() <= samples ? n % batch.tokens() : random, h = below(spec.heads);
      const size_t at = (static_cast<size_t>(t) * spec.heads + h) * kHeadDim;
      const auto ref = reference_attention(&query[at], candidates(t), sinks[h], &batch.rope[static_cast<size_t>(t) * 32],
                                           0.04419417382415922);
      for (int d = 0; d < kHeadDim; ++d) difference.add(__bfloat162float(got[at + d]), ref[d]);
    }
    bool written = true;
    for (const auto& x : got) written &= std::isfinite(__bfloat162float(x));
    expect_close(difference, 6e-3, name());
    expect(written, name() + ": every output written");
  }

 private:
  /// Distinct random visible entries of every token, -1 behind them; kMost: of every fifth token only half; kAll: no -1.
  std::vector<int32_t> choose() const {
    std::vector<int32_t> chosen(static_cast<size_t>(batch.tokens()) * spec.topk, -1), entries;
    for (int t = 0; t < batch.tokens() && spec.chosen != Chosen::kNone; ++t) {
      const int visible = (batch.token_position[t] + 1) / kCsaRatio, wanted = std::min(spec.topk, visible);
      entries.resize(visible);
      for (int e = 0; e < visible; ++e) entries[e] = e;
      const int kept = t % 5 == 4 && spec.chosen == Chosen::kMost ? wanted / 2 : wanted;
      for (int i = 0; i < kept; ++i) {
        std::swap(entries[i], entries[i + below(visible - i)]);
        chosen[static_cast<size_t>(t) * spec.topk + i] = entries[i];
      }
    }
    return chosen;
  }
};

}  // namespace twelvex::test
