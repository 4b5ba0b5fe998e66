// SPDX-License-Identifier: MIT
// Prepared weights -> bf16 fragments of mma.m16n8k16, exact. A quantised value's bits are put into the places of bf16's sign,
// exponent and mantissa (weight_order.cuh); one multiplication by a power of two re-biases the exponent and applies the scale
// (subnormals too).
#pragma once

#include "common/convert.cuh"
#include "gemm/weight_order.cuh"

namespace twelvex::cuda {

__device__ __forceinline__ uint32_t multiply_bf16x2(uint32_t a, bf162 b) {
  const bf162 product = __hmul2(*reinterpret_cast<const bf162*>(&a), b);
  return *reinterpret_cast<const uint32_t*>(&product);
}

/// 2^(byte + bias - 127) as a bf16 pair.
template <int kBias>
__device__ __forceinline__ bf162 scale_pair(uint32_t byte) {
  const uint32_t pair = (byte + kBias) * 0x00800080u;
  return *reinterpret_cast<const bf162*>(&pair);
}

/// Scale of row g (kHigh: g + 8) of block kBlock of an fp4 cell, as a bf16 pair; `scales` is the cell's word.
template <WeightOrder kOrder, int kBlock, bool kHigh>
__device__ __forceinline__ bf162 scale_pair_fp4(uint32_t scales) {
  if constexpr (kOrder == WeightOrder::kPlain) {
    constexpr uint32_t kAt = 2 * kBlock + kHigh;
    const uint32_t pair = __byte_perm(scales, 0, 0x4040u + 0x0101u * kAt) * 0x80u + kFp4ScaleBias * 0x00800080u;
    return *reinterpret_cast<const bf162*>(&pair);
  } else {
    const uint32_t pair = folded_scales<kBlock>(scales);
    const bf162 rows = *reinterpret_cast<const bf162*>(&pair);
    return kHigh ? __high2bfloat162(rows) : __low2bfloat162(rows);  // operand modifiers of the multiplication
  }
}

/// Registers a0 .. a3 of step kStep from one vector of fp8 weights (a block of 32 columns).
template <int kStep, WeightOrder kOrder = kWeightOrder>
__device__ __forceinline__ void fragment_fp8(const uint4& vector, bf162 scale, uint32_t (&a)[4]) {
  const uint32_t low = kStep == 0 ? vector.x : vector.z, high = kStep == 0 ? vector.y : vector.w;
  a[0] = multiply_bf16x2(places_fp8<kOrder, 0>(low), scale);
  a[1] = multiply_bf16x2(places_fp8<kOrder, 0>(high), scale);
  a[2] = multiply_bf16x2(places_fp8<kOrder, 1>(low), scale);
  a[3] = multiply_bf16x2(places_fp8<kOrder, 1>(high), scale);
}

/// Registers a0 .. a3 of step kStep of block kBlock (0, 1) from one vector of fp4 weights; `scales` is the cell's word.
template <int kBlock, int kStep, WeightOrder kOrder = kWeightOrder>
__device__ __forceinline__ void fragment_fp4(const uint4& vector, uint32_t scales, uint32_t (&a)[4]) {
  const uint32_t low = kBlock == 0 ? vector.x : vector.z, high = kBlock == 0 ? vector.y : vector.w;
  const bf162 low_scale = scale_pair_fp4<kOrder, kBlock, false>(scales);
  const bf162 high_scale = scale_pair_fp4<kOrder, kBlock, true>(scales);
  a[0] = multiply_bf16x2(places_fp4<kOrder, kStep, 0>(low), low_scale);
  a[1] = multiply_bf16x2(places_fp4<kOrder, kStep, 0>(high), high_scale);
  a[2] = multiply_bf16x2(places_fp4<kOrder, kStep, 1>(low), low_scale);
  a[3] = multiply_bf16x2(places_fp4<kOrder, kStep, 1>(high), high_scale);
}

}  // namespace twelvex::cuda
