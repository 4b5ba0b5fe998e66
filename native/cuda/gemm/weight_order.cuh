// SPDX-License-Identifier: MIT
// The order of the bits in a word of prepared fp8 and fp4 weights (weight_layout.h), and of an fp4 cell's scales.
//   kPlain    bytes and nibbles as FP8 tensor cores take them (fp8_tile.cuh).
//   kFolded   for widening to bf16: every sign already lies where a register wants it, exponent and mantissa too, or a shift or
//             two away, so that one mask makes a register of what would need several. Four registers cannot share 32 bits by
//             shifts alone; where two bits fall onto one place, the word holds them added modulo two.
// A register wants its two values' signs in bits 15 and 31 and their other bits behind bf16's exponent: bits 8 .. 6 and 24 .. 22
// of fp4 (e2m1), 10 .. 4 and 26 .. 20 of fp8 (e4m3).
#pragma once

#include <cstdint>

#include "gemm/weight_layout.h"

namespace twelvex::cuda {

enum class WeightOrder { kPlain, kFolded };

/// Of this architecture: the one that its kernels read and prepare.cu writes.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1200
inline constexpr WeightOrder kWeightOrder = WeightOrder::kPlain;
#else
inline constexpr WeightOrder kWeightOrder = WeightOrder::kFolded;
#endif

inline constexpr uint32_t kFp4Places = 0x81c081c0u, kFp8Places = 0x87f087f0u;  // of a register's two values
inline constexpr uint32_t kScalePlaces = 0x7f807f80u;                          // of the exponents of two bf16

/// The two values of pair kPair of step kStep in a word of fp4 weights, in their places.
template <WeightOrder kOrder, int kStep, int kPair>
__device__ __forceinline__ uint32_t places_fp4(uint32_t word) {
  if constexpr (kOrder == WeightOrder::kPlain) {  // one multiplication copies a nibble to its sign's place and to the others'
    constexpr uint32_t kNibble = kStep == 0 ? 0x000f000fu : 0x00f000f0u, kCopies = kStep == 0 ? 0x1040u : 0x0104u;
    return ((word >> (8 * kPair) & kNibble) * kCopies) & kFp4Places;
  } else if constexpr (kStep == 0) {
    return word << (6 * kPair) & kFp4Places;
  } else if constexpr (kPair == 0) {
    return __funnelshift_l(word, word, 12) & kFp4Places;
  } else {
    return (word << 2 ^ word >> 6) & kFp4Places;
  }
}

/// The two values of pair kPair in a word of fp8 weights, in their places.
template <WeightOrder kOrder, int kPair>
__device__ __forceinline__ uint32_t places_fp8(uint32_t word) {
  if constexpr (kOrder == WeightOrder::kPlain) {
    const uint32_t sign = kPair == 0 ? word << 8 : word, rest = kPair == 0 ? word << 4 : word >> 4;
    return (sign & 0x80008000u) | (rest & 0x07f007f0u);
  } else {
    return kPair == 0 ? word & kFp8Places : (word << 4 ^ word >> 4) & kFp8Places;
  }
}

/// Bits 31, 23, 15, 7: the sums modulo two of each and those above.
__device__ __forceinline__ uint32_t sum_from_above(uint32_t bits) {
  bits &= 0x80808080u;
  bits ^= bits >> 8;
  return bits ^ bits >> 16;
}

/// Plain -> folded: the word from which places_fp4 takes the same four registers.
__device__ __forceinline__ uint32_t fold_fp4(uint32_t plain) {
  constexpr WeightOrder kPlain = WeightOrder::kPlain;
  const uint32_t third = places_fp4<kPlain, 1, 0>(plain);
  const uint32_t word =
      places_fp4<kPlain, 0, 0>(plain) | places_fp4<kPlain, 0, 1>(plain) >> 6 | __funnelshift_r(third, third, 12);
  // Of the last register, without what other registers' bits put into its places.
  const uint32_t rest = places_fp4<kPlain, 1, 1>(plain) ^ places_fp4<WeightOrder::kFolded, 1, 1>(word);
  return word | sum_from_above(rest) >> 2 | (rest & 0x01000100u) << 6 | (rest & 0x00400040u) >> 2;
}

__device__ __forceinline__ uint32_t fold_fp8(uint32_t plain) {
  const uint32_t word = places_fp8<WeightOrder::kPlain, 0>(plain);
  const uint32_t rest = places_fp8<WeightOrder::kPlain, 1>(plain) ^ places_fp8<WeightOrder::kFolded, 1>(word);
  return word | sum_from_above(rest) >> 4 | (rest & 0x07000700u) << 4 | (rest & 0x00700070u) >> 4;
}

/// Folded -> plain.
__device__ __forceinline__ uint32_t unfold_fp4(uint32_t word) {
  const auto nibbles = [](uint32_t places) { return (places >> 12 & 0x00080008u) | (places >> 6 & 0x00070007u); };
  constexpr WeightOrder kFolded = WeightOrder::kFolded;
  return nibbles(places_fp4<kFolded, 0, 0>(word)) | nibbles(places_fp4<kFolded, 1, 0>(word)) << 4 |
         nibbles(places_fp4<kFolded, 0, 1>(word)) << 8 | nibbles(places_fp4<kFolded, 1, 1>(word)) << 12;
}

__device__ __forceinline__ uint32_t unfold_fp8(uint32_t word) {
  const auto bytes = [](uint32_t places) { return (places >> 8 & 0x00800080u) | (places >> 4 & 0x007f007fu); };
  return bytes(places_fp8<WeightOrder::kFolded, 0>(word)) | bytes(places_fp8<WeightOrder::kFolded, 1>(word)) << 8;
}

/// Scale bytes of an fp4 cell, plain -> folded: biased, so that they are exponents of bf16, those of the first block in their
/// places, those of the second eight bits below, in a circle.
__device__ __forceinline__ uint32_t fold_scales(uint32_t plain) {
  const uint32_t biased = plain + kFp4ScaleBias * 0x01010101u;
  const auto places = [](uint32_t bytes) { return (bytes & 0xffu) << 7 | (bytes & 0xff00u) << 15; };
  const uint32_t second = places(biased >> 16);
  return places(biased) | __funnelshift_r(second, second, 8);
}

/// Scales of rows g (low) and g + 8 of block kBlock, as a bf16 pair.
template <int kBlock>
__device__ __forceinline__ uint32_t folded_scales(uint32_t word) {
  return (kBlock == 0 ? word : __funnelshift_l(word, word, 8)) & kScalePlaces;
}

__device__ __forceinline__ uint32_t unfold_scales(uint32_t word) {
  const auto bytes = [](uint32_t places) { return (places >> 7 & 0xffu) | (places >> 15 & 0xff00u); };
  return (bytes(folded_scales<0>(word)) | bytes(folded_scales<1>(word)) << 16) - kFp4ScaleBias * 0x01010101u;
}

}  // namespace twelvex::cuda
