// SPDX-License-Identifier: MIT
// Random checkpoint matrices, their values, and the activation quantiser, on the host.
#pragma once

#include <vector>

#include "runtime/ops.h"
#include "support.h"

namespace twelvex::test {

inline float e8m0(uint8_t byte) { return std::ldexp(1.0f, byte - 127); }

inline float e4m3(uint8_t byte) {
  const int exponent = byte >> 3 & 15, mantissa = byte & 7;
  const float value = exponent == 0 ? std::ldexp(mantissa / 8.0f, -6) : std::ldexp(1 + mantissa / 8.0f, exponent - 7);
  return byte & 0x80 ? -value : value;
}

inline float e2m1(int nibble) {
  static constexpr float kValues[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
  return nibble & 8 ? -kValues[nibble & 7] : kValues[nibble & 7];
}

/// A matrix as a checkpoint stores it.
struct HostMatrix {
  WeightFormat format;
  int64_t rows, cols;
  std::vector<uint8_t> data, scale;

  HostMatrix(WeightFormat f, int64_t r, int64_t c) : format(f), rows(r), cols(c) {
    const auto byte = [] { return static_cast<uint8_t>(rng()() >> 11); };
    if (f == WeightFormat::kBF16) {
      data.resize(r * c * 2);
      for (int64_t i = 0; i < std::min<int64_t>(r * c, kFreshValues); ++i) {
        const __nv_bfloat16 v = __float2bfloat16(gauss(0.05f));
        std::memcpy(&data[i * 2], &v, 2);
      }
      for (size_t i = kFreshValues * 2; i < data.size(); ++i) data[i] = data[i - kFreshValues * 2];
    } else if (f == WeightFormat::kFp8Block128) {
      data.resize(r * c);
      for (uint8_t& b : data) {
        do b = byte();
        while ((b & 0x7f) == 0x7f);  // NaN
      }
      scale.resize((r + 127) / 128 * ((c + 127) / 128));
      for (uint8_t& b : scale) b = static_cast<uint8_t>(112 + below(8));
    } else {
      data.resize(r * c / 2);
      for (uint8_t& b : data) b = byte();
      scale.resize(r * (c / 32));
      for (uint8_t& b : scale) b = static_cast<uint8_t>(118 + below(6));
    }
  }

  MatrixView view() const {
    const size_t bytes = format == WeightFormat::kBF16 ? cols * 2 : format == WeightFormat::kFp8Block128 ? cols : cols / 2;
    const size_t scales = format == WeightFormat::kFp8Block128 ? (cols + 127) / 128 : cols / 32;
    return {.format = format, .rows = rows, .cols = cols, .data = data.data(), .row_bytes = bytes,
            .scale = scale.empty() ? nullptr : scale.data(), .scale_row_bytes = scales};
  }

  float at(int64_t r, int64_t c) const {
    if (format == WeightFormat::kBF16) {
      __nv_bfloat16 v;
      std::memcpy(&v, &data[(r * cols + c) * 2], 2);
      return __bfloat162float(v);
    }
    if (format == WeightFormat::kFp8Block128)
      return e4m3(data[r * cols + c]) * e8m0(scale[r / 128 * ((cols + 127) / 128) + c / 128]);
    const uint8_t pair = data[(r * cols + c) / 2];
    return e2m1(c % 2 ? pair >> 4 : pair & 15) * e8m0(scale[r * (cols / 32) + c / 32]);
  }

  std::vector<float> row(int64_t r) const {
    std::vector<float> values(cols);
    for (int64_t c = 0; c < cols; ++c) values[c] = at(r, c);
    return values;
  }
};

/// Rows to quantise, among them one of zeros, one below any scale, and one with a scale of exactly one.
inline std::vector<__nv_bfloat16> rows_to_quantise(int rows, int cols) {
  std::vector<__nv_bfloat16> x = random_bf16(static_cast<size_t>(rows) * cols, 3.0f);
  for (int i = 0; i < cols; ++i) x[i] = __float2bfloat16(0.0f), x[cols + i] = __float2bfloat16(gauss(1e-6f));
  x[2 * cols] = __float2bfloat16(448.0f);
  return x;
}

/// Rounds `count` values (groups of 128) to e4m3 times a power of two, by the rule on real numbers.
inline void quantise_row(float* x, int count) {
  for (int begin = 0; begin < count; begin += 128) {
    const int end = std::min(count, begin + 128);
    float amax = 1e-4f;
    for (int i = begin; i < end; ++i) amax = std::max(amax, std::abs(x[i]));
    int exponent = 0;
    const float mantissa = std::frexp(amax * (1.0f / 448), &exponent);
    const float scale = std::ldexp(1.0f, mantissa == 0.5f ? exponent - 1 : exponent);
    for (int i = begin; i < end; ++i) {
      const float v = std::clamp(x[i] / scale, -448.0f, 448.0f);
      // e4m3 steps: 2^-9 below 2^-6, else 2^(exponent - 3) of the value's binade.
      int e = 0;
      std::frexp(v, &e);
      const float step = std::ldexp(1.0f, std::max(e - 1, -6) - 3);
      x[i] = std::nearbyint(v / step) * step * scale;
    }
  }
}

inline std::vector<float> to_floats(const std::vector<__nv_bfloat16>& v) {
  std::vector<float> f(v.size());
  for (size_t i = 0; i < v.size(); ++i) f[i] = __bfloat162float(v[i]);
  return f;
}

inline double dot(const float* a, const float* b, int64_t count) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += static_cast<double>(a[i]) * b[i];
  return sum;
}

inline double swiglu(double gate, double up, double limit) {
  double g = bf16_round(static_cast<float>(gate)), u = bf16_round(static_cast<float>(up));
  if (limit > 0) g = std::min(g, limit), u = std::clamp(u, -limit, limit);
  return g / (1 + std::exp(-g)) * u;
}

}  // namespace twelvex::test
