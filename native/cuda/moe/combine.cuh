// SPDX-License-Identifier: MIT
#pragma once

#include "common/convert.cuh"
#include "moe/combine.h"

namespace twelvex::cuda {

__device__ __forceinline__ void add_vector(float (&sum)[8], const uint4& values) {
  float v[8];
  unpack_bf16x8(values, v);
#pragma unroll
  for (int i = 0; i < 8; ++i) sum[i] += v[i];
}

/// Vector `at` (of eight columns) of a token's output. `rows[k]`: sorted row of pick k.
__device__ __forceinline__ uint4 combine_vector(const CombineParams& p, int token, int at, const int32_t* rows) {
  const int64_t vectors = p.cols / 8;
  float total[8] = {};
#pragma unroll
  for (size_t part = 0; part < kParts; ++part) {
    float sum[8] = {};
    if (p.rows[part] != nullptr) {
#pragma unroll 8
      for (int k = 0; k < p.picks; ++k) {
        const int row = rows[k];
        if (row >= 0) add_vector(sum, reinterpret_cast<const uint4*>(p.rows[part])[row * vectors + at]);
      }
    }
    if (p.shared[part] != nullptr) add_vector(sum, reinterpret_cast<const uint4*>(p.shared[part])[token * vectors + at]);
    add_vector(total, pack_bf16x8(sum));
  }
  return pack_bf16x8(total);
}

}  // namespace twelvex::cuda
