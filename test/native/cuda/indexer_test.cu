// SPDX-License-Identifier: MIT
// Indexer scores against double precision, top-k against a sort; --bench: TFLOP/s of scoring, time of selection.
#include "indexer/indexer.h"

#include <numeric>

#include "elementwise/norm_rope.h"
#include "fake_cache.h"
#include "gemm/fp8_cells.h"
#include "gemm/fp8_roof.h"
#include "gemm/gemm_reference.h"

using namespace twelvex;
using namespace twelvex::test;

namespace {

/// Paged indexer rows with random values and the floats they decode to.
struct IndexCache {
  IndexCache(RowFormat format, int blocks)
      : stride((row_block_bytes(format, 32, true) + 255) / 256 * 256), decoded(static_cast<size_t>(blocks) * 32 * kIndexDim) {
    std::vector<uint8_t> bytes(stride * blocks, 0xff);
    for (int b = 0; b < blocks; ++b)
      for (int r = 0; r < 32; ++r) {
        uint8_t* block = bytes.data() + b * stride;
        float* out = decoded.data() + (static_cast<size_t>(b) * 32 + r) * kIndexDim;
        const float scale = std::ldexp(1.0f, -6 + below(3));
        if (format == RowFormat::kFp8) std::memcpy(block + 32 * 128 + r * 4, &scale, 4);
        for (int d = 0; d < kIndexDim; ++d) {
          if (format == RowFormat::kFp8) {
            const __nv_fp8_e4m3 q(gauss(40.0f));
            block[r * 128 + d] = q.__x;
            out[d] = static_cast<float>(q) * scale;
          } else {
            out[d] = __bfloat162float(reinterpret_cast<__nv_bfloat16*>(block)[r * 128 + d] = __float2bfloat16(gauss()));
          }
        }
      }
    device = DeviceArray<uint8_t>(bytes);
    pages = {device.get(), stride, 32, format};
  }
  size_t stride;
  std::vector<float> decoded;
  DeviceArray<uint8_t> device;
  cuda::RowPages pages;
};

struct Groups {
  std::vector<int32_t> first, count;
};

Groups make_groups(const FakeBatch& batch) {
  Groups g;
  for (size_t r = 0; r < batch.specs.size(); ++r)
    for (int i = 0; i < batch.specs[r].count; i += cuda::kScoreGroup) {
      g.first.push_back(batch.first_token[r] + i);
      g.count.push_back(std::min(cuda::kScoreGroup, batch.specs[r].count - i));
    }
  return g;
}

enum class Mode { kTest, kTime };

/// `query_fp8`: queries as e4m3 with a scale a head, on FP8 tensor cores (which Hopper computes from bf16 products).
void check_case(RowFormat format, bool query_fp8, int heads, int topk, const std::vector<RowSpec>& rows,
                Mode mode = Mode::kTest) {
  const bool timed = mode == Mode::kTime;
  const int blocks = timed ? 512 : 170;
  const FakeBatch batch(rows, 8, blocks);
  const IndexCache cache(format, blocks);
  const Groups groups = make_groups(batch);
  const DeviceArray<int32_t> first(groups.first), count(groups.count);
  const auto drawn = random_bf16(static_cast<size_t>(batch.tokens()) * heads * kIndexDim);
  std::vector<float> query = to_floats(drawn);
  if (query_fp8) quantise_row(query.data(), static_cast<int>(query.size()));
  const auto weights = random_bf16(static_cast<size_t>(batch.tokens()) * heads);
  const DeviceArray<__nv_bfloat16> d_query(drawn), d_weights(weights);
  int limit = 0;
  for (const int p : batch.token_position) limit = std::max(limit, (p + 1) / kCsaRatio);
  const int stride = (limit + 31) / 32 * 32 + 32;
  const DeviceArray<float> scores(static_cast<size_t>(batch.tokens()) * stride);
  const DeviceArray<int32_t> selection(static_cast<size_t>(batch.tokens()) * topk);
  scores.poison(), selection.poison();
  const float scale = 1.0f / std::sqrt(static_cast<float>(kIndexDim * heads));
  cuda::IndexScoreParams p;
  p.batch = batch.view();
  p.entries = cache.pages;
  p.groups = {first, count, static_cast<int>(groups.first.size())};
  p.heads = heads;
  p.topk = topk;
  p.entry_limit = limit;
  p.query = d_query;
  p.query_fp8 = query_fp8;
  p.weights = d_weights;
  p.scale = scale;
  p.scores = scores;
  p.stride = stride;
  p.tokens = batch.tokens();
  p.multiprocessors = cuda::device_info().multiprocessors;
  cuda::TopkParams k;
  k.batch = batch.view();
  k.tokens = batch.tokens();
  k.topk = topk;
  k.scores = scores;
  k.stride = stride;
  k.selection = selection;
  if (query_fp8) {
    cuda::run_quantise_fp8({.rows = batch.tokens() * heads, .cols = kIndexDim, .ldx = kIndexDim, .x = d_query, .y = d_query});
  }
  cuda::run_index_scores(p, nullptr);
  cuda::run_topk(k, nullptr);
  sync("indexer");
  char text[160];
  std::snprintf(text, sizeof text, "%s entries, %s queries, %d heads, top-k %d, %d tokens, up to %d entries",
                format == RowFormat::kFp8 ? "fp8" : "bf16", query_fp8 ? "fp8" : "bf16", heads, topk, batch.tokens(), limit);
  if (timed) {
    double pairs = 0;
    for (const int q : batch.token_position) pairs += (q + 1) / kCsaRatio;
    const double us = time_us([&] { cuda::run_index_scores(p, nullptr); }),
                 us_topk = time_us([&] { cuda::run_topk(k, nullptr); });
    std::printf("  %s: scores %8.1f us %6.1f TFLOP/s, top-k %8.1f us", text, us, pairs * heads * kIndexDim * 2 / us * 1e-6,
                us_topk);
    if (has_fp8() && query_fp8)
      std::printf(", scores predicted %8.1f us", predicted_scores_us(Card::current(), pairs * heads * kIndexDim));
    std::printf("\n");
    return;
  }
  const auto got = scores.download();
  if (cuda::few_score_blocks(p) > 0) {
    for (const int processors : {0, 4}) {  // by groups; by blocks that take tiles in turn
      cuda::IndexScoreParams other = p;
      other.multiprocessors = processors;
      if (processors == 0) other.tokens = 0;
      scores.poison();
      cuda::run_index_scores(other, nullptr);
      const auto same = scores.download();
      expect(std::memcmp(got.data(), same.data(), got.size() * 4) == 0,
             std::string(text) + (processors == 0 ? ": scored by groups, the same bits" : ": in turn, the same bits"));
    }
  }
  if (cuda::few_score_blocks(p) > 0 && p.tokens <= cuda::kAwaitedTokens) {
    const auto chosen = selection.download();
    const size_t words = static_cast<size_t>(cuda::kAwaitedTokens) * cuda::kAwaitedEntries;
    const std::vector<uint32_t> nothing(words, cuda::kNotThere);
    const DeviceArray<uint32_t> awaited(nothing);
    bool same = true;
    for (int turn = 0; turn < 3; ++turn) {
      cuda::IndexScoreParams scored = p;
      cuda::TopkParams choice = k;
      scored.awaited = choice.awaited = awaited;
      scores.poison(), selection.poison();
      cuda::run_index_scores(scored, nullptr);
      cuda::run_topk(choice, nullptr);
      sync("awaited scores");
      same &= selection.download() == chosen && awaited.download() == nothing;
      const auto kept = scores.download();
      same &= std::memcmp(kept.data(), got.data(), got.size() * 4) == 0;
    }
    expect(same, std::string(text) + ": the same entries of scores that are awaited, of which nothing is left");
  }
  if (!query_fp8) {  // raw queries are rotated to the bit
    p.raw_query = true;
    cuda::run_index_scores(p, nullptr);
    const auto raw = scores.download();
    cuda::QueryParams turned{.tokens = batch.tokens(), .index_heads = heads, .index_query = d_query};
    turned.rope = batch.view().rope_long;
    cuda::run_finish_queries(turned, nullptr);
    p.raw_query = false;
    scores.poison();
    cuda::run_index_scores(p, nullptr);
    const auto want = scores.download();
    expect(std::memcmp(raw.data(), want.data(), raw.size() * 4) == 0, "raw queries give the scores of rotated ones");
  }
  const auto chosen = selection.download();
  Difference difference;
  bool exact = true;
  for (int t = 0; t < batch.tokens(); ++t) {
    const int visible = (batch.token_position[t] + 1) / kCsaRatio, r = batch.token_row[t];
    std::vector<int32_t> want(visible);
    std::iota(want.begin(), want.end(), 0);
    if (visible > topk) {
      const float* mine = got.data() + static_cast<size_t>(t) * stride;
      for (int n = 0; n < 10; ++n) {
        const int e = n == 0 ? visible - 1 : below(visible);
        const float* entry =
            cache.decoded.data() +
            (static_cast<size_t>(batch.context_blocks[batch.context_offset[r] + e / 32]) * 32 + e % 32) * kIndexDim;
        double sum = 0;
        for (int h = 0; h < heads; ++h) {
          double dot = 0;
          for (int d = 0; d < kIndexDim; ++d)
            dot += static_cast<double>(query[(static_cast<size_t>(t) * heads + h) * kIndexDim + d]) * entry[d];
          sum += std::max(dot, 0.0) * __bfloat162float(weights[static_cast<size_t>(t) * heads + h]) * scale;
        }
        difference.add(mine[e], sum);
      }
      // Selection is judged on the device's own scores: it must be exact.
      std::stable_sort(want.begin(), want.end(), [mine](int a, int b) { return mine[a] > mine[b]; });
      want.resize(topk);
      std::sort(want.begin(), want.end());
    }
    want.resize(topk, -1);
    exact &= std::equal(want.begin(), want.end(), chosen.begin() + static_cast<size_t>(t) * topk);
  }
  if (limit > topk) expect_close(difference, 1e-4, text);
  expect(exact, std::string(text) + ": selection exact, ascending");
}

/// Scores with many equal values, infinities and zeros of both signs.
void check_ties() {
  const int topk = 100, entries = 3000;
  const FakeBatch batch({{entries * 4, 9}}, 8, 200);
  const int stride = entries + 32;
  std::vector<float> scores(static_cast<size_t>(batch.tokens()) * stride);
  for (float& s : scores) {
    const int kind = below(6);
    s = kind == 0   ? 0.0f
        : kind == 1 ? -0.0f
        : kind == 2 ? static_cast<float>(below(3))
        : kind == 3 ? -1.5f
        : kind == 4 ? 1.0f
                    : -INFINITY;
  }
  const DeviceArray<float> d_scores(scores);
  const DeviceArray<int32_t> selection(static_cast<size_t>(batch.tokens()) * topk);
  selection.poison();
  cuda::TopkParams k;
  k.batch = batch.view();
  k.tokens = batch.tokens();
  k.topk = topk;
  k.scores = d_scores;
  k.stride = stride;
  k.selection = selection;
  cuda::run_topk(k, nullptr);
  sync("topk");
  const auto chosen = selection.download();
  bool exact = true;
  for (int t = 0; t < batch.tokens(); ++t) {
    const float* mine = scores.data() + static_cast<size_t>(t) * stride;
    const int visible = (batch.token_position[t] + 1) / kCsaRatio;
    std::vector<int32_t> want(visible);
    std::iota(want.begin(), want.end(), 0);
    std::stable_sort(want.begin(), want.end(), [mine](int a, int b) { return mine[a] > mine[b]; });
    want.resize(topk);
    std::sort(want.begin(), want.end());
    exact &= std::equal(want.begin(), want.end(), chosen.begin() + static_cast<size_t>(t) * topk);
  }
  expect(exact, "equal scores go to the lower entry");
}

}  // namespace

int main(int argc, char** argv) {
  const bool timed = start("indexer", argc, argv);
  struct Formats {
    RowFormat entries;
    bool query_fp8;
  };
  constexpr Formats kAll[] = {{RowFormat::kBF16, false}, {RowFormat::kFp8, false}, {RowFormat::kFp8, true}};
  for (const auto& [format, query_fp8] : kAll) {
    check_case(format, query_fp8, 64, 512, {{5000, 33}, {100, 7}});
    check_case(format, query_fp8, 8, 16, {{0, 300}, {2063, 2}, {1, 1}});
    check_case(format, query_fp8, 4, 24, {{700, 17}, {300, 3}});
    check_case(format, query_fp8, 64, 512, {{1000, 5}});
    check_case(format, query_fp8, 64, 512, {{5000, 3}, {2047, 2}, {100, 1}});
    check_case(format, query_fp8, 40, 100, {{12000, 1}});
    check_case(format, query_fp8, 64, 512, {{20500, 2}});
    check_case(format, query_fp8, 8, 16, {{70, 1}, {2063, 2}});
  }
  check_ties();
  if (timed) {
    for (const auto& [format, query_fp8] : kAll) {
      check_case(format, query_fp8, 64, 512, {{63000, 543}}, Mode::kTime);
      check_case(format, query_fp8, 64, 512, {{63000, 3}}, Mode::kTime);
    }
  }
  return finish("indexer");
}
