// SPDX-License-Identifier: MIT
#pragma once

#include "common/convert.cuh"
#include "moe/combine.h"

namespace twelvex::cuda {

/// Vector `at` (of eight columns) of a token's output. `rows[k]`: sorted row of pick k.
__device__ __forceinline__ uint4 combine_vector(const CombineParams& p, int token, int at, const int32_t* rows) {
  const int64_t vectors = p.cols / 8;
  float sum[8] = {}, v[8];
  if (p.rows != nullptr) {
#pragma unroll 8
    for (int k = 0; k < p.picks; ++k) {
      const int row = rows[k];
      if (row < 0) continue;
      unpack_bf16x8(reinterpret_cast<const uint4*>(p.rows)[row * vectors + at], v);
#pragma unroll
      for (int i = 0; i < 8; ++i) sum[i] += v[i];
    }
  }
  if (p.shared != nullptr) {
    unpack_bf16x8(reinterpret_cast<const uint4*>(p.shared)[token * vectors + at], v);
#pragma unroll
    for (int i = 0; i < 8; ++i) sum[i] += v[i];
  }
  return pack_bf16x8(sum);
}

}  // namespace twelvex::cuda
