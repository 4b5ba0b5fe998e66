// SPDX-License-Identifier: MIT
// Number formats on the device: bf16, e4m3 and ue8m0 (a power of two stored as its exponent byte).
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <cstdint>

namespace twelvex::cuda {

using bf16 = __nv_bfloat16;
using bf162 = __nv_bfloat162;

inline constexpr float kFp8Max = 448.0f;
inline constexpr float kFp8AmaxFloor = 1e-4f;  // quantisers never scale by less than this / 448

/// 2^(byte - 127); byte 0 gives the denormal 2^-127.
__device__ __forceinline__ float e8m0_to_float(uint8_t byte) {
  return __uint_as_float(byte == 0 ? 0x00400000u : static_cast<uint32_t>(byte) << 23);
}

/// Exponent byte of the smallest power of two >= amax / max, amax floored at `floor`: the checkpoint's rule, on IEEE bits.
__device__ __forceinline__ uint8_t e8m0_scale(float amax, float max = kFp8Max, float floor = kFp8AmaxFloor) {
  const uint32_t bits = __float_as_uint(fmaxf(amax, floor) * (1.0f / max));
  return static_cast<uint8_t>((bits >> 23) + ((bits & 0x7fffffu) != 0));
}

/// Packed pair -> two e4m3 bytes (low byte = x), round to nearest even, saturating at +-448.
__device__ __forceinline__ uint16_t to_e4m3x2(float x, float y) {
  return static_cast<uint16_t>(__nv_cvt_float2_to_fp8x2(make_float2(x, y), __NV_SATFINITE, __NV_E4M3));
}

/// Two e4m3 bytes -> floats.
__device__ __forceinline__ float2 from_e4m3x2(uint16_t pair) {
  const __half2_raw h = __nv_cvt_fp8x2_to_halfraw2(pair, __NV_E4M3);
  return __half22float2(*reinterpret_cast<const __half2*>(&h));
}

/// Four e4m3 bytes -> two bf16 pairs, exact (three mantissa bits), by re-biasing the exponent with one multiplication.
__device__ __forceinline__ uint2 e4m3x4_to_bf16x4(uint32_t bytes) {
  const uint32_t low = __byte_perm(bytes, 0, 0x1404);   // bytes 0, 1 in the high halves' top byte
  const uint32_t high = __byte_perm(bytes, 0, 0x3424);  // bytes 2, 3
  const uint32_t a = (low & 0x80008000u) | ((low >> 4) & 0x07f007f0u);
  const uint32_t b = (high & 0x80008000u) | ((high >> 4) & 0x07f007f0u);
  const bf162 rebias = __floats2bfloat162_rn(0x1p120f, 0x1p120f);
  const bf162 x = __hmul2(*reinterpret_cast<const bf162*>(&a), rebias);
  const bf162 y = __hmul2(*reinterpret_cast<const bf162*>(&b), rebias);
  return make_uint2(*reinterpret_cast<const uint32_t*>(&x), *reinterpret_cast<const uint32_t*>(&y));
}

__device__ __forceinline__ uint32_t pack_bf16(float x, float y) {
  const bf162 v = __floats2bfloat162_rn(x, y);
  return *reinterpret_cast<const uint32_t*>(&v);
}

__device__ __forceinline__ float2 unpack_bf16(uint32_t pair) {
  return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u));
}

/// Value as it reads back from bf16.
__device__ __forceinline__ float round_bf16(float x) { return __bfloat162float(__float2bfloat16_rn(x)); }

/// Eight bf16 of a 16-byte vector <-> floats.
__device__ __forceinline__ void unpack_bf16x8(const uint4& v, float (&out)[8]) {
  const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 f = unpack_bf16(words[i]);
    out[2 * i] = f.x;
    out[2 * i + 1] = f.y;
  }
}

__device__ __forceinline__ uint4 pack_bf16x8(const float (&v)[8]) {
  return make_uint4(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]), pack_bf16(v[6], v[7]));
}

}  // namespace twelvex::cuda
