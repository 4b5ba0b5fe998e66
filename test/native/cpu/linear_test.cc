// SPDX-License-Identifier: MIT
#include "cpu/linear.h"

#include <cmath>
#include <cstring>
#include <random>

#include "check.h"
#include "cpu/number_formats.h"

namespace {

using namespace twelvex;
using namespace twelvex::cpu;

/// A matrix with random bytes in a checkpoint's format, and its values.
struct Stored {
  std::vector<uint8_t> data, scale;
  MatrixView view;
  std::vector<double> values;

  Stored(WeightFormat format, int64_t rows, int64_t cols) {
    std::mt19937 generator(static_cast<uint32_t>(rows * 1000 + cols));
    const auto random_byte = [&] { return static_cast<uint8_t>(generator()); };
    const auto exponent = [&] { return static_cast<uint8_t>(120 + generator() % 8); };
    view = {format, rows, cols, nullptr, 0, nullptr, 0};
    switch (format) {
      case WeightFormat::kF32:
        view.row_bytes = static_cast<size_t>(cols) * 4;
        break;
      case WeightFormat::kBF16:
        view.row_bytes = static_cast<size_t>(cols) * 2;
        break;
      case WeightFormat::kFp8Block128:
        view.row_bytes = static_cast<size_t>(cols);
        view.scale_row_bytes = static_cast<size_t>(cols + 127) / 128;
        scale.resize(static_cast<size_t>(rows + 127) / 128 * view.scale_row_bytes);
        break;
      case WeightFormat::kFp4Group32:
        view.row_bytes = static_cast<size_t>(cols) / 2;
        view.scale_row_bytes = static_cast<size_t>(cols) / 32;
        scale.resize(static_cast<size_t>(rows) * view.scale_row_bytes);
        break;
    }
    data.resize(static_cast<size_t>(rows) * view.row_bytes);
    for (uint8_t& byte : scale) byte = exponent();
    for (size_t i = 0; i < data.size(); ++i) data[i] = random_byte();
    if (format == WeightFormat::kFp8Block128) {
      for (uint8_t& byte : data) byte = (byte & 0x7f) == 0x7f ? 0x7e : byte;
    }
    if (format == WeightFormat::kF32 || format == WeightFormat::kBF16) fill_floats(format, generator);
    view.data = data.data();
    view.scale = scale.data();
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < cols; ++c) values.push_back(value(r, c));
    }
  }

  void fill_floats(WeightFormat format, std::mt19937& generator) {
    std::normal_distribution<float> normal;
    const size_t size = format == WeightFormat::kF32 ? 4 : 2;
    for (size_t i = 0; i < data.size(); i += size) {
      const float number = normal(generator);
      const uint16_t bits = float_to_bf16(number);
      std::memcpy(data.data() + i, size == 4 ? static_cast<const void*>(&number) : &bits, size);
    }
  }

  double value(int64_t r, int64_t c) const {
    const uint8_t* row = data.data() + static_cast<size_t>(r) * view.row_bytes;
    const auto scale_at = [&](int64_t i, int64_t j) {
      return std::ldexp(1.0, scale[static_cast<size_t>(i) * view.scale_row_bytes + static_cast<size_t>(j)] - 127);
    };
    float number;
    uint16_t bits;
    switch (view.format) {
      case WeightFormat::kF32:
        std::memcpy(&number, row + c * 4, 4);
        return number;
      case WeightFormat::kBF16:
        std::memcpy(&bits, row + c * 2, 2);
        return bf16_to_float(bits);
      case WeightFormat::kFp8Block128:
        return e4m3_to_float(row[c]) * scale_at(r / 128, c / 128);
      case WeightFormat::kFp4Group32:
        return e2m1_to_float((row[c / 2] >> (c % 2 * 4)) & 15) * scale_at(r, c / 32);
    }
    return 0;
  }
};

constexpr WeightFormat kFormats[] = {WeightFormat::kF32, WeightFormat::kBF16, WeightFormat::kFp8Block128,
                                     WeightFormat::kFp4Group32};

TEST("packing loses nothing of any checkpoint format") {
  for (const WeightFormat format : kFormats) {
    const Stored stored(format, 200, 256);
    Heap heap;
    const Linear linear = pack(heap, stored.view);
    CHECK_EQ(linear.format, format == WeightFormat::kF32 ? WeightFormat::kF32 : WeightFormat::kBF16);
    CHECK_EQ(takes_quantised_input(linear), format == WeightFormat::kFp8Block128 || format == WeightFormat::kFp4Group32);
    std::vector<float> row(256);
    for (int64_t r = 0; r < 200; ++r) {
      unpack_row(linear, r, row.data());
      for (size_t c = 0; c < 256; ++c) CHECK_EQ(static_cast<double>(row[c]), stored.values[static_cast<size_t>(r) * 256 + c]);
    }
  }
}

TEST("products of several matrices run together, on any number of threads, with the same bits") {
  const Stored a(WeightFormat::kFp8Block128, 256, 128), b(WeightFormat::kFp4Group32, 72, 128);
  std::mt19937 generator(2);
  std::normal_distribution<float> normal;
  for (const int rows : {1, 5, 300}) {
    std::vector<float> x(static_cast<size_t>(rows) * 128);
    for (float& value : x) value = normal(generator);
    std::vector<float> first, second;
    for (const int threads : {1, 2, 3}) {
      Heap heap;
      ThreadPool pool(threads);
      std::vector<float> out_a(static_cast<size_t>(rows) * 256), out_b(static_cast<size_t>(rows) * 72);
      const auto job = [&](const Linear& linear, std::vector<float>& out) {
        GemmJob args = gemm_args(linear);
        args.x = x.data();
        args.x_stride = 128;
        args.rows = rows;
        args.out = out.data();
        args.out_stride = static_cast<size_t>(linear.rows);
        return args;
      };
      const GemmJob jobs[] = {job(pack(heap, a.view), out_a), job(pack(heap, b.view), out_b)};
      run_gemms(pool, best_kernels(), jobs);
      if (threads == 1) {
        first = out_a;
        second = out_b;
      }
      CHECK(out_a == first && out_b == second);
    }
    for (int m = 0; m < rows; m += 7) {
      for (size_t n = 0; n < 72; ++n) {
        double sum = 0, size = 0;
        for (size_t k = 0; k < 128; ++k) {
          const double product = x[static_cast<size_t>(m) * 128 + k] * b.values[n * 128 + k];
          sum += product;
          size += std::abs(product);
        }
        CHECK_NEAR(second[static_cast<size_t>(m) * 72 + n], sum, size * 1e-6);
      }
    }
  }
}

TEST("experts keep gate and up side by side and lie behind each other") {
  std::vector<Stored> matrices;
  for (int e = 0; e < 3; ++e) {
    matrices.emplace_back(WeightFormat::kFp4Group32, 32, 64);
    matrices.emplace_back(WeightFormat::kFp4Group32, 32, 64);
    matrices.emplace_back(WeightFormat::kFp4Group32, 64, 32);
  }
  std::vector<ExpertView> views;
  for (size_t e = 0; e < 3; ++e) views.push_back({matrices[3 * e].view, matrices[3 * e + 1].view, {matrices[3 * e + 2].view}});
  Heap heap;
  const Experts experts = pack_experts(heap, views);
  std::vector<float> row(64);
  for (int64_t e = 0; e < 3; ++e) {
    for (int64_t i = 0; i < 32; ++i) {
      const int64_t panel_row = e * 64 + i / 16 * 32 + i % 16;
      unpack_row(experts.gate_up, panel_row, row.data());
      for (int64_t c = 0; c < 64; ++c)
        CHECK_EQ(static_cast<double>(row[static_cast<size_t>(c)]), matrices[static_cast<size_t>(3 * e)].value(i, c));
      unpack_row(experts.gate_up, panel_row + 16, row.data());
      for (int64_t c = 0; c < 64; ++c)
        CHECK_EQ(static_cast<double>(row[static_cast<size_t>(c)]), matrices[static_cast<size_t>(3 * e + 1)].value(i, c));
    }
    for (int64_t i = 0; i < 64; ++i) {
      unpack_row(experts.down[0], e * 64 + i, row.data());
      for (int64_t c = 0; c < 32; ++c)
        CHECK_EQ(static_cast<double>(row[static_cast<size_t>(c)]), matrices[static_cast<size_t>(3 * e + 2)].value(i, c));
    }
  }
}

TEST("an empty shard packs and multiplies to zeros") {
  MatrixView view;
  view.format = WeightFormat::kFp8Block128;
  view.rows = 64;
  view.cols = 0;
  Heap heap;
  const Linear linear = pack(heap, view);
  ThreadPool pool(1);
  std::vector<float> out(2 * 64, 7.0f);
  GemmJob job[] = {gemm_args(linear)};
  job[0].rows = 2;
  job[0].out = out.data();
  job[0].out_stride = 64;
  run_gemms(pool, best_kernels(), job);
  for (float value : out) CHECK_EQ(value, 0.0f);
}

}  // namespace
