// SPDX-License-Identifier: MIT
// KV gather: every workspace row equals its cache row; attention over the workspace and over the pages agree, bit for bit where
// both take the same tiles.
#include "attention/gather.h"

#include "attention/sparse_prefill.h"
#include "attention_reference.h"
#include "common/device.h"

using namespace twelvex;
using namespace twelvex::test;

namespace {

struct Workspace {
  std::vector<int32_t> compressed, window, start;
  int rows = 0;
};

Workspace lay_out(const FakeBatch& batch, int ratio) {
  Workspace w;
  for (const RowSpec& r : batch.specs) {
    const cuda::GatherShape shape = cuda::gather_shape(r.position, r.count, ratio, 0);
    w.compressed.push_back(w.rows);
    w.window.push_back(w.rows + shape.compressed);
    w.start.push_back(shape.window_start);
    w.rows += shape.compressed + shape.window;
  }
  return w;
}

void check_case(LayerKind kind, RowFormat format, const std::vector<RowSpec>& rows, bool timed) {
  const int ratio = kind == LayerKind::kCsa ? 4 : kind == LayerKind::kHca ? 128 : 0;
  const AttentionCase c({.kind = kind, .format = format, .heads = 8, .topk = 64, .rows = rows, .window_blocks = 160,
                         .context_blocks = 600});
  const auto& [batch, window, compressed] = std::tie(c.batch, c.window, c.compressed);
  const Workspace shape = lay_out(batch, ratio);
  const DeviceArray<int32_t> at_compressed(shape.compressed), at_window(shape.window), start(shape.start);
  const DeviceArray<__nv_bfloat16> workspace(static_cast<size_t>(shape.rows) * kHeadDim);
  workspace.poison();
  cuda::GatherParams p;
  p.batch = batch.view();
  p.kv = {window.pages(), compressed.pages(), reinterpret_cast<const uint8_t*>(workspace.get()), at_compressed, at_window, start};
  p.workspace = reinterpret_cast<uint8_t*>(workspace.get());
  p.rows = static_cast<int>(rows.size());
  p.ratio = ratio;
  cuda::run_gather(p, nullptr);
  sync("gather");
  const auto got = workspace.download();
  size_t wrong = 0;
  for (size_t r = 0; r < rows.size(); ++r) {
    const int last = rows[r].position + rows[r].count - 1;
    const auto compare = [&](int row, const float* want) {
      for (int d = 0; d < kHeadDim; ++d) wrong += __bfloat162float(got[static_cast<size_t>(row) * kHeadDim + d]) != want[d];
    };
    for (int e = 0; ratio && e < (last + 1) / ratio; ++e)
      compare(shape.compressed[r] + e, batch.compressed_row(compressed, r, e, c.rows_per_block));
    for (int q = shape.start[r]; q <= last; ++q) compare(shape.window[r] + q - shape.start[r], batch.window_row(window, r, q));
  }
  char text[128];
  std::snprintf(text, sizeof text, "gather ratio %d %s, %zu rows", ratio, format == RowFormat::kFp8 ? "fp8" : "bf16",
                rows.size());
  expect(wrong == 0, std::string(text) + ": exact");

  const DeviceArray<__nv_bfloat16> a(c.query.size()), b(c.query.size());
  auto attend = c.params<cuda::SparsePrefillParams>(a);
  attend.kv = p.kv;
  cuda::run_sparse_prefill(attend, nullptr);
  attend.kv.workspace = nullptr;
  attend.attended = b;
  cuda::run_sparse_prefill(attend, nullptr);
  sync("attention");
  const auto x = a.download(), y = b.download();
  const std::string what = std::string(text) + ": attention over workspace and pages agree";
  // sm_90 takes 64 workspace rows at a time but 32 fp8 rows of a page, so its sums are split elsewhere.
  const cuda::DeviceInfo& device = cuda::device_info();
  const auto tile = [&](bool fp8_pages) {
    return cuda::plan_sparse_prefill(attend.tokens, {attend.heads}, device.multiprocessors, device.arch, fp8_pages).tile;
  };
  if (tile(false) == tile(format == RowFormat::kFp8)) {
    expect(std::memcmp(x.data(), y.data(), x.size() * 2) == 0, what);
  } else {
    Difference difference;
    for (size_t i = 0; i < x.size(); ++i) difference.add(__bfloat162float(y[i]), __bfloat162float(x[i]));
    expect_close(difference, 6e-3, what);
  }
  if (timed) {
    const double us = time_us([&] { cuda::run_gather(p, nullptr); });
    const double bytes = static_cast<double>(shape.rows) * (1024 + (format == RowFormat::kFp8 ? 584 : 1024));
    std::printf("  gather %s %6d rows: %8.1f us %8.1f GB/s read and written\n", format == RowFormat::kFp8 ? "fp8 " : "bf16",
                shape.rows, us, bytes / us * 1e-3);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const bool timed = start("gather", argc, argv);
  for (const RowFormat format : {RowFormat::kBF16, RowFormat::kFp8}) {
    check_case(LayerKind::kCsa, format, {{1500, 37}, {0, 3}, {130, 1}}, false);
    check_case(LayerKind::kHca, format, {{1000, 300}, {0, 140}}, false);
    check_case(LayerKind::kSwa, format, {{0, 150}, {300, 5}}, false);
    if (timed) check_case(LayerKind::kCsa, format, {{63000, 543}}, true);
  }
  return finish("gather");
}
