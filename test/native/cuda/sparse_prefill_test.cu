// SPDX-License-Identifier: MIT
// Sparse prefill attention against double precision; --bench: TFLOP/s at 512 + 128 candidates, 32 heads, 4,096 tokens.
#include "attention/sparse_prefill.h"

#include "attention/sparse_prefill.cuh"
#include "attention_reference.h"
#include "common/device.h"
#include "gemm/fp8_cells.h"

using namespace twelvex;
using namespace twelvex::test;

namespace {

const char* kind_name(LayerKind kind) { return kind == LayerKind::kSwa ? "swa" : kind == LayerKind::kCsa ? "csa" : "hca"; }

struct Case {
  LayerKind kind;
  RowFormat format;
  int heads, topk;
  std::vector<RowSpec> rows;
  bool all_invalid = false;
};

/// Cells straight from the kernel are those that the quantiser makes of its bf16 output.
void check_cells(cuda::SparsePrefillParams p, const std::vector<__nv_bfloat16>& output, const char* what) {
  const int cols = p.heads * kHeadDim;
  const DeviceArray<__nv_bfloat16> want(output), got(output.size());
  got.poison();
  cuda::run_quantise_fp8({.rows = p.tokens, .cols = cols, .ldx = cols, .x = want, .y = want});
  p.cells = true;
  p.attended = got;
  cuda::run_sparse_prefill(p, nullptr);
  sync("cells");
  const auto a = want.download(), b = got.download();
  bool same = true;
  for (size_t at = 0; at < a.size(); at += cuda::kScaleBlock) same &= std::memcmp(&a[at], &b[at], cuda::kFp8CellScale + 4) == 0;
  expect(same, std::string(what) + ": the same as cells");
}

void check_case(const Case& c) {
  const int per_block = c.kind == LayerKind::kHca ? 1 : 32;
  const FakeBatch batch(c.rows, 40, 60);
  const FakePart window(c.format, 40, kBlockTokens), compressed(c.format, 60, per_block);
  const auto selection = random_selection(batch, c.topk, c.all_invalid);
  const auto query = random_bf16(static_cast<size_t>(batch.tokens()) * c.heads * kHeadDim, 1.5f);
  const auto sinks = random_f32(c.heads);
  const DeviceArray<int32_t> d_selection(selection);
  const DeviceArray<__nv_bfloat16> d_query(query), out(query.size());
  const DeviceArray<float> d_sinks(sinks);
  out.poison();
  cuda::SparsePrefillParams p;
  p.batch = batch.view();
  p.kv.window = window.pages();
  p.kv.compressed = compressed.pages();
  p.kind = c.kind;
  p.heads = c.heads;
  p.topk = c.topk;
  p.query = d_query;
  p.selection = d_selection;
  p.sinks = d_sinks;
  p.rope = batch.view().rope_plain;
  p.attended = out;
  p.tokens = batch.tokens();
  cuda::run_sparse_prefill(p, nullptr);
  sync("sparse_prefill");
  const auto got = out.download();
  Difference difference;
  for (int n = 0; n < 60; ++n) {  // sampled tokens and heads, the first and last tokens always
    const int t = n == 0 ? 0 : n == 1 ? batch.tokens() - 1 : below(batch.tokens()), h = below(c.heads);
    const auto rows = candidate_rows(batch, c.kind, window, compressed, per_block, selection, c.topk, t);
    const size_t at = (static_cast<size_t>(t) * c.heads + h) * kHeadDim;
    const auto ref = reference_attention(query.data() + at, rows, sinks[h], batch.rope.data() + t * 32, p.scale);
    for (int d = 0; d < kHeadDim; ++d) difference.add(__bfloat162float(got[at + d]), ref[d]);
  }
  bool written = true;
  for (const auto& x : got) written &= std::isfinite(__bfloat162float(x));
  char text[160];
  std::snprintf(text, sizeof text, "%s %s rows, %d heads, top-k %d, %d tokens%s", kind_name(c.kind),
                c.format == RowFormat::kFp8 ? "fp8" : "bf16", c.heads, c.topk, batch.tokens(),
                c.all_invalid ? ", all invalid" : "");
  expect_close(difference, 6e-3, text);
  expect(written, std::string(text) + ": every output written");
  check_cells(p, got, text);
}

// ---------------------------------------------------------------- timing

template <class C>
void time_config(const char* name, const cuda::SparsePrefillParams& p, double flops) {
  constexpr int kBytes = sizeof(cuda::prefill::SmemPlan<C>);
  cuda::allow_shared_bytes(cuda::prefill::sparse_prefill_kernel<C>, kBytes);
  const int blocks = cuda::device_info().multiprocessors;
  const double us = time_us([&] {
    cuda::prefill::sparse_prefill_kernel<C><<<blocks, C::threads, kBytes>>>(p);
    cuda::check_launch(name);
  });
  std::printf("  %-46s %9.1f us %8.1f TFLOP/s\n", name, us, flops / us * 1e-6);
}

void bench(RowFormat format) {
  const int tokens = 4096, heads = 32, topk = 512, position = 16384 - tokens;
  const FakeBatch batch({{position, tokens}}, 40, 128);
  const FakePart window(format, 40, kBlockTokens), compressed(format, 128, 32);
  const auto selection = random_selection(batch, topk, false);
  auto full = selection;
  for (int t = 0; t < tokens; ++t)  // every token has all 512
    for (int i = 0; i < topk; ++i)
      if (full[static_cast<size_t>(t) * topk + i] < 0) full[static_cast<size_t>(t) * topk + i] = below(position / 4);
  const DeviceArray<int32_t> d_selection(full);
  const DeviceArray<__nv_bfloat16> query(random_bf16(static_cast<size_t>(tokens) * heads * kHeadDim)), out(query.size());
  const DeviceArray<float> sinks(random_f32(heads));
  cuda::SparsePrefillParams p;
  p.batch = batch.view();
  p.kv.window = window.pages();
  p.kv.compressed = compressed.pages();
  p.kind = LayerKind::kCsa;
  p.heads = heads;
  p.topk = topk;
  p.query = query;
  p.selection = d_selection;
  p.sinks = sinks;
  p.rope = batch.view().rope_plain;
  p.attended = out;
  p.tokens = tokens;
  const double flops = 4.0 * heads * kHeadDim * (topk + kWindow) * tokens;
  std::printf("T %d, H %d, %d + %d candidates, %s rows from pages\n", tokens, heads, topk, kWindow,
              format == RowFormat::kFp8 ? "fp8" : "bf16");
  const double us = time_us([&] { cuda::run_sparse_prefill(p, nullptr); });
  std::printf("  %-46s %9.1f us %8.1f TFLOP/s\n", "product", us, flops / us * 1e-6);
  using namespace cuda::prefill;
  if (format == RowFormat::kBF16) {
    time_config<Config<32, 32, 2, false>>("tile 32, 2 stages (99 KiB)", p, flops);
    if (cuda::device_info().shared_bytes > 200 * 1024) {
      time_config<Config<32, 32, 4, false>>("tile 32, 4 stages", p, flops);
      time_config<Config<32, 64, 2, false>>("tile 64, 2 stages", p, flops);
    }
  } else {
    time_config<Config<32, 32, 2, true>>("tile 32, 2 stages (99 KiB)", p, flops);
    if (cuda::device_info().shared_bytes > 200 * 1024) time_config<Config<32, 32, 4, true>>("tile 32, 4 stages", p, flops);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const bool timed = start("sparse_prefill", argc, argv);
  for (const RowFormat format : {RowFormat::kBF16, RowFormat::kFp8}) {
    check_case({LayerKind::kCsa, format, 32, 512, {{1500, 5}}});
    check_case({LayerKind::kCsa, format, 8, 16, {{5, 20}, {0, 3}}});
    check_case({LayerKind::kCsa, format, 32, 64, {{200, 4}}, true});
    check_case({LayerKind::kHca, format, 64, 0, {{1000, 5}, {120, 20}}});
    check_case({LayerKind::kSwa, format, 20, 0, {{120, 20}, {300, 5}}});
    if (brief) continue;
    check_case({LayerKind::kCsa, format, 32, 512, {{1500, 37}}});
    check_case({LayerKind::kCsa, format, 32, 64, {{0, 300}, {130, 1}, {700, 65}}});
    check_case({LayerKind::kCsa, format, 8, 16, {{5, 200}, {0, 3}}});
    check_case({LayerKind::kCsa, format, 32, 64, {{200, 40}}, true});
    check_case({LayerKind::kHca, format, 64, 0, {{1000, 33}, {0, 140}}});
    check_case({LayerKind::kHca, format, 16, 0, {{2000, 17}}});
    check_case({LayerKind::kHca, format, 16, 0, {{524270, 18}}});  // 4,096 entries
    check_case({LayerKind::kCsa, format, 32, 512, {{524271, 17}}});
    check_case({LayerKind::kSwa, format, 20, 0, {{0, 150}, {300, 5}}});
    check_case({LayerKind::kSwa, format, 2, 0, {{127, 2}, {0, 1}}});
  }
  if (timed) {
    bench(RowFormat::kBF16);
    bench(RowFormat::kFp8);
  }
  return finish("sparse_prefill");
}
