// SPDX-License-Identifier: MIT
// Prepared weights -> bf16 fragments of mma.m16n8k16, exact. A quantised value's bits are shifted into the place of bf16's
// exponent and mantissa; one multiplication by a power of two re-biases the exponent and applies the scale (subnormals too).
#pragma once

#include "common/convert.cuh"
#include "gemm/weight_layout.h"

namespace twelvex::cuda {

__device__ __forceinline__ uint32_t multiply_bf16x2(uint32_t a, uint32_t b) {
  const bf162 product = __hmul2(*reinterpret_cast<const bf162*>(&a), *reinterpret_cast<const bf162*>(&b));
  return *reinterpret_cast<const uint32_t*>(&product);
}

/// 2^(byte + bias - 127) as a bf16 pair.
template <int kBias>
__device__ __forceinline__ uint32_t scale_pair(uint32_t byte) {
  return (byte + kBias) * 0x00800080u;
}

/// The same of byte `at` of a word of scales.
template <int kBias>
__device__ __forceinline__ uint32_t scale_pair_at(uint32_t scales, int at) {
  return __byte_perm(scales, 0, 0x4040u + 0x0101u * at) * 0x80u + kBias * 0x00800080u;
}

/// Word of four e4m3 (columns 0, 2, 1, 3) -> pairs (0, 1) and (2, 3).
__device__ __forceinline__ void widen_fp8(uint32_t word, uint32_t scale, uint32_t& pair0, uint32_t& pair1) {
  pair0 = multiply_bf16x2(((word << 8) & 0x80008000u) | ((word << 4) & 0x07f007f0u), scale);
  pair1 = multiply_bf16x2((word & 0x80008000u) | ((word >> 4) & 0x07f007f0u), scale);
}

/// Half a word of e2m1 (step kStep) -> pairs (0, 1) and (2, 3) of the step. One multiplication copies a nibble to where its sign
/// belongs and to where its other bits do.
template <int kStep>
__device__ __forceinline__ void widen_fp4(uint32_t word, uint32_t scale, uint32_t& pair0, uint32_t& pair1) {
  constexpr uint32_t kNibble = kStep == 0 ? 0x000f000fu : 0x00f000f0u, kCopies = kStep == 0 ? 0x1040u : 0x0104u;
  pair0 = multiply_bf16x2(((word & kNibble) * kCopies) & 0x81c081c0u, scale);
  pair1 = multiply_bf16x2(((word >> 8 & kNibble) * kCopies) & 0x81c081c0u, scale);
}

/// Registers a0 .. a3 of step kStep from one vector of fp8 weights (a block of 32 columns).
template <int kStep>
__device__ __forceinline__ void fragment_fp8(const uint4& vector, uint32_t scale, uint32_t (&a)[4]) {
  widen_fp8(kStep == 0 ? vector.x : vector.z, scale, a[0], a[2]);
  widen_fp8(kStep == 0 ? vector.y : vector.w, scale, a[1], a[3]);
}

/// Registers a0 .. a3 of step kStep of block kBlock (0, 1) from one vector of fp4 weights; `scales` is the cell's word.
template <int kBlock, int kStep>
__device__ __forceinline__ void fragment_fp4(const uint4& vector, uint32_t scales, uint32_t (&a)[4]) {
  const uint32_t low = scale_pair_at<kFp4ScaleBias>(scales, 2 * kBlock);
  const uint32_t high = scale_pair_at<kFp4ScaleBias>(scales, 2 * kBlock + 1);
  widen_fp4<kStep>(kBlock == 0 ? vector.x : vector.z, low, a[0], a[2]);
  widen_fp4<kStep>(kBlock == 0 ? vector.y : vector.w, high, a[1], a[3]);
}

}  // namespace twelvex::cuda
