// SPDX-License-Identifier: MIT
#include "linear.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "number_formats.h"

namespace twelvex::cpu {

namespace {

constexpr int kRowChunk = 96;   // rows of x of one work item: eight tiles of twelve, 147 KiB at 384 inputs
constexpr int kFewRows = 12;    // one tile: every weight is read once
constexpr int kPanelGroup = 4;  // panels of one work item at most

int64_t panels_of(int64_t rows) { return (rows + kPanel - 1) / kPanel; }

void read_fp8_row(const MatrixView& view, int64_t row, float* out) {
  const uint8_t* codes = view.data + static_cast<size_t>(row) * view.row_bytes;
  const uint8_t* scales = view.scale + static_cast<size_t>(row / 128) * view.scale_row_bytes;
  for (int64_t c = 0; c < view.cols; ++c) out[c] = e4m3_to_float(codes[c]) * e8m0_to_float(scales[c / 128]);
}

void read_fp4_row(const MatrixView& view, int64_t row, float* out) {
  const uint8_t* pairs = view.data + static_cast<size_t>(row) * view.row_bytes;
  const uint8_t* scales = view.scale + static_cast<size_t>(row) * view.scale_row_bytes;
  for (int64_t c = 0; c < view.cols; ++c) {
    const uint8_t nibble = (c & 1) != 0 ? pairs[c / 2] >> 4 : pairs[c / 2] & 15;
    out[c] = e2m1_to_float(nibble) * e8m0_to_float(scales[c / 32]);
  }
}

/// Writes `values` [cols] as output `lane` of a panel.
void put_lane(void* panel, bool bf16, int lane, std::span<const float> values) {
  if (!bf16) {
    auto* floats = static_cast<float*>(panel);
    for (size_t k = 0; k < values.size(); ++k) floats[k * kPanel + static_cast<size_t>(lane)] = values[k];
    return;
  }
  // Word i of a k holds output i in its low half and output 16 + i in its high half.
  auto* words = static_cast<uint32_t*>(panel);
  const int shift = lane < 16 ? 0 : 16;
  for (size_t k = 0; k < values.size(); ++k) {
    words[k * 16 + static_cast<size_t>(lane % 16)] |= static_cast<uint32_t>(float_to_bf16(values[k])) << shift;
  }
}

bool quantised(WeightFormat format) { return format == WeightFormat::kFp8Block128 || format == WeightFormat::kFp4Group32; }

Linear empty_linear(const MatrixView& like, int64_t rows, int64_t cols) {
  Linear linear;
  linear.format = like.format == WeightFormat::kF32 ? WeightFormat::kF32 : WeightFormat::kBF16;
  linear.rows = rows;
  linear.cols = cols;
  return linear;
}

void* panel_at(const Linear& linear, int64_t panel) {
  return static_cast<uint8_t*>(linear.data) + static_cast<size_t>(panel) * panel_bytes(linear);
}

void mark_quantised(Linear& linear, WeightFormat format) {
  if (quantised(format)) linear.scale = linear.data;
}

}  // namespace

size_t panel_bytes(const Linear& linear) {
  return static_cast<size_t>(linear.cols) * kPanel * (linear.format == WeightFormat::kF32 ? 4 : 2);
}

void read_row(const MatrixView& view, int64_t row, float* out) {
  const uint8_t* data = view.data + static_cast<size_t>(row) * view.row_bytes;
  switch (view.format) {
    case WeightFormat::kF32:
      std::memcpy(out, data, static_cast<size_t>(view.cols) * 4);
      return;
    case WeightFormat::kBF16:
      for (int64_t c = 0; c < view.cols; ++c) {
        uint16_t bits;
        std::memcpy(&bits, data + c * 2, 2);
        out[c] = bf16_to_float(bits);
      }
      return;
    case WeightFormat::kFp8Block128:
      return read_fp8_row(view, row, out);
    case WeightFormat::kFp4Group32:
      return read_fp4_row(view, row, out);
  }
}

Linear pack(Heap& heap, const MatrixView& view) {
  Linear linear = empty_linear(view, view.rows, view.cols);
  linear.data = heap.bytes(static_cast<size_t>(panels_of(view.rows)) * panel_bytes(linear));
  mark_quantised(linear, view.format);
  std::vector<float> values(static_cast<size_t>(view.cols));
  for (int64_t row = 0; row < view.rows; ++row) {
    read_row(view, row, values.data());
    put_lane(panel_at(linear, row / kPanel), linear.format == WeightFormat::kBF16, static_cast<int>(row % kPanel), values);
  }
  return linear;
}

namespace {

/// A part of the down projections, experts behind each other.
Linear pack_down(Heap& heap, std::span<const ExpertView> views, size_t part) {
  const MatrixView& first = views[0].w2[part];
  const int64_t panels = panels_of(first.rows);
  Linear down = empty_linear(first, panels * kPanel, first.cols);
  down.data = heap.bytes(views.size() * static_cast<size_t>(panels) * panel_bytes(down));
  mark_quantised(down, first.format);
  std::vector<float> values(static_cast<size_t>(first.cols));
  for (size_t e = 0; e < views.size(); ++e) {
    for (int64_t row = 0; row < first.rows; ++row) {
      read_row(views[e].w2[part], row, values.data());
      void* panel = panel_at(down, static_cast<int64_t>(e) * panels + row / kPanel);
      put_lane(panel, down.format == WeightFormat::kBF16, static_cast<int>(row % kPanel), values);
    }
  }
  return down;
}

}  // namespace

Experts pack_experts(Heap& heap, std::span<const ExpertView> views) {
  Experts experts;
  experts.count = static_cast<int>(views.size());
  if (views.empty()) return experts;
  const MatrixView& gate = views[0].w1;
  const int64_t width = gate.rows, gate_panels = (width + 15) / 16;
  experts.gate_up = empty_linear(gate, gate_panels * kPanel, gate.cols);
  experts.gate_up.data = heap.bytes(views.size() * static_cast<size_t>(gate_panels) * panel_bytes(experts.gate_up));
  mark_quantised(experts.gate_up, gate.format);
  const bool bf16 = experts.gate_up.format == WeightFormat::kBF16;
  std::vector<float> in(static_cast<size_t>(gate.cols));
  for (int64_t e = 0; e < experts.count; ++e) {
    const ExpertView& view = views[static_cast<size_t>(e)];
    for (int64_t row = 0; row < width; ++row) {
      void* panel = panel_at(experts.gate_up, e * gate_panels + row / 16);
      read_row(view.w1, row, in.data());
      put_lane(panel, bf16, static_cast<int>(row % 16), in);
      read_row(view.w3, row, in.data());
      put_lane(panel, bf16, static_cast<int>(16 + row % 16), in);
    }
  }
  for (size_t part = 0; part < kParts; ++part) {
    if (views[0].w2[part].cols > 0) experts.down[part] = pack_down(heap, views, part);
  }
  return experts;
}

void unpack_row(const Linear& linear, int64_t row, float* out) {
  const void* panel = panel_at(linear, row / kPanel);
  const auto lane = static_cast<size_t>(row % kPanel);
  for (size_t k = 0; k < static_cast<size_t>(linear.cols); ++k) {
    if (linear.format == WeightFormat::kF32) {
      out[k] = static_cast<const float*>(panel)[k * kPanel + lane];
    } else {
      const uint32_t word = static_cast<const uint32_t*>(panel)[k * 16 + lane % 16];
      out[k] = bf16_to_float(static_cast<uint16_t>(lane < 16 ? word : word >> 16));
    }
  }
}

GemmArgs gemm_args(const Linear& linear) {
  GemmArgs args;
  args.k = static_cast<int>(linear.cols);
  args.panels = linear.data;
  args.bf16 = linear.format == WeightFormat::kBF16;
  args.panel_count = static_cast<int>(panels_of(linear.rows));
  args.columns = linear.rows;
  return args;
}

GemmArgs panel_slice(const GemmArgs& whole, int panel, int panels) {
  GemmArgs part = whole;
  const size_t bytes = static_cast<size_t>(whole.k) * kPanel * (whole.bf16 ? 2 : 4);
  const int width = whole.store == GemmStore::kGated ? kPanel / 2 : kPanel;
  part.panels = static_cast<const uint8_t*>(whole.panels) + static_cast<size_t>(panel) * bytes;
  part.panel_count = panels;
  part.columns = whole.columns - static_cast<int64_t>(panel) * kPanel;
  part.out = whole.out + static_cast<int64_t>(panel) * width;
  return part;
}

namespace {

/// The part of a product that is rows [row, row + rows).
GemmArgs row_slice(const GemmArgs& whole, int row, int rows) {
  GemmArgs part = whole;
  part.rows = rows;
  part.x = whole.x + static_cast<size_t>(row) * whole.x_stride;
  if (whole.out_rows != nullptr) {
    part.out_rows = whole.out_rows + row;
  } else {
    part.out = whole.out + static_cast<size_t>(row) * whole.out_stride;
  }
  if (whole.row_weight != nullptr) part.row_weight = whole.row_weight + row;
  return part;
}

int chunks_of(int rows) { return (rows + kRowChunk - 1) / kRowChunk; }
int groups_of(int panels, int group) { return (panels + group - 1) / group; }

struct GemmBatch {
  ThreadPool& pool;
  const Kernels& kernels;
  std::span<const GemmJob> jobs;
};

/// Few rows: the time goes into reading weights, so all panels are cut into equal parts, which all threads end together.
void run_few_rows(const GemmBatch& batch, int panels) {
  const int parts = std::min(2 * batch.pool.threads(), panels);
  batch.pool.run(parts, [&](int item, int) {
    int begin = static_cast<int>(int64_t{panels} * item / parts), end = static_cast<int>(int64_t{panels} * (item + 1) / parts);
    for (const GemmJob& job : batch.jobs) {
      const int first = std::clamp(begin, 0, job.panel_count), last = std::clamp(end, 0, job.panel_count);
      if (first < last && job.rows > 0) batch.kernels.gemm(panel_slice(job, first, last - first));
      begin -= job.panel_count;
      end -= job.panel_count;
    }
  });
}

/// Many rows: parts of rows and panels that stay in the caches, taken as threads get free.
void run_many_rows(const GemmBatch& batch) {
  int64_t tiles = 0;
  for (const GemmJob& job : batch.jobs) tiles += static_cast<int64_t>(chunks_of(job.rows)) * job.panel_count;
  int group = kPanelGroup;
  while (group > 1 && tiles < static_cast<int64_t>(group) * 4 * batch.pool.threads()) group /= 2;
  int items = 0;
  for (const GemmJob& job : batch.jobs) items += chunks_of(job.rows) * groups_of(job.panel_count, group);
  batch.pool.run(items, [&](int item, int) {
    for (const GemmJob& job : batch.jobs) {
      const int groups = groups_of(job.panel_count, group), own = chunks_of(job.rows) * groups;
      if (item >= own) {
        item -= own;
        continue;
      }
      const int row = item / groups * kRowChunk, panel = item % groups * group;
      const GemmArgs part = panel_slice(job, panel, std::min(group, job.panel_count - panel));
      batch.kernels.gemm(row_slice(part, row, std::min(kRowChunk, job.rows - row)));
      return;
    }
  });
}

}  // namespace

void run_gemms(ThreadPool& pool, const Kernels& kernels, std::span<const GemmJob> jobs) {
  int panels = 0, rows = 0;
  for (const GemmJob& job : jobs) {
    panels += job.panel_count;
    rows = std::max(rows, job.rows);
  }
  rows <= kFewRows ? run_few_rows({pool, kernels, jobs}, panels) : run_many_rows({pool, kernels, jobs});
}

}  // namespace twelvex::cpu
