// SPDX-License-Identifier: MIT
// Compressed entries against double precision, whatever the steps are; rings, tails and rows that resume behind a block.
#include "compressor/compressor.h"

#include "fake_cache.h"
#include "runtime/step.h"

using namespace twelvex;
using namespace twelvex::test;

namespace {

constexpr int kLength = 420;

cuda::RopeFrequencies frequencies() {
  cuda::RopeFrequencies f;
  for (int i = 0; i < 32; ++i) f.pair[i] = static_cast<float>(std::pow(160000.0, -i / 32.0));
  return f;
}

struct Compressor {
  int ratio, dim;
  int width() const { return ratio == 4 ? 2 * dim : dim; }
};

/// The sequence's projections and weights, in double.
struct Inputs {
  explicit Inputs(const Compressor& c)
      : kv(random_f32(static_cast<size_t>(kLength) * c.width())),
        gate(random_f32(kv.size())),
        ape(random_f32(static_cast<size_t>(c.ratio) * c.width(), 0.7f)),
        norm(random_f32(c.dim, 0.2f)) {
    for (float& x : norm) x += 1;
  }
  std::vector<float> kv, gate, ape, norm;
};

std::vector<double> reference_entry(const Compressor& c, const Inputs& in, int window) {
  std::vector<double> entry(c.dim);
  const int begin = window * c.ratio, width = c.width();
  for (int d = 0; d < c.dim; ++d) {
    std::vector<std::pair<double, double>> slots;
    const auto add = [&](int position, int channel) {
      slots.push_back({in.gate[static_cast<size_t>(position) * width + channel] +
                           static_cast<double>(in.ape[static_cast<size_t>(position % c.ratio) * width + channel]),
                       in.kv[static_cast<size_t>(position) * width + channel]});
    };
    if (c.ratio == 4 && window > 0)
      for (int i = 0; i < 4; ++i) add(begin - 4 + i, d);
    for (int i = 0; i < c.ratio; ++i) add(begin + i, c.ratio == 4 ? c.dim + d : d);
    double top = -1e30, sum = 0, value = 0;
    for (const auto& [g, v] : slots) top = std::max(top, g);
    for (const auto& [g, v] : slots) sum += std::exp(g - top), value += std::exp(g - top) * v;
    entry[d] = value / sum;
  }
  double squares = 0;
  for (const double x : entry) squares += x * x;
  const double factor = 1 / std::sqrt(squares / c.dim + 1e-6);
  for (int d = 0; d < c.dim; ++d) entry[d] *= factor * in.norm[d];
  const cuda::RopeFrequencies f = frequencies();
  for (int i = 0; i < 32; ++i) {
    const float angle = static_cast<float>(begin) * f.pair[i];
    const double co = std::cos(static_cast<double>(angle)), si = std::sin(static_cast<double>(angle));
    double &x = entry[c.dim - 64 + 2 * i], &y = entry[c.dim - 63 + 2 * i];
    const double a = x, b = y;
    x = a * co - b * si, y = b * co + a * si;
  }
  return entry;
}

/// Runs the sequence in steps; `resume` >= 0: the ring is wiped before the step that starts there, which resumes from tails.
void check_case(const Compressor& c, const std::vector<int>& steps, int resume) {
  const Inputs in(c);
  const int width = c.width(), rows = c.ratio == 4 ? 32 : 1, ring_rows = c.ratio == 4 ? kCsaRing : kHcaRing;
  const bool index = c.dim == kIndexDim;
  const size_t stride = row_block_bytes(RowFormat::kBF16, rows, index);
  const DeviceArray<uint8_t> entries(stride * 8), ring(static_cast<size_t>(3) * ring_rows * 2 * width * 4),
      tail(static_cast<size_t>(8) * 4 * 2 * width * 4);
  entries.poison(), ring.poison(), tail.poison();
  const DeviceArray<float> ape(in.ape), norm(in.norm);
  int position = 0;
  std::vector<int> tables(8);
  for (int i = 0; i < 8; ++i) tables[i] = (i * 5 + 3) % 8;
  for (size_t n = 0; position < kLength; ++n) {
    int count = std::min(steps[n % steps.size()], kLength - position);
    if (resume > position) count = std::min(count, resume - position);
    FakeBatch batch({{position, count}}, 8, 8);
    batch.flags[0] = position == resume ? kRowResume : 0;
    if (position == resume) ring.poison();
    batch.slot[0] = 2;
    for (size_t b = 0; b < batch.context_blocks.size(); ++b) batch.context_blocks[b] = tables[b];
    for (size_t b = 0; b < batch.window_blocks.size(); ++b) batch.window_blocks[b] = tables[batch.window_base[0] + b];
    const FakeBatch fixed(batch, 1);
    const DeviceArray<float> kv(std::vector<float>(in.kv.begin() + static_cast<long>(position) * width,
                                                   in.kv.begin() + static_cast<long>(position + count) * width));
    const DeviceArray<float> gate(std::vector<float>(in.gate.begin() + static_cast<long>(position) * width,
                                                     in.gate.begin() + static_cast<long>(position + count) * width));
    cuda::CompressorParams p;
    p.batch = fixed.view();
    p.entries = {entries.get(), stride, rows, RowFormat::kBF16};
    p.ratio = c.ratio;
    p.dim = c.dim;
    p.frequencies = frequencies();
    p.kv = kv;
    p.gate = gate;
    p.ape = ape;
    p.norm = norm;
    p.ring = ring;
    p.slot_stride = static_cast<size_t>(ring_rows) * 2 * width * 4;
    p.ring_rows = ring_rows;
    p.tail = tail;
    p.tail_stride = static_cast<size_t>(4) * 2 * width * 4;
    cuda::run_compressor(p, nullptr);
    sync("compressor");
    position += count;
  }
  const auto got = entries.download();
  Difference difference;
  for (int w = 0; w < kLength / c.ratio; ++w) {
    const auto ref = reference_entry(c, in, w);
    const auto* row =
        reinterpret_cast<const __nv_bfloat16*>(got.data() + tables[w / rows] * stride) + static_cast<size_t>(w % rows) * c.dim;
    for (int d = 0; d < c.dim; ++d) difference.add(__bfloat162float(row[d]), ref[d]);
  }
  char text[128];
  std::snprintf(text, sizeof text, "ratio %d, dim %d, steps of %d%s", c.ratio, c.dim, steps[0],
                resume >= 0 ? ", resumed behind a block" : "");
  expect_close(difference, 4e-3, text);
}

}  // namespace

int main(int argc, char** argv) {
  start("compressor", argc, argv);
  for (const Compressor c : {Compressor{4, 512}, Compressor{4, 128}, Compressor{128, 512}}) {
    for (const std::vector<int>& steps : {std::vector<int>{kLength}, {3, 1, 130, 7}, {64}, {1}}) {
      if (brief && steps.size() == 1 && steps[0] < kLength) continue;  // such steps are among those of the second
      check_case(c, steps, -1);
      if (c.ratio == 4) check_case(c, steps, 256);
    }
  }
  return finish("compressor");
}
