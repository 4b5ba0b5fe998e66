// SPDX-License-Identifier: MIT
// RMS norms and rotations of one row, by a block or by a warp.
#pragma once

#include "common/convert.cuh"
#include "common/reduce.cuh"
#include "gemm/quantise.cuh"
#include "layout/kv_row.h"

namespace twelvex::cuda {

inline constexpr int kNormThreads = 256;
inline constexpr int kMaxNormVectors = 4;  // of 8 elements a thread: rows of up to 8,192
inline constexpr int kMaxNormDim = kNormThreads * 8 * kMaxNormVectors;

/// f32 weights of a row of `dim`; those of this thread's first eight elements are fetched at once.
struct NormWeights {
  const float* weights;
  float4 first[2];

  __device__ __forceinline__ NormWeights(const float* norm, int dim) : weights(norm), first{} {
    if (static_cast<int>(threadIdx.x) * 8 < dim) first[0] = part(threadIdx.x * 8), first[1] = part(threadIdx.x * 8 + 4);
  }
  __device__ __forceinline__ float4 part(int at) const { return *reinterpret_cast<const float4*>(weights + at); }
};

/// A row of `dim` values; `out` may be `in`.
struct NormRow {
  const bf16* in;
  bf16* out;
  int dim;
  float eps;
  bool quantise = false;  // and quantised, as products read it
};

/// By one block of kNormThreads; scratch: a float for each of its warps, in shared memory.
__device__ __forceinline__ void norm_row(const NormRow& row, const NormWeights& norm, float* scratch) {
  float v[kMaxNormVectors][8];
  float squares = 0;
#pragma unroll
  for (int k = 0; k < kMaxNormVectors; ++k) {
    const int at = (k * kNormThreads + static_cast<int>(threadIdx.x)) * 8;
    if (at >= row.dim) continue;
    unpack_bf16x8(*reinterpret_cast<const uint4*>(row.in + at), v[k]);
#pragma unroll
    for (int i = 0; i < 8; ++i) squares += v[k][i] * v[k][i];
  }
  const float factor = rsqrtf(block_sum<kNormThreads>(squares, scratch) / static_cast<float>(row.dim) + row.eps);
#pragma unroll
  for (int k = 0; k < kMaxNormVectors; ++k) {
    const int at = (k * kNormThreads + static_cast<int>(threadIdx.x)) * 8;
    uint4 packed = make_uint4(0, 0, 0, 0);
    if (at < row.dim) {
      const float4 a = k == 0 ? norm.first[0] : norm.part(at), b = k == 0 ? norm.first[1] : norm.part(at + 4);
      const float w[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
#pragma unroll
      for (int i = 0; i < 8; ++i) v[k][i] *= factor * w[i];
      packed = pack_bf16x8(v[k]);
    }
    if (row.quantise) packed = requantise_bf16x8(packed, activation_scale(warp_max<16>(amax_bf16x8(packed))));
    if (at < row.dim) *reinterpret_cast<uint4*>(row.out + at) = packed;
  }
}

/// A lane's 16 values of a row of 512: dims 16 l ..
__device__ __forceinline__ void unpack_row16(const uint4 (&in)[2], float (&v)[16]) {
#pragma unroll
  for (int k = 0; k < 2; ++k) {
    float half[8];
    unpack_bf16x8(in[k], half);
#pragma unroll
    for (int i = 0; i < 8; ++i) v[k * 8 + i] = half[i];
  }
}

__device__ __forceinline__ void load_row16(const bf16* row, float (&v)[16], int lane) {
  const auto* at = reinterpret_cast<const uint4*>(row) + lane * 2;
  const uint4 in[2] = {at[0], at[1]};
  unpack_row16(in, v);
}

__device__ __forceinline__ void store_row16(bf16* row, const float (&v)[16], int lane) {
  auto* out = reinterpret_cast<uint4*>(row) + lane * 2;
  out[0] = make_uint4(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]), pack_bf16(v[6], v[7]));
  out[1] = make_uint4(pack_bf16(v[8], v[9]), pack_bf16(v[10], v[11]), pack_bf16(v[12], v[13]), pack_bf16(v[14], v[15]));
}

/// Turn i of a lane's eight pairs of a row of 512; lanes 28 .. 31 have some.
__device__ __forceinline__ float2 turn_of_row16(const float2* turns, int lane, int i) {
  return lane < kNopeDim / 16 ? make_float2(1, 0) : turns[(lane - kNopeDim / 16) * 8 + i];
}

/// Rotates lanes 28 .. 31.
__device__ __forceinline__ void rotate_own16(float (&v)[16], const float2 (&own)[8], int lane) {
  if (lane < kNopeDim / 16) return;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const float x = v[2 * i], y = v[2 * i + 1];
    v[2 * i] = x * own[i].x - y * own[i].y;
    v[2 * i + 1] = y * own[i].x + x * own[i].y;
  }
}
__device__ __forceinline__ void rotate_row16(float (&v)[16], const float2* turns, int lane) {
  float2 own[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) own[i] = turn_of_row16(turns, lane, i);
  rotate_own16(v, own, lane);
}

__device__ __forceinline__ float mean_square16(const float (&v)[16]) {
  float squares = 0;
#pragma unroll
  for (int i = 0; i < 16; ++i) squares += v[i] * v[i];
  return warp_sum(squares) / kHeadDim;
}

/// A query head, normalised without weights.
__device__ __forceinline__ void norm_row16(float (&v)[16], float eps) {
  const float factor = rsqrtf(mean_square16(v) + eps);
#pragma unroll
  for (int i = 0; i < 16; ++i) v[i] *= factor;
}

/// The same and rotated.
__device__ __forceinline__ void norm_rotate_row16(float (&v)[16], float eps, const float2* turns, int lane) {
  norm_row16(v, eps);
  rotate_row16(v, turns, lane);
}

/// Eight dims of an index query, with the turns of their four pairs.
__device__ __forceinline__ uint4 rotate_index_part(const uint4& in, const float2 (&turns)[4]) {
  float f[8];
  unpack_bf16x8(in, f);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float x = f[2 * i], y = f[2 * i + 1];
    f[2 * i] = x * turns[i].x - y * turns[i].y;
    f[2 * i + 1] = x * turns[i].y + y * turns[i].x;
  }
  return pack_bf16x8(f);
}

/// The same of `part` of 16: the last eight parts are rotated.
__device__ __forceinline__ uint4 rotate_index_part(const uint4& in, int part, const float2* turns) {
  if (part < 8) return in;
  float2 own[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) own[i] = turns[(part - 8) * 4 + i];
  return rotate_index_part(in, own);
}

}  // namespace twelvex::cuda
