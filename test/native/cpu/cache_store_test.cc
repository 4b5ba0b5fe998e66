// SPDX-License-Identifier: MIT
#include "cpu/cache_store.h"

#include <cmath>
#include <cstring>
#include <random>

#include "check.h"
#include "cpu/number_formats.h"
#include "cpu/rope.h"

namespace {

using namespace twelvex;
using namespace twelvex::cpu;

std::vector<float> random_row(size_t dims, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0, 2);
  std::vector<float> row(dims);
  for (float& value : row) value = normal(generator);
  return row;
}

TEST("float rows come back unchanged, bfloat16 rows rounded once") {
  for (const bool index : {false, true}) {
    const size_t dims = index ? kIndexDim : kHeadDim;
    for (const RowFormat format : {RowFormat::kF32, RowFormat::kBF16}) {
      std::vector<uint8_t> bytes(row_block_bytes(format, 4, index));
      const auto row = random_row(dims, 1);
      const RowPlace place{format, {bytes.data(), 4, index}, 3};
      store_row(place, row.data());
      std::vector<float> scratch(dims);
      const float* back = row_values(best_kernels(), place, scratch.data());
      for (size_t i = 0; i < dims; ++i) CHECK_EQ(back[i], format == RowFormat::kF32 ? row[i] : round_to_bf16(row[i]));
    }
  }
}

TEST("an fp8 row is 448 e4m3 codes and 64 bfloat16 values, its scales behind all rows") {
  constexpr int kRows = 5, kRow = 2;
  std::vector<uint8_t> bytes(row_block_bytes(RowFormat::kFp8, kRows, false), 0xee);
  auto row = random_row(kHeadDim, 2);
  for (size_t i = 64; i < 128; ++i) row[i] *= 1000;
  for (size_t i = 128; i < 192; ++i) row[i] = 0;
  const RowPlace place{RowFormat::kFp8, {bytes.data(), kRows, false}, kRow};
  store_row(place, row.data());
  const uint8_t* data = bytes.data() + kRow * 576;
  const uint8_t* scales = bytes.data() + kRows * 576 + kRow * 8;
  CHECK_EQ(scales[7], 0);
  CHECK_EQ(scales[2], 105);  // floor of the largest magnitude: 1e-4
  std::vector<float> scratch(kHeadDim);
  const float* back = row_values(best_kernels(), place, scratch.data());
  for (size_t i = 0; i < kNopeDim; ++i) {
    float largest = 0;
    for (size_t j = i / 64 * 64; j < i / 64 * 64 + 64; ++j) largest = std::max(largest, std::abs(row[j]));
    const float scale = std::ldexp(1.0f, scales[i / 64] - 127);
    CHECK(largest <= 448 * scale && (largest > 224 * scale || scales[i / 64] == 105));
    CHECK_EQ(data[i], float_to_e4m3(row[i] / scale));
    CHECK_EQ(back[i], e4m3_to_float(data[i]) * scale);
  }
  for (size_t i = 0; i < kRopeDim; ++i) {
    uint16_t bits;
    std::memcpy(&bits, data + kNopeDim + 2 * i, 2);
    CHECK_EQ(bits, float_to_bf16(row[kNopeDim + i]));
    CHECK_EQ(back[kNopeDim + i], round_to_bf16(row[kNopeDim + i]));
  }
  CHECK_EQ(bytes[kRow * 576 - 1], 0xee);
  CHECK_EQ(bytes[(kRow + 1) * 576], 0xee);
}

TEST("an fp8 indexer row is 128 e4m3 codes, its float scale behind all rows") {
  constexpr int kRows = 32, kRow = 31;
  std::vector<uint8_t> bytes(row_block_bytes(RowFormat::kFp8, kRows, true), 0xee);
  const auto row = random_row(kIndexDim, 3);
  const RowPlace place{RowFormat::kFp8, {bytes.data(), kRows, true}, kRow};
  store_row(place, row.data());
  float scale;
  std::memcpy(&scale, bytes.data() + kRows * 128 + kRow * 4, 4);
  std::vector<float> scratch(kIndexDim);
  const float* back = row_values(best_kernels(), place, scratch.data());
  for (size_t i = 0; i < kIndexDim; ++i) {
    CHECK_EQ(bytes[kRow * 128 + i], float_to_e4m3(row[i] / scale));
    CHECK_EQ(back[i], e4m3_to_float(bytes[kRow * 128 + i]) * scale);
  }
}

TEST("parts of blocks and slots do not overlap") {
  ModelConfig config;
  config.hidden_size = 128;
  config.layers = {LayerKind::kSwa, LayerKind::kCsa, LayerKind::kHca};
  const CacheLayout layout = CacheLayout::make(config, RowFormat::kFp8, true, 4);
  const CacheStore store(layout, {.slots = 3, .window_blocks = 4, .context_blocks = 5});
  const auto bytes_between = [](const void* a, const void* b) {
    return static_cast<const uint8_t*>(b) - static_cast<const uint8_t*>(a);
  };
  CHECK_EQ(bytes_between(store.window(1, 0).data, store.window(1, 1).data), static_cast<int64_t>(layout.layers[1].window_block));
  CHECK(bytes_between(store.window(1, 0).data, store.window_tail(1, 0, false)) >= 128 * 584);
  CHECK_EQ(bytes_between(store.window_tail(1, 0, false), store.window_tail(1, 0, true)), 4 * 2 * 1024 * 4);
  CHECK(bytes_between(store.window_tail(1, 0, true), store.window(1, 1).data) >= 4 * 2 * 256 * 4);
  CHECK(bytes_between(store.context(1, 0, false).data, store.context(1, 0, true).data) >= 32 * 584);
  CHECK_EQ(store.context(1, 0, false).count, 32);
  CHECK_EQ(store.context(2, 0, false).count, 1);
  CHECK_EQ(bytes_between(store.ring(1, 0, false), store.ring(1, 0, true)), kCsaRing * 2 * 1024 * 4);
  CHECK(bytes_between(store.ring(2, 0, false), store.ring(2, 1, false)) >= kHcaRing * 2 * 512 * 4);
  CHECK_EQ(bytes_between(store.streams_tail(1), store.streams_tail(2)), 4 * 128 * 4);
}

TEST("rotary angles follow the specification's check values") {
  ModelConfig config;
  const Rope rope(config);
  // Angle of position 1 is the frequency itself.
  const Rotation yarn = rope.at(1, true), plain = rope.at(1, false);
  const std::pair<int, double> expected[] = {
      {0, 1},           {8, 0.05}, {15, 0.00363554}, {16, 0.00226563}, {20, 0.000296978}, {24, 1.95312e-05}, {25, 5.37231e-06},
      {31, 5.68053e-07}};
  for (const auto& [pair, frequency] : expected) {
    CHECK_NEAR(std::asin(static_cast<double>(yarn.sine[pair])), frequency, frequency * 1e-5);
    CHECK_NEAR(yarn.cosine[pair], std::cos(frequency), 1e-6);
  }
  for (int i = 0; i < kRopePairs; ++i) CHECK_NEAR(plain.sine[i], std::sin(std::pow(10000.0, -2.0 * i / 64)), 1e-6);
}

TEST("rotation turns interleaved pairs and rotating back restores them") {
  ModelConfig config;
  const Rope rope(config);
  const Rotation rotation = rope.at(777, true);
  auto values = random_row(kRopeDim, 4);
  const auto before = values;
  rotate(rotation, values.data());
  for (size_t i = 0; i < kRopePairs; ++i) {
    const double c = rotation.cosine[i], s = rotation.sine[i];
    CHECK_NEAR(values[2 * i], before[2 * i] * c - before[2 * i + 1] * s, 1e-6);
    CHECK_NEAR(values[2 * i + 1], before[2 * i + 1] * c + before[2 * i] * s, 1e-6);
  }
  rotate_back(rotation, values.data());
  for (size_t i = 0; i < kRopeDim; ++i) CHECK_NEAR(values[i], before[i], 2e-6);
}

}  // namespace
