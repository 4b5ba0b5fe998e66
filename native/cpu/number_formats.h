// SPDX-License-Identifier: MIT
// The number formats of DeepSeek-V4 checkpoints and caches, bit for bit: bfloat16, E4M3, E2M1 and E8M0 (spec/checkpoint.md,
// "Quantisers" and "Encodings"). Host reference; every function is total: NaN and infinities are defined below.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

namespace twelvex {

inline float bf16_to_float(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

/// Round to nearest even. NaN stays NaN (quiet).
inline uint16_t float_to_bf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

inline float round_to_bf16(float value) { return bf16_to_float(float_to_bf16(value)); }

/// E4M3 (no infinity, 0x7f and 0xff are NaN).
inline float e4m3_to_float(uint8_t code) {
  const int exponent = (code >> 3) & 15, mantissa = code & 7;
  float magnitude;
  if (exponent == 15 && mantissa == 7) {
    magnitude = std::bit_cast<float>(0x7fc00000u);
  } else if (exponent == 0) {
    magnitude = static_cast<float>(mantissa) * 0x1p-9f;
  } else {
    magnitude = std::bit_cast<float>(static_cast<uint32_t>(((exponent + 120) << 23) | (mantissa << 20)));
  }
  return (code & 0x80) != 0 ? -magnitude : magnitude;
}

/// Round to nearest even, saturating at +-448.
inline uint8_t float_to_e4m3(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint8_t>((bits >> 24) & 0x80u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return sign | 0x7f;
  if (magnitude >= 0x43e00000u) return sign | 0x7e;  // 448
  if (magnitude < 0x3c800000u) {                     // below 2^-6: multiples of 2^-9
    return sign | static_cast<uint8_t>(std::nearbyint(std::bit_cast<float>(magnitude) * 512.0f));
  }
  const uint32_t rounded = magnitude + 0x7ffffu + ((magnitude >> 20) & 1u);
  return sign | static_cast<uint8_t>((rounded >> 20) - (120u << 3));
}

inline constexpr float kE2m1Values[8] = {0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f};

inline float e2m1_to_float(uint8_t nibble) {
  const float magnitude = kE2m1Values[nibble & 7];
  return (nibble & 8) != 0 ? -magnitude : magnitude;
}

/// Round to nearest, ties to the even code, saturating at +-6. NaN becomes 6.
inline uint8_t float_to_e2m1(float value) {
  constexpr float kMiddle[7] = {0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f};
  const float magnitude = std::abs(value);
  uint8_t code = 0;
  for (uint8_t i = 0; i < 7; ++i) {
    const bool above = (i & 1) != 0 ? !(magnitude < kMiddle[i]) : !(magnitude <= kMiddle[i]);
    if (above) code = static_cast<uint8_t>(i + 1);
  }
  return code | (std::signbit(value) ? 8 : 0);
}

/// 2^(byte - 127); 255 is NaN.
inline float e8m0_to_float(uint8_t byte) {
  if (byte == 255) return std::bit_cast<float>(0x7fc00000u);
  return byte == 0 ? 0x1p-127f : std::bit_cast<float>(static_cast<uint32_t>(byte) << 23);
}

/// Scale byte for a group whose largest magnitude is `amax`: exponent of the smallest power of two >= amax * (1 / largest),
/// read from the bits of that float product as the released kernels do.
inline uint8_t scale_byte(float amax, float floor, float largest) {
  const uint32_t bits = std::bit_cast<uint32_t>(std::max(amax, floor) * (1.0f / largest));
  const int byte = static_cast<int>((bits >> 23) & 0xffu) + ((bits & 0x7fffffu) != 0 ? 1 : 0);
  return static_cast<uint8_t>(std::clamp(byte, 0, 255));
}

inline constexpr float kE4m3Max = 448.0f, kE2m1Max = 6.0f;
inline constexpr float kFp8AmaxFloor = 1e-4f;  // activations, KV rows, indexer keys
inline constexpr float kFp4AmaxFloor = 6.0f * 0x1p-126f;

inline float largest_magnitude(const float* values, int count) {
  float amax = 0;
  for (int i = 0; i < count; ++i) amax = std::max(amax, std::abs(values[i]));
  return amax;
}

/// Quantises a group to E4M3 codes and returns its scale byte.
inline uint8_t quantise_e4m3(const float* values, int count, uint8_t* codes) {
  const uint8_t byte = scale_byte(largest_magnitude(values, count), kFp8AmaxFloor, kE4m3Max);
  const float scale = e8m0_to_float(byte);
  for (int i = 0; i < count; ++i) codes[i] = float_to_e4m3(values[i] / scale);
  return byte;
}

/// The activation of the released FP8 linears: bfloat16, then E4M3 with one scale per 128 values, back to float.
inline void fake_quantise_activations(const float* values, int64_t count, float* out) {
  for (int64_t begin = 0; begin < count; begin += 128) {
    const int size = static_cast<int>(std::min<int64_t>(128, count - begin));
    float group[128];
    for (int i = 0; i < size; ++i) group[i] = round_to_bf16(values[begin + i]);
    const float scale = e8m0_to_float(scale_byte(largest_magnitude(group, size), kFp8AmaxFloor, kE4m3Max));
    for (int i = 0; i < size; ++i) out[begin + i] = e4m3_to_float(float_to_e4m3(group[i] / scale)) * scale;
  }
}

}  // namespace twelvex
