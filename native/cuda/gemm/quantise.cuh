// SPDX-License-Identifier: MIT
// FP8 quantisation of activations per 1 x 128 and back: every kernel that quantises uses these, so all agree to the bit.
#pragma once

#include "common/convert.cuh"

namespace twelvex::cuda {

/// Largest magnitude of eight bf16 values.
__device__ __forceinline__ float amax_bf16x8(const uint4& v) {
  const uint32_t words[4] = {v.x, v.y, v.z, v.w};
  float amax = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    amax = fmaxf(amax, fmaxf(__uint_as_float((words[i] & 0x7fffu) << 16), __uint_as_float(words[i] & 0x7fff0000u)));
  }
  return amax;
}

/// Scale of a group with this largest magnitude, and its inverse: powers of two.
__device__ __forceinline__ float2 activation_scale(float amax) {
  const uint32_t byte = e8m0_scale(amax);
  return make_float2(__uint_as_float(byte << 23), __uint_as_float((254u - byte) << 23));
}

/// Pair of bf16 rounded to e4m3 times the scale, as bf16 (exact).
__device__ __forceinline__ uint32_t requantise_pair(uint32_t pair, float2 scale) {
  const float2 v = unpack_bf16(pair);
  const float2 q = from_e4m3x2(to_e4m3x2(v.x * scale.y, v.y * scale.y));
  return pack_bf16(q.x * scale.x, q.y * scale.x);
}

__device__ __forceinline__ uint4 requantise_bf16x8(const uint4& v, float2 scale) {
  return make_uint4(requantise_pair(v.x, scale), requantise_pair(v.y, scale), requantise_pair(v.z, scale),
                    requantise_pair(v.w, scale));
}

}  // namespace twelvex::cuda
