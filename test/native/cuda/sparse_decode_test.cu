// SPDX-License-Identifier: MIT
// Sparse decode attention against double precision, and bit-equal results whatever the batch; --bench: GB/s of cache rows.
#include "attention/sparse_decode.h"

#include "attention_reference.h"
#include "elementwise/norm_rope.h"

using namespace twelvex;
using namespace twelvex::test;

namespace {

struct Run {
  std::vector<__nv_bfloat16> out;
  double microseconds = 0;
};

/// How the work is cut: as in the product, a block a split, a block a tile, or few blocks that take tiles in turn.
enum class Cut { kProduct, kSplits, kTiles, kTurns };

cuda::SparseDecodePlan plan_of(Cut cut, LayerKind kind, int topk, int context, int tokens, int heads) {
  const int processors = cut == Cut::kProduct ? cuda::device_info().multiprocessors : cut == Cut::kSplits ? 0 : 1 << 20;
  cuda::SparseDecodePlan plan = cuda::plan_sparse_decode(kind, topk, context, tokens, heads, processors);
  if (cut == Cut::kTurns && plan.spread) plan.blocks = std::min(plan.blocks, 3);
  return plan;
}

Run decode(const FakeBatch& batch, LayerKind kind, const FakePart& window, const FakePart& compressed, int heads, int topk,
           const std::vector<int32_t>& selection, const std::vector<__nv_bfloat16>& query, const std::vector<float>& sinks,
           bool timed, Cut cut = Cut::kProduct, bool raw = false) {
  int context = 0;
  for (const RowSpec& r : batch.specs) context = std::max(context, r.position + r.count);
  cuda::SparseDecodeParams p;
  p.plan = plan_of(cut, kind, topk, context, batch.tokens(), heads);
  ++p.plan.parts, ++p.plan.blocks;  // a graph's bounds are above what its steps need
  const size_t cells = static_cast<size_t>(batch.tokens()) * p.plan.parts * heads;
  const DeviceArray<int32_t> d_selection(selection);
  const DeviceArray<__nv_bfloat16> d_query(query), out(query.size());
  const DeviceArray<float> d_sinks(sinks), partial(cells * kHeadDim);
  const DeviceArray<float2> state(cells);
  out.poison(), partial.poison(), state.poison();
  p.batch = batch.view();
  p.kv.window = window.pages();
  p.kv.compressed = compressed.pages();
  p.kind = kind;
  p.heads = heads;
  p.topk = topk;
  p.query = d_query;
  p.selection = d_selection;
  p.sinks = d_sinks;
  p.rope = batch.view().rope_plain;
  p.partial = partial;
  p.state = state;
  p.attended = out;
  p.tokens = batch.tokens();
  p.raw_query = raw;
  cuda::run_sparse_decode(p, nullptr);
  sync("sparse_decode");
  Run run;
  run.out = out.download();
  p.rows_ready = p.query_ready = true;
  if (timed) run.microseconds = time_graph_us(40, [&](int, cudaStream_t queue) { cuda::run_sparse_decode(p, queue); });
  return run;
}

void check_case(LayerKind kind, RowFormat format, int heads, int topk, const std::vector<RowSpec>& rows, bool none = false) {
  const int per_block = kind == LayerKind::kHca ? 1 : 32;
  const FakeBatch batch(rows, 40, 80);
  const FakePart window(format, 40, kBlockTokens), compressed(format, 80, per_block);
  const auto selection = random_selection(batch, topk, none);
  const auto query = random_bf16(static_cast<size_t>(batch.tokens()) * heads * kHeadDim, 1.5f);
  const auto sinks = random_f32(heads);
  const auto got = decode(batch, kind, window, compressed, heads, topk, selection, query, sinks, false).out;
  Difference difference;
  for (int n = 0; n < 40; ++n) {
    const int t = n % batch.tokens(), h = below(heads);
    const auto rows_of = candidate_rows(batch, kind, window, compressed, per_block, selection, topk, t);
    const size_t at = (static_cast<size_t>(t) * heads + h) * kHeadDim;
    const auto ref = reference_attention(query.data() + at, rows_of, sinks[h], batch.rope.data() + t * 32, 0.04419417382415922);
    for (int d = 0; d < kHeadDim; ++d) difference.add(__bfloat162float(got[at + d]), ref[d]);
  }
  bool written = true;
  for (const auto& x : got) written &= std::isfinite(__bfloat162float(x));
  char text[160];
  std::snprintf(text, sizeof text, "%s %s rows, %d heads, top-k %d, %d tokens",
                kind == LayerKind::kSwa ? "swa" : kind == LayerKind::kCsa ? "csa" : "hca",
                format == RowFormat::kFp8 ? "fp8" : "bf16", heads, topk, batch.tokens());
  expect_close(difference, 6e-3, text);
  expect(written, std::string(text) + ": every output written");

  bool same = true;
  for (const Cut cut : {Cut::kSplits, Cut::kTiles, Cut::kTurns}) {
    const auto other = decode(batch, kind, window, compressed, heads, topk, selection, query, sinks, false, cut).out;
    same &= std::memcmp(other.data(), got.data(), got.size() * 2) == 0;
  }
  expect(same, std::string(text) + ": the same bits however it is cut");

  const DeviceArray<__nv_bfloat16> finished(query);
  cuda::QueryParams finish{.tokens = batch.tokens(), .heads = heads, .query = finished};
  finish.rope = batch.view().rope_plain;
  cuda::run_finish_queries(finish, nullptr);
  sync("finish_queries");
  same = true;
  for (const Cut cut : {Cut::kSplits, Cut::kTiles}) {
    const auto raw = decode(batch, kind, window, compressed, heads, topk, selection, query, sinks, false, cut, true).out;
    const auto done = decode(batch, kind, window, compressed, heads, topk, selection, finished.download(), sinks, false, cut).out;
    same &= std::memcmp(raw.data(), done.data(), raw.size() * 2) == 0;
  }
  expect(same, std::string(text) + ": raw queries are finished to the bit");

  // The first row alone: the same bits.
  const FakeBatch alone(batch, 1);
  const int n = rows[0].count;
  const auto cut = [&](const auto& v, size_t width) { return std::decay_t<decltype(v)>(v.begin(), v.begin() + n * width); };
  const auto single = decode(alone, kind, window, compressed, heads, topk, cut(selection, topk),
                             cut(query, static_cast<size_t>(heads) * kHeadDim), sinks, false)
                          .out;
  expect(std::memcmp(single.data(), got.data(), single.size() * 2) == 0,
         std::string(text) + ": the first row alone gives the same bits");
}

void bench_one(LayerKind kind, int heads, int context, int tokens) {
  const int topk = 512, per_block = kind == LayerKind::kHca ? 1 : 32;
  const FakeBatch batch({{context - tokens, tokens}}, 4, 40);
  const FakePart window(RowFormat::kFp8, 4, kBlockTokens), compressed(RowFormat::kFp8, 40, per_block);
  const auto selection = random_selection(batch, topk, false);
  const auto query = random_bf16(static_cast<size_t>(tokens) * heads * kHeadDim);
  const auto time = [&](Cut cut) {
    return decode(batch, kind, window, compressed, heads, topk, selection, query, random_f32(heads), true, cut).microseconds;
  };
  const char* name = kind == LayerKind::kSwa ? "swa" : kind == LayerKind::kCsa ? "csa" : "hca";
  std::printf("  decode %s fp8 rows, 1 x %d tokens, %d heads, context %6d: %6.1f us, by splits %6.1f, by tiles %6.1f\n", name,
              tokens, heads, context, time(Cut::kProduct), time(Cut::kSplits), time(Cut::kTiles));
}

void bench(RowFormat format, int rows) {
  const int heads = 32, topk = 512, context = 16384;
  std::vector<RowSpec> specs;
  for (int r = 0; r < rows; ++r) specs.push_back({context - 3 - r, 3});
  const FakeBatch batch(specs, 2 * rows + 2, 1024);
  const FakePart window(format, 2 * rows + 2, kBlockTokens), compressed(format, 1024, 32);
  const auto selection = random_selection(batch, topk, false);
  const auto query = random_bf16(static_cast<size_t>(batch.tokens()) * heads * kHeadDim);
  const Run run = decode(batch, LayerKind::kCsa, window, compressed, heads, topk, selection, query, random_f32(heads), true);
  const double bytes = static_cast<double>(batch.tokens()) * (topk + kWindow) * (format == RowFormat::kFp8 ? 584 : 1024);
  std::printf("  decode csa %s rows, %3d sequences x 3 tokens, 512 + 128, 32 heads: %8.1f us %8.1f GB/s of rows\n",
              format == RowFormat::kFp8 ? "fp8 " : "bf16", rows, run.microseconds, bytes / run.microseconds * 1e-3);
}

}  // namespace

int main(int argc, char** argv) {
  const bool timed = start("sparse_decode", argc, argv);
  for (const RowFormat format : {RowFormat::kBF16, RowFormat::kFp8}) {
    check_case(LayerKind::kCsa, format, 32, 512, {{1500, 3}, {700, 1}, {0, 2}});
    check_case(LayerKind::kCsa, format, 8, 16, {{5, 3}, {300, 3}});
    check_case(LayerKind::kCsa, format, 8, 512, {{1500, 3}, {2, 1}}, true);  // no entry is chosen
    check_case(LayerKind::kHca, format, 64, 0, {{1000, 3}, {126, 3}, {6000, 1}, {524285, 3}});
    check_case(LayerKind::kCsa, format, 32, 512, {{524285, 3}});
    check_case(LayerKind::kSwa, format, 20, 0, {{126, 3}, {0, 1}});
    check_case(LayerKind::kSwa, format, 2, 0, {{3, 1}});
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
