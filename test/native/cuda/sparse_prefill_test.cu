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

/// Cells straight from the kernel are those that the quantiser makes of its bf16 output.
void check_cells(cuda::SparsePrefillParams p, const std::vector<__nv_bfloat16>& output, const std::string& what) {
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
  expect(same, what + ": the same as cells");
}

void check_case(const AttentionSpec& spec) {
  const AttentionCase c(spec);
  const DeviceArray<__nv_bfloat16> out(c.query.size());
  out.poison();
  const auto p = c.params<cuda::SparsePrefillParams>(out);
  cuda::run_sparse_prefill(p, nullptr);
  sync("sparse_prefill");
  const auto got = out.download();
  c.check(got, 60);
  check_cells(p, got, c.name());
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
  const AttentionCase c({.kind = LayerKind::kCsa, .format = format, .heads = heads, .topk = topk, .rows = {{position, tokens}},
                         .chosen = Chosen::kAll, .context_blocks = 128});
  const DeviceArray<__nv_bfloat16> out(c.query.size());
  const auto p = c.params<cuda::SparsePrefillParams>(out);
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
    check_case({LayerKind::kCsa, format, 32, 64, {{200, 4}}, Chosen::kNone});
    check_case({LayerKind::kHca, format, 64, 0, {{1000, 5}, {120, 20}}});
    check_case({LayerKind::kSwa, format, 20, 0, {{120, 20}, {300, 5}}});
    if (brief) continue;
    check_case({LayerKind::kCsa, format, 32, 512, {{1500, 37}}});
    check_case({LayerKind::kCsa, format, 32, 64, {{0, 300}, {130, 1}, {700, 65}}});
    check_case({LayerKind::kCsa, format, 8, 16, {{5, 200}, {0, 3}}});
    check_case({LayerKind::kCsa, format, 32, 64, {{200, 40}}, Chosen::kNone});
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
