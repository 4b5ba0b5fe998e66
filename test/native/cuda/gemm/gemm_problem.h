// SPDX-License-Identifier: MIT
// A dense product on the device and what float64 says of it.
#pragma once

#include "common/device.h"
#include "gemm/gemm.h"
#include "gemm_reference.h"
#include "weights.h"

namespace twelvex::test {

/// How a product is asked for.
struct Way {
  bool quantise = false;
  int arch = wide_arch();
  int decode_rows = 0;
};

/// Inputs of one product; `scratch` for quantised copies.
struct Problem {
  HostMatrix weights;
  Linear linear;
  std::vector<__nv_bfloat16> x;
  DeviceArray<__nv_bfloat16> device_x, scratch;

  Problem(cuda::WeightStore& store, HostMatrix w, std::vector<__nv_bfloat16> inputs)
      : weights(std::move(w)), linear(store.linear(weights.view())), x(std::move(inputs)), device_x(x), scratch(x.size()) {}
  Problem(cuda::WeightStore& store, WeightFormat format, int t, int n, int k)
      : Problem(store, HostMatrix(format, n, k), random_bf16(static_cast<size_t>(t) * k)) {}

  /// The first `t` rows; y [t, n], f32 or bf16.
  cuda::GemmParams params(int t, void* y, bool f32, const Way& way) const {
    cuda::GemmParams p;
    p.arch = way.arch;
    p.format = weights.format;
    p.rows = t;
    p.cols = p.ldx = static_cast<int>(weights.cols);
    p.quantise = way.quantise;
    p.decode_rows = way.decode_rows;
    p.quantised = scratch;
    p.num_segments = 1;
    p.segments[0] = {.weights = static_cast<const uint8_t*>(linear.data),
                     .scales = static_cast<const uint8_t*>(linear.scale),
                     .x = device_x,
                     .y = y,
                     .rows = static_cast<int>(weights.rows),
                     .ldy = static_cast<int>(weights.rows),
                     .f32 = f32};
    p.num_sms = cuda::device_info().multiprocessors;
    return p;
  }

  /// bf16 or f32 outputs of the first `t` rows.
  template <class Out>
  std::vector<Out> run(int t, const Way& way) const {
    DeviceArray<Out> y(static_cast<size_t>(t) * weights.rows);
    y.poison();
    cuda::run_gemm(params(t, y, std::is_same_v<Out, float>, way));
    sync("run_gemm");
    return y.download();
  }
};

inline bool same_bits(const float* a, const float* b, size_t count) { return std::memcmp(a, b, count * sizeof(float)) == 0; }

/// Both kinds of outputs against float64.
inline void test_dense(const Problem& problem, const Way& way, const std::string& what) {
  const int n = static_cast<int>(problem.weights.rows), k = static_cast<int>(problem.weights.cols);
  const int t = static_cast<int>(problem.x.size()) / k;
  std::vector<float> x = to_floats(problem.x);
  if (way.quantise) {
    for (int r = 0; r < t; ++r) quantise_row(&x[static_cast<size_t>(r) * k], k);
  }
  const std::vector<float> y = problem.run<float>(t, way), z = to_floats(problem.run<__nv_bfloat16>(t, way));
  Difference exact, bf;
  const int step = std::max(1, t * n / 20000);  // a fresh sample of the rows of W when there are many outputs
  for (int j = below(step); j < n; j += step) {
    const std::vector<float> w = problem.weights.row(j);
    for (int r = 0; r < t; ++r) {
      const double sum = dot(w.data(), &x[static_cast<size_t>(r) * k], k);
      exact.add(y[static_cast<size_t>(r) * n + j], sum);
      bf.add(z[static_cast<size_t>(r) * n + j], sum);
    }
  }
  const std::string shape = what + " T=" + std::to_string(t) + " N=" + std::to_string(n) + " K=" + std::to_string(k) +
                            (way.quantise ? " quantised" : "");
  expect_close(exact, 5e-5, shape + ", f32 out");
  expect_close(bf, 3e-3, shape + ", bf16 out");
  const auto nan = [](float v) { return std::isnan(v); };
  expect(std::none_of(y.begin(), y.end(), nan) && std::none_of(z.begin(), z.end(), nan), shape + ": every output written");
}

/// Several quantised products of one launch, with column slices of one input (the grouped output projection).
inline void test_segments(cuda::WeightStore& store, int t, const Way& way) {
  constexpr int kGroups = 4, kCols = 512, kRows = 256;
  const HostMatrix w(WeightFormat::kFp8Block128, kGroups * kRows, kCols);
  const Linear linear = store.linear(w.view());
  const std::vector<__nv_bfloat16> x = random_bf16(static_cast<size_t>(t) * kGroups * kCols);
  const DeviceArray<__nv_bfloat16> device_x(x), y(static_cast<size_t>(t) * kGroups * kRows), scratch(x.size());
  y.poison();
  cuda::GemmParams p;
  p.arch = way.arch;
  p.decode_rows = way.decode_rows;
  p.rows = p.x_rows = t;
  p.cols = kCols;
  p.ldx = p.x_cols = kGroups * kCols;
  p.quantise = true;
  p.quantised = scratch;
  p.num_segments = kGroups;
  p.num_sms = cuda::device_info().multiprocessors;
  for (int g = 0; g < kGroups; ++g) {
    p.segments[g] = {.weights = static_cast<const uint8_t*>(linear.data) + g * cuda::weight_bytes(w.format, kRows, kCols),
                     .scales = static_cast<const uint8_t*>(linear.scale) + g * cuda::scale_bytes(w.format, kRows, kCols),
                     .x = device_x + g * kCols, .y = y + g * kRows, .rows = kRows, .ldy = kGroups * kRows};
  }
  cuda::run_gemm(p);
  sync("run_gemm");
  std::vector<float> quantised = to_floats(x);
  quantise_row(quantised.data(), static_cast<int>(quantised.size()));
  const std::vector<float> out = to_floats(y.download());
  Difference d;
  for (int j = 0; j < kGroups * kRows; ++j) {
    const std::vector<float> row = w.row(j);
    for (int r = 0; r < t; ++r) {
      d.add(out[static_cast<size_t>(r) * kGroups * kRows + j],
            dot(row.data(), &quantised[(static_cast<size_t>(r) * kGroups + j / kRows) * kCols], kCols));
    }
  }
  expect_close(d, 3e-3, "four groups in one launch, T=" + std::to_string(t) + ", " + std::to_string(way.decode_rows) +
                            " of decode");
}

}  // namespace twelvex::test
