// SPDX-License-Identifier: MIT
// Every instruction set that this machine has, against plain loops in double precision.
#include "cpu/kernels.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "check.h"
#include "cpu/number_formats.h"

namespace {

using namespace twelvex;
using namespace twelvex::cpu;

std::vector<float> random_floats(size_t count, float spread, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0, spread);
  std::vector<float> values(count);
  for (float& value : values) value = normal(generator);
  return values;
}

/// A matrix [outputs, k] and its panels.
struct Panels {
  int outputs, k;
  bool bf16;
  std::vector<float> matrix;
  std::vector<uint32_t> words;

  Panels(int outputs, int k, bool bf16)
      : outputs(outputs), k(k), bf16(bf16), matrix(random_floats(size_t(outputs) * size_t(k), 0.5f, 3)) {
    const size_t count = size_t(panel_count()) * size_t(k);
    words.assign(count * (bf16 ? 16 : 32), 0);
    for (int n = 0; n < outputs; ++n) {
      for (int i = 0; i < k; ++i) {
        float& value = matrix[size_t(n) * size_t(k) + size_t(i)];
        if (bf16) value = round_to_bf16(value);
        const size_t row = size_t(n / kPanel) * size_t(k) + size_t(i);
        if (bf16) {
          words[row * 16 + size_t(n % 16)] |= uint32_t{float_to_bf16(value)} << (n % kPanel < 16 ? 0 : 16);
        } else {
          std::memcpy(&words[row * 32 + size_t(n % kPanel)], &value, 4);
        }
      }
    }
  }

  int panel_count() const { return (outputs + kPanel - 1) / kPanel; }
  double at(int n, int i) const { return matrix[size_t(n) * size_t(k) + size_t(i)]; }

  GemmArgs args(const std::vector<float>& x, int rows, std::vector<float>& out) const {
    GemmArgs a;
    a.x = x.data();
    a.x_stride = size_t(k);
    a.rows = rows;
    a.k = k;
    a.panels = words.data();
    a.bf16 = bf16;
    a.panel_count = panel_count();
    a.columns = outputs;
    a.out = out.data();
    a.out_stride = size_t(outputs);
    return a;
  }
};

double dot_of(const Panels& p, const std::vector<float>& x, int row, int n) {
  double sum = 0;
  for (int i = 0; i < p.k; ++i) sum += double(x[size_t(row) * size_t(p.k) + size_t(i)]) * p.at(n, i);
  return sum;
}

TEST("a product equals the plain loops for every tile shape, format and partial panel") {
  for (const Kernels* kernels : usable_kernels()) {
    for (const bool bf16 : {true, false}) {
      for (const int outputs : {8, 32, 200}) {
        const Panels p(outputs, 96, bf16);
        for (int rows = 1; rows <= 26; ++rows) {
          const auto x = random_floats(size_t(rows) * 96, 1, uint32_t(rows));
          std::vector<float> out(size_t(rows) * size_t(outputs), NAN);
          kernels->gemm(p.args(x, rows, out));
          for (int m = 0; m < rows; ++m) {
            for (int n = 0; n < outputs; ++n) CHECK_NEAR(out[size_t(m) * size_t(outputs) + size_t(n)], dot_of(p, x, m, n), 2e-5);
          }
        }
      }
    }
  }
}

TEST("a row's products are the same bits whatever rows are computed with it") {
  for (const Kernels* kernels : usable_kernels()) {
    for (const bool bf16 : {true, false}) {
      const Panels p(136, 160, bf16);
      const auto x = random_floats(40 * 160, 1, 9);
      std::vector<float> alone(40 * 136);
      for (size_t row = 0; row < 40; ++row) {
        std::vector<float> one(136), own(x.begin() + int64_t(row) * 160, x.begin() + int64_t(row + 1) * 160);
        kernels->gemm(p.args(own, 1, one));
        std::copy(one.begin(), one.end(), alone.begin() + int64_t(row) * 136);
      }
      for (int rows = 2; rows <= 40; ++rows) {
        std::vector<float> out(size_t(rows) * 136);
        kernels->gemm(p.args(x, rows, out));
        CHECK(std::equal(out.begin(), out.end(), alone.begin()));
      }
    }
  }
}

TEST("products can be added to scattered rows") {
  for (const Kernels* kernels : usable_kernels()) {
    const Panels p(40, 64, true);
    const auto x = random_floats(3 * 64, 1, 5);
    const int32_t rows[] = {4, 0, 2};
    std::vector<float> out(5 * 40, 1.5f);
    GemmArgs a = p.args(x, 3, out);
    a.out_rows = rows;
    a.store = GemmStore::kAdd;
    kernels->gemm(a);
    for (int m = 0; m < 3; ++m) {
      for (int n = 0; n < 40; ++n) CHECK_NEAR(out[size_t(rows[m]) * 40 + size_t(n)], 1.5 + dot_of(p, x, m, n), 2e-5);
    }
    for (size_t n = 0; n < 40; ++n) CHECK(out[40 + n] == 1.5f && out[120 + n] == 1.5f);
  }
}

TEST("gated products clamp, gate and weigh") {
  for (const Kernels* kernels : usable_kernels()) {
    const Panels p(64, 64, true);  // two panels: 16 gates then 16 ups each
    const auto x = random_floats(2 * 64, 1.5f, 6);
    const float weight[] = {0.25f, 2.0f};
    std::vector<float> out(2 * 32);
    GemmArgs a = p.args(x, 2, out);
    a.out_stride = 32;
    a.store = GemmStore::kGated;
    a.limit = 3;
    a.row_weight = weight;
    kernels->gemm(a);
    for (int m = 0; m < 2; ++m) {
      for (int n = 0; n < 32; ++n) {
        const int column = n / 16 * 32 + n % 16;
        const double gate = std::min(dot_of(p, x, m, column), 3.0), up = std::clamp(dot_of(p, x, m, column + 16), -3.0, 3.0);
        CHECK_NEAR(out[size_t(m) * 32 + size_t(n)], gate / (1 + std::exp(-gate)) * up * weight[m], 5e-5);
      }
    }
  }
}

TEST("dot products equal the plain loops and do not depend on their company") {
  for (const Kernels* kernels : usable_kernels()) {
    for (const int dim : {128, 512, 1536}) {
      const auto vectors = random_floats(9 * size_t(dim), 1, 1), data = random_floats(11 * size_t(dim), 1, 2);
      std::vector<const float*> rows;
      for (size_t r = 0; r < 11; ++r) rows.push_back(data.data() + r * size_t(dim));
      std::vector<float> out(9 * 16), one(16);
      kernels->dot({vectors.data(), size_t(dim), 9, dim, rows.data(), 11, out.data(), 16});
      for (size_t v = 0; v < 9; ++v) {
        for (size_t r = 0; r < 11; ++r) {
          double sum = 0;
          for (size_t i = 0; i < size_t(dim); ++i) sum += double(vectors[v * size_t(dim) + i]) * rows[r][i];
          CHECK_NEAR(out[v * 16 + r], sum, 5e-5 * std::sqrt(dim));
          kernels->dot({vectors.data() + v * size_t(dim), size_t(dim), 1, dim, rows.data() + r, 1, one.data(), 16});
          CHECK_EQ(one[0], out[v * 16 + r]);
        }
      }
    }
  }
}

TEST("weighted sums of rows rescale what is there and do not depend on their company") {
  for (const Kernels* kernels : usable_kernels()) {
    const auto weights = random_floats(13 * 64, 1, 1), data = random_floats(50 * 512, 1, 2),
               start = random_floats(13 * 512, 1, 3);
    const auto scale = random_floats(13, 1, 4);
    std::vector<const float*> rows;
    for (size_t r = 0; r < 50; ++r) rows.push_back(data.data() + r * 512);
    std::vector<float> out = start;
    kernels->mix({weights.data(), 64, scale.data(), 13, rows.data(), 50, out.data(), rows.data()});
    for (size_t v = 0; v < 13; ++v) {
      std::vector<float> alone(start.begin() + int64_t(v) * 512, start.begin() + int64_t(v + 1) * 512);
      kernels->mix({weights.data() + v * 64, 64, scale.data() + v, 1, rows.data(), 50, alone.data(), rows.data()});
      for (size_t i = 0; i < 512; ++i) {
        double sum = double(start[v * 512 + i]) * scale[v];
        for (size_t r = 0; r < 50; ++r) sum += double(weights[v * 64 + r]) * rows[r][i];
        CHECK_NEAR(out[v * 512 + i], sum, 1e-4);
        CHECK_EQ(alone[i], out[v * 512 + i]);
      }
    }
  }
}

TEST("pooling is a softmax over slots for every channel") {
  for (const Kernels* kernels : usable_kernels()) {
    for (const int slots : {4, 8, 128}) {
      const auto values = random_floats(size_t(slots) * 128, 1, 1), gates = random_floats(size_t(slots) * 128, 3, 2);
      std::vector<const float*> v, g;
      for (size_t s = 0; s < size_t(slots); ++s) {
        v.push_back(values.data() + s * 128);
        g.push_back(gates.data() + s * 128);
      }
      std::vector<float> out(128);
      kernels->pool({v.data(), g.data(), slots, 128, out.data()});
      for (size_t c = 0; c < 128; ++c) {
        double total = 0, sum = 0;
        for (size_t s = 0; s < size_t(slots); ++s) {
          total += std::exp(double(g[s][c]));
          sum += std::exp(double(g[s][c])) * v[s][c];
        }
        CHECK_NEAR(out[c], sum / total, 1e-5);
      }
    }
  }
}

TEST("exponentials are accurate over their whole range and at odd lengths") {
  for (const Kernels* kernels : usable_kernels()) {
    for (int count = 1; count <= 40; ++count) {
      std::vector<float> x(static_cast<size_t>(count));
      for (int i = 0; i < count; ++i) x[size_t(i)] = -100.0f + 187.0f * float(i) / float(count);
      std::vector<float> e = x;
      double total = 0;
      const float sum = kernels->exp_sum(e.data(), count, 0.5f, 1.0f);
      for (int i = 0; i < count; ++i) {
        const double exact = std::exp(double(x[size_t(i)]) * 0.5 - 1.0);
        CHECK_NEAR(e[size_t(i)], exact, exact * 3e-6);
        total += exact;
      }
      CHECK_NEAR(sum, total, total * 3e-6);
      CHECK_NEAR(kernels->largest(x.data(), count), x.back(), 0);
      const auto y = random_floats(size_t(count), 2, 8);
      double expected = 0;
      for (float value : y) expected += std::exp(double(value) - 1.0);
      CHECK_NEAR(kernels->exp_total(y.data(), count, 1.0f), expected, expected * 1e-6);
    }
    float extremes[] = {-INFINITY, -1000.0f, 0.0f};
    CHECK_EQ(kernels->exp_sum(extremes, 3, 1, 0), 1.0f);
    CHECK_EQ(extremes[0], 0.0f);
  }
}

TEST("streams collapse and expand with the mixing matrix the right way round") {
  for (const Kernels* kernels : usable_kernels()) {
    const int dim = 40;
    const auto streams = random_floats(4 * dim, 1, 1), output = random_floats(dim, 1, 2), mix = random_floats(20, 1, 3);
    std::vector<float> sum(dim), mixed = streams;
    kernels->collapse(streams.data(), mix.data(), dim, sum.data());
    kernels->expand(mix.data(), output.data(), dim, mixed.data());
    for (size_t i = 0; i < dim; ++i) {
      double expected = 0;
      for (size_t s = 0; s < 4; ++s) expected += double(mix[s]) * streams[s * dim + i];
      CHECK_NEAR(sum[i], expected, 1e-5);
      for (size_t k = 0; k < 4; ++k) {
        expected = double(mix[k]) * output[i];
        for (size_t j = 0; j < 4; ++j) expected += double(mix[4 + 4 * j + k]) * streams[j * dim + i];
        CHECK_NEAR(mixed[k * dim + i], expected, 1e-5);
      }
    }
  }
}

TEST("sinkhorn divides columns first, then rows and columns in turn") {
  for (const Kernels* kernels : usable_kernels()) {
    float comb[16];
    double expected[4][4];
    for (int i = 0; i < 16; ++i) expected[i / 4][i % 4] = comb[i] = 0.05f + float(i * 7 % 16) / 16.0f;
    kernels->sinkhorn(comb, 3, 1e-6f);
    const auto columns = [&] {
      for (int k = 0; k < 4; ++k) {
        const double total = expected[0][k] + expected[1][k] + expected[2][k] + expected[3][k] + 1e-6;
        for (auto& row : expected) row[k] /= total;
      }
    };
    columns();
    for (int i = 0; i < 2; ++i) {
      for (auto& row : expected) {
        const double total = row[0] + row[1] + row[2] + row[3] + 1e-6;
        for (double& value : row) value /= total;
      }
      columns();
    }
    for (int i = 0; i < 16; ++i) CHECK_NEAR(comb[i], expected[i / 4][i % 4], 1e-6);
  }
}

TEST("cache rows widen exactly") {
  for (const Kernels* kernels : usable_kernels()) {
    std::vector<uint8_t> codes;
    for (int code = 0; code < 256; ++code) codes.push_back((code & 0x7f) == 0x7f ? 0 : static_cast<uint8_t>(code));
    std::vector<float> out(256);
    for (const float scale : {1.0f, 0x1p-22f, 0x1p30f, 0x1p-110f}) {
      kernels->widen_e4m3(codes.data(), scale, 256, out.data());
      for (size_t i = 0; i < 256; ++i) CHECK_EQ(out[i], e4m3_to_float(codes[i]) * scale);
    }
    uint16_t bits[32];
    for (int i = 0; i < 32; ++i) bits[i] = static_cast<uint16_t>(i * 2011);
    kernels->widen_bf16(bits, 32, out.data());
    for (size_t i = 0; i < 32; ++i) CHECK_EQ(out[i], bf16_to_float(bits[i]));
  }
}

}  // namespace
