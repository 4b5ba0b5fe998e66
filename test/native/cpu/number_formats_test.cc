// SPDX-License-Identifier: MIT
#include "cpu/number_formats.h"

#include <limits>

#include "check.h"

namespace {

using namespace twelvex;

TEST("bfloat16 rounds to nearest even and keeps NaN") {
  CHECK_EQ(float_to_bf16(1.0f), 0x3f80);
  CHECK_EQ(float_to_bf16(1.0f + 0x1p-8f), 0x3f80);            // tie to even
  CHECK_EQ(float_to_bf16(1.0f + 0x1p-7f + 0x1p-8f), 0x3f82);  // tie to even, upwards
  CHECK_EQ(float_to_bf16(1.0f + 0x1p-8f + 0x1p-20f), 0x3f81);
  CHECK_EQ(float_to_bf16(3.4e38f), 0x7f80);
  CHECK_EQ(float_to_bf16(-0.0f), 0x8000);
  CHECK(std::isnan(round_to_bf16(std::numeric_limits<float>::quiet_NaN())));
}

TEST("every E4M3 code decodes to a value that encodes to the same code") {
  for (int code = 0; code < 256; ++code) {
    const float value = e4m3_to_float(static_cast<uint8_t>(code));
    if ((code & 0x7f) == 0x7f) {
      CHECK(std::isnan(value));
    } else {
      CHECK_EQ(float_to_e4m3(value), code);
    }
  }
  CHECK_EQ(e4m3_to_float(0x7e), 448.0f);
  CHECK_EQ(e4m3_to_float(0x01), 0x1p-9f);
  CHECK_EQ(e4m3_to_float(0x08), 0x1p-6f);
}

TEST("E4M3 rounds to the nearest code, ties to even, and saturates") {
  for (int code = 0; code < 0x7e; ++code) {
    const float low = e4m3_to_float(static_cast<uint8_t>(code)), high = e4m3_to_float(static_cast<uint8_t>(code + 1));
    const float middle = low + (high - low) / 2;
    CHECK_EQ(float_to_e4m3(middle), (code & 1) != 0 ? code + 1 : code);
    CHECK_EQ(float_to_e4m3(std::nextafter(middle, 0.0f)), code);
    CHECK_EQ(float_to_e4m3(std::nextafter(middle, 500.0f)), code + 1);
    CHECK_EQ(float_to_e4m3(-middle), 0x80 | ((code & 1) != 0 ? code + 1 : code));
  }
  CHECK_EQ(float_to_e4m3(460.0f), 0x7e);
  CHECK_EQ(float_to_e4m3(std::numeric_limits<float>::infinity()), 0x7e);
  CHECK_EQ(float_to_e4m3(-1e30f), 0xfe);
  CHECK_EQ(float_to_e4m3(std::numeric_limits<float>::quiet_NaN()) & 0x7f, 0x7f);
}

TEST("E2M1 rounds ties to the even code and saturates at 6") {
  const float ties[][2] = {{0.25f, 0}, {0.75f, 1}, {1.25f, 1}, {1.75f, 2}, {2.5f, 2}, {3.5f, 4}, {5.0f, 4}};
  for (const auto& [value, rounded] : ties) {
    CHECK_EQ(e2m1_to_float(float_to_e2m1(value)), rounded);
    CHECK_EQ(e2m1_to_float(float_to_e2m1(-value)), -rounded);
  }
  for (uint8_t code = 0; code < 16; ++code) CHECK_EQ(float_to_e2m1(e2m1_to_float(code)), code);
  CHECK_EQ(e2m1_to_float(float_to_e2m1(100.0f)), 6.0f);
}

TEST("E8M0 is an exponent; 255 is NaN") {
  CHECK_EQ(e8m0_to_float(127), 1.0f);
  CHECK_EQ(e8m0_to_float(0), 0x1p-127f);
  CHECK_EQ(e8m0_to_float(254), 0x1p127f);
  CHECK(std::isnan(e8m0_to_float(255)));
}

TEST("a scale is the smallest power of two that brings the group within range") {
  CHECK_EQ(scale_byte(448.0f, kFp8AmaxFloor, kE4m3Max), 127);  // exact powers of two are kept
  CHECK_EQ(scale_byte(std::nextafter(448.0f, 500.0f), kFp8AmaxFloor, kE4m3Max), 128);
  CHECK_EQ(scale_byte(224.0f, kFp8AmaxFloor, kE4m3Max), 126);
  CHECK_EQ(scale_byte(225.0f, kFp8AmaxFloor, kE4m3Max), 127);
  CHECK_EQ(scale_byte(6.0f, kFp4AmaxFloor, kE2m1Max), 127);
  CHECK_EQ(scale_byte(6.1f, kFp4AmaxFloor, kE2m1Max), 128);
  // 1e-4 / 448 = 2.2e-7 lies between 2^-23 and 2^-22.
  CHECK_EQ(scale_byte(0.0f, kFp8AmaxFloor, kE4m3Max), 127 - 22);
  CHECK_EQ(scale_byte(0.0f, kFp4AmaxFloor, kE2m1Max), 1);
}

TEST("activations are quantised per 128 values after rounding to bfloat16") {
  float values[256], out[256];
  for (int i = 0; i < 256; ++i) values[i] = (i < 128 ? 1.0f : 1000.0f) * static_cast<float>(i % 128 - 64) / 64.0f;
  values[5] = 1.0f / 3.0f;
  fake_quantise_activations(values, 256, out);
  for (int group = 0; group < 2; ++group) {
    // Largest magnitudes 1 and 1000: scales 2^-8 and 2^2.
    const float scale = group == 0 ? 0x1p-8f : 0x1p2f;
    for (int i = group * 128; i < group * 128 + 128; ++i) {
      CHECK_EQ(out[i], e4m3_to_float(float_to_e4m3(round_to_bf16(values[i]) / scale)) * scale);
    }
  }
  CHECK_EQ(out[0], -1.0f);
  CHECK_EQ(out[5], 0.34375f);
}

}  // namespace
