// SPDX-License-Identifier: MIT
// Sparse decode attention against double precision, and bit-equal results whatever the batch; --bench: GB/s of cache rows.
#include "attention/sparse_decode.h"

#include "attention_reference.h"
#include "elementwise/norm_rope.h"
#include "gemm/quantise.h"

using namespace twelvex;
using namespace twelvex::test;

namespace {

struct Run {
  std::vector<__nv_bfloat16> out;
  double microseconds = 0;
};

/// How the work is cut: as in the product, a block a split, a block a tile, or few blocks that take tiles in turn.
enum class Cut { kProduct, kSplits, kTiles, kTurns };

struct Launch {
  Cut cut = Cut::kProduct;
  const FakeBatch* batch = nullptr;      // another over the same blocks
  const __nv_bfloat16* query = nullptr;  // others
  bool raw = false, timed = false;
  const int32_t* selection = nullptr;  // others
  bool all_kept = false;
  bool quantise = false;
};

cuda::SparseDecodePlan plan_of(Cut cut, const AttentionSpec& spec, const FakeBatch& batch) {
  int context = 0;
  for (const RowSpec& r : batch.specs) context = std::max(context, r.position + r.count);
  cuda::SparseDecodePlan plan = cuda::plan_sparse_decode(spec.kind, spec.topk, context, batch.tokens(), spec.heads,
                                                         cuda::device_info().multiprocessors);
  const int splits = cuda::decode_splits(spec.kind, spec.topk, context);
  const int tiles = splits * cuda::decode_split(spec.kind) / cuda::kDecodeTile;  // at most
  if (cut == Cut::kSplits) plan = {.parts = splits, .blocks = splits};
  if ((cut == Cut::kTiles || cut == Cut::kTurns) && batch.tokens() * tiles < cuda::kMaxSpreadParts) {
    plan = {.spread = true, .parts = tiles, .blocks = cut == Cut::kTiles ? tiles : std::min(tiles, 3)};
  }
  ++plan.parts, ++plan.blocks;  // a graph's bounds are above what its steps need
  return plan;
}

Run decode(const AttentionCase& c, const Launch& launch) {
  const FakeBatch& batch = launch.batch != nullptr ? *launch.batch : c.batch;
  const DeviceArray<__nv_bfloat16> out(c.query.size());
  auto p = c.params<cuda::SparseDecodeParams>(out);
  p.plan = plan_of(launch.cut, c.spec, batch);
  const size_t cells = static_cast<size_t>(batch.tokens()) * p.plan.parts * p.heads;
  const DeviceArray<float> partial(cells * kHeadDim);
  const DeviceArray<float2> state(cells);
  out.poison(), partial.poison(), state.poison();
  p.batch = batch.view();
  p.rope = batch.view().rope_plain;
  p.tokens = batch.tokens();
  if (launch.query != nullptr) p.query = launch.query;
  p.partial = partial;
  p.state = state;
  p.raw_query = launch.raw;
  if (launch.selection != nullptr) p.selection = launch.selection;
  p.all_kept = launch.all_kept;
  p.quantise = launch.quantise;
  cuda::run_sparse_decode(p, nullptr);
  sync("sparse_decode");
  Run run;
  run.out = out.download();
  p.rows_ready = p.query_ready = true;
  if (launch.timed) run.microseconds = time_graph_us(40, [&](int, cudaStream_t queue) { cuda::run_sparse_decode(p, queue); });
  return run;
}

void check_case(const AttentionSpec& spec) {
  const AttentionCase c(spec);
  const auto got = decode(c, {}).out;
  c.check(got, 40);
  const auto same_bits = [](const auto& a, const auto& b, size_t count) {
    return std::memcmp(a.data(), b.data(), count * 2) == 0;
  };

  bool same = true;
  for (const Cut cut : {Cut::kSplits, Cut::kTiles, Cut::kTurns}) same &= same_bits(decode(c, {.cut = cut}).out, got, got.size());
  expect(same, c.name() + ": the same bits however it is cut");

  const DeviceArray<__nv_bfloat16> finished(c.query);
  cuda::QueryParams finish{.tokens = c.batch.tokens(), .heads = spec.heads, .query = finished};
  finish.rope = c.batch.view().rope_plain;
  cuda::run_finish_queries(finish, nullptr);
  sync("finish_queries");
  same = true;
  for (const Cut cut : {Cut::kSplits, Cut::kTiles}) {
    const auto raw = decode(c, {.cut = cut, .raw = true}).out, done = decode(c, {.cut = cut, .query = finished}).out;
    same &= same_bits(raw, done, raw.size());
  }
  expect(same, c.name() + ": raw queries are finished to the bit");

  const DeviceArray<__nv_bfloat16> rounded(got);
  cuda::run_quantise({.rows = static_cast<int>(got.size() / kHeadDim), .cols = kHeadDim, .ldx = kHeadDim, .x = rounded,
                      .y = rounded});
  sync("quantise");
  const auto wanted = rounded.download();
  same = true;
  for (const Cut cut : {Cut::kSplits, Cut::kTiles})
    same &= same_bits(decode(c, {.cut = cut, .quantise = true}).out, wanted, wanted.size());
  expect(same, c.name() + ": quantised as products do, to the bit");

  const FakeBatch alone(c.batch, 1);
  const size_t first = static_cast<size_t>(alone.tokens()) * spec.heads * kHeadDim;
  expect(same_bits(decode(c, {.batch = &alone}).out, got, first), c.name() + ": the first row alone gives the same bits");
}

/// Entries that are all kept need no selection.
void check_all_kept(RowFormat format) {
  const AttentionCase c({LayerKind::kCsa, format, 24, 512, {{1500, 3}, {2040, 2}, {2, 1}}});
  std::vector<int32_t> every(static_cast<size_t>(c.batch.tokens()) * c.spec.topk);
  for (size_t i = 0; i < every.size(); ++i) every[i] = static_cast<int32_t>(i % static_cast<size_t>(c.spec.topk));
  const DeviceArray<int32_t> selection(every);
  bool same = true;
  for (const Cut cut : {Cut::kSplits, Cut::kTiles}) {
    const auto want = decode(c, {.cut = cut, .selection = selection}).out, got = decode(c, {.cut = cut, .all_kept = true}).out;
    same &= std::memcmp(got.data(), want.data(), got.size() * 2) == 0;
  }
  expect(same, c.name() + ": without a selection all entries are kept, to the bit");
}

void bench_one(LayerKind kind, int heads, int context, int tokens) {
  const AttentionCase c({.kind = kind, .format = RowFormat::kFp8, .heads = heads, .topk = 512,
                         .rows = {{context - tokens, tokens}}, .window_blocks = 4, .context_blocks = 40});
  const auto time = [&](Cut cut) { return decode(c, {.cut = cut, .timed = true}).microseconds; };
  const char* name = kind == LayerKind::kSwa ? "swa" : kind == LayerKind::kCsa ? "csa" : "hca";
  std::printf("  decode %s fp8 rows, 1 x %d tokens, %d heads, context %6d: %6.1f us, by splits %6.1f, by tiles %6.1f\n", name,
              tokens, heads, context, time(Cut::kProduct), time(Cut::kSplits), time(Cut::kTiles));
}

void bench(RowFormat format, int rows) {
  const int heads = 32, topk = 512, context = 16384;
  std::vector<RowSpec> specs;
  for (int r = 0; r < rows; ++r) specs.push_back({context - 3 - r, 3});
  const AttentionCase c({.kind = LayerKind::kCsa, .format = format, .heads = heads, .topk = topk, .rows = specs,
                         .window_blocks = 2 * rows + 2, .context_blocks = 1024});
  const double us = decode(c, {.timed = true}).microseconds;
  const double bytes = static_cast<double>(c.batch.tokens()) * (topk + kWindow) * (format == RowFormat::kFp8 ? 584 : 1024);
  std::printf("  decode csa %s rows, %3d sequences x 3 tokens, 512 + 128, 32 heads: %8.1f us %8.1f GB/s of rows\n",
              format == RowFormat::kFp8 ? "fp8 " : "bf16", rows, us, bytes / us * 1e-3);
}

}  // namespace

int main(int argc, char** argv) {
  const bool timed = start("sparse_decode", argc, argv);
  for (const RowFormat format : {RowFormat::kBF16, RowFormat::kFp8}) {
    check_case({LayerKind::kCsa, format, 32, 512, {{1500, 3}, {700, 1}, {0, 2}}});
    check_case({LayerKind::kCsa, format, 8, 16, {{5, 3}, {300, 3}}});
    check_case({LayerKind::kCsa, format, 8, 512, {{1500, 3}, {2, 1}}, Chosen::kNone});  // no entry is chosen
    check_case({LayerKind::kCsa, format, 40, 100, {{500, 3}, {40, 1}}});
    check_case({LayerKind::kHca, format, 40, 0, {{1000, 3}, {126, 1}, {80000, 2}, {0, 1}}});
    check_case({LayerKind::kHca, format, 64, 0, {{1000, 3}, {126, 3}, {6000, 1}, {524285, 3}}});
    check_case({LayerKind::kCsa, format, 32, 512, {{524285, 3}}});
    check_case({LayerKind::kSwa, format, 20, 0, {{126, 3}, {0, 1}}});
    check_case({LayerKind::kSwa, format, 2, 0, {{3, 1}}});
    check_all_kept(format);
  }
  if (timed) {
    for (const int heads : {32, 64})
      for (const int tokens : {1, 3, 5}) {
        bench_one(LayerKind::kSwa, heads, 4491, tokens);
        bench_one(LayerKind::kCsa, heads, 4491, tokens);
        bench_one(LayerKind::kHca, heads, 4491, tokens);
        bench_one(LayerKind::kHca, heads, 131072, tokens);
      }
    for (const RowFormat format : {RowFormat::kBF16, RowFormat::kFp8})
      for (const int rows : {1, 8, 64}) bench(format, rows);
  }
  return finish("sparse_decode");
}
