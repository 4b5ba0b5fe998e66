// SPDX-License-Identifier: MIT
// Prefill attention without tensor cores, as engines for SM12x started: the baselines of the kernel A/B, in bench only.
//
// kHeads = 1: one head a block; every gathered row is read once per head.
// kHeads = 8: eight heads a block share each row; the row is read heads / 8 times a token.
// Rows are bf16 in a contiguous workspace; one candidate at a time: dot product over the block, online softmax, accumulate.
#pragma once

#include "attention/candidates.cuh"
#include "attention/sparse_prefill.h"
#include "common/convert.cuh"
#include "common/reduce.cuh"

namespace twelvex::bench {

using namespace twelvex::cuda;

inline constexpr int kThreads = 128;
inline constexpr int kDims = kHeadDim / kThreads;  // of a thread: 4

template <int kHeads>
__global__ void __launch_bounds__(kThreads) fma_prefill_kernel(const __grid_constant__ SparsePrefillParams p) {
  __shared__ float partial[2][kHeads][kThreads / 32];
  const int token = p.first_token + blockIdx.x, head0 = blockIdx.y * kHeads;
  const CandidateList list = CandidateList::of(p.batch, p.kind, p.selection, p.topk, token);
  if (list.total == 0) return;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  float q[kHeads][kDims], out[kHeads][kDims], top[kHeads], sum[kHeads];
  for (int h = 0; h < kHeads; ++h) {
    const uint2 v = *reinterpret_cast<const uint2*>(p.query + (static_cast<size_t>(token) * p.heads + head0 + h) * kHeadDim +
                                                    threadIdx.x * kDims);
    const float2 a = unpack_bf16(v.x), b = unpack_bf16(v.y);
    q[h][0] = a.x, q[h][1] = a.y, q[h][2] = b.x, q[h][3] = b.y;
    top[h] = p.sinks[head0 + h];
    sum[h] = 1;
    for (int i = 0; i < kDims; ++i) out[h][i] = 0;
  }
  int turn = 0;
  for (int c = 0; c < list.total; ++c) {
    const int id = list.id(c);
    if (id < 0) continue;
    const uint8_t* row = bf16_row(p.batch, p.kv, list.row, c < list.compressed, id);
    const uint2 v = *(reinterpret_cast<const uint2*>(row) + threadIdx.x);
    const float2 a = unpack_bf16(v.x), b = unpack_bf16(v.y);
    const float k[kDims] = {a.x, a.y, b.x, b.y};
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      const float dot = warp_sum(q[h][0] * k[0] + q[h][1] * k[1] + q[h][2] * k[2] + q[h][3] * k[3]);
      if (lane == 0) partial[turn][h][warp] = dot;
    }
    __syncthreads();
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      const float score = (partial[turn][h][0] + partial[turn][h][1] + partial[turn][h][2] + partial[turn][h][3]) * p.scale;
      const float next = fmaxf(top[h], score), kept = __expf(top[h] - next), weight = __expf(score - next);
      top[h] = next;
      sum[h] = sum[h] * kept + weight;
#pragma unroll
      for (int i = 0; i < kDims; ++i) out[h][i] = out[h][i] * kept + weight * k[i];
    }
    turn ^= 1;
  }
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    float x[kDims];
    for (int i = 0; i < kDims; ++i) x[i] = out[h][i] / sum[h];
    if (threadIdx.x >= kNopeDim / kDims) {
      const float4 t =
          *reinterpret_cast<const float4*>(p.rope + static_cast<size_t>(token) * 32 + (threadIdx.x - kNopeDim / kDims) * 2);
      const float y[kDims] = {x[0] * t.x + x[1] * t.y, x[1] * t.x - x[0] * t.y, x[2] * t.z + x[3] * t.w, x[3] * t.z - x[2] * t.w};
      for (int i = 0; i < kDims; ++i) x[i] = y[i];
    }
    *reinterpret_cast<uint2*>(p.attended + (static_cast<size_t>(token) * p.heads + head0 + h) * kHeadDim + threadIdx.x * kDims) =
        make_uint2(pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]));
  }
}

}  // namespace twelvex::bench
