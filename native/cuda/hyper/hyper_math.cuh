// SPDX-License-Identifier: MIT
// What the kernels of mHC compute of a token's 24 sums.
#pragma once

#include "common/convert.cuh"
#include "hyper/hyper.h"
#include "runtime/model_config.h"

namespace twelvex::cuda {

// fn as prepared: [slice of 128 dims][step of 16 elements][warp][vector][lane]. A warp has 64 elements of a slice's 512; a lane's
// 16 bytes are fragments of an mma whose operand A is fn: rows 0 to 15 high and low, then rows 16 to 23 high and low.
inline constexpr int kFnSteps = 4, kFnVectors = 3;

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + __expf(-x)); }

__device__ __forceinline__ float reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
}

/// v[.][k] / their sum.
__device__ __forceinline__ void scale_columns(float (&v)[kStreams][kStreams], float eps) {
#pragma unroll
  for (int k = 0; k < kStreams; ++k) {
    const float factor = reciprocal((v[0][k] + v[1][k]) + (v[2][k] + v[3][k]) + eps);
#pragma unroll
    for (int j = 0; j < kStreams; ++j) v[j][k] *= factor;
  }
}

/// comb of its 16 logits, row j, column k: softmax over k, then columns; rows and columns in turn. One thread does all of it: the
/// chain of quotients is what takes time, and sums over lanes would double it.
__device__ __forceinline__ void sinkhorn(float (&v)[kStreams][kStreams], int iterations, float eps) {
  if (iterations == 0) return;
#pragma unroll
  for (int j = 0; j < kStreams; ++j) {
    const float top = fmaxf(fmaxf(v[j][0], v[j][1]), fmaxf(v[j][2], v[j][3]));
#pragma unroll
    for (int k = 0; k < kStreams; ++k) v[j][k] = __expf(v[j][k] - top);
    const float factor = reciprocal((v[j][0] + v[j][1]) + (v[j][2] + v[j][3]));
#pragma unroll
    for (int k = 0; k < kStreams; ++k) v[j][k] = v[j][k] * factor + eps;
  }
  scale_columns(v, eps);
#pragma unroll 1  // code that runs once is slower to fetch than to run
  for (int i = 1; i < iterations; ++i) {
#pragma unroll
    for (int j = 0; j < kStreams; ++j) {
      const float factor = reciprocal((v[j][0] + v[j][1]) + (v[j][2] + v[j][3]) + eps);
#pragma unroll
      for (int k = 0; k < kStreams; ++k) v[j][k] *= factor;
    }
    scale_columns(v, eps);
  }
}

/// What `leave` finds.
__device__ __forceinline__ LateComb late_comb(const HyperParams& p) {
  return {p.mix, p.late_comb && !p.comb_ready ? p.sinkhorn_iters : 0, p.hc_eps};
}

/// A token's post and comb, by one thread -> kept[kHyperKept], which may be where they come from.
__device__ __forceinline__ void make_comb(const LateComb& late, int token, float* kept) {
  const auto* from = reinterpret_cast<const float4*>(late.mix + static_cast<size_t>(token) * kHyperKept);
  const float4 post = from[0];
  float comb[kStreams][kStreams];
#pragma unroll
  for (int j = 0; j < kStreams; ++j) {
    const float4 row = from[1 + j];
    comb[j][0] = row.x, comb[j][1] = row.y, comb[j][2] = row.z, comb[j][3] = row.w;
  }
  sinkhorn(comb, late.iterations, late.eps);
  auto* to = reinterpret_cast<float4*>(kept);
  to[0] = post;
#pragma unroll
  for (int j = 0; j < kStreams; ++j) to[1 + j] = make_float4(comb[j][0], comb[j][1], comb[j][2], comb[j][3]);
}

}  // namespace twelvex::cuda
