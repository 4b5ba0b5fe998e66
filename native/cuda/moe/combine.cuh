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

/// Vector `at` (of eight columns) of a token's output in one part. `rows[k]`: sorted row of pick k.
__device__ __forceinline__ uint4 combine_part(const CombineParams& p, size_t part, int token, int at, const int32_t* rows) {
  const int64_t vectors = p.cols / 8;
  float sum[8] = {};
  if (p.rows[part] != nullptr) {
#pragma unroll 8
    for (int k = 0; k < p.picks; ++k) {
      const int row = rows[k];
      if (row >= 0) add_vector(sum, reinterpret_cast<const uint4*>(p.rows[part])[row * vectors + at]);
    }
  }
  if (p.shared[part] != nullptr) add_vector(sum, reinterpret_cast<const uint4*>(p.shared[part])[token * vectors + at]);
  return pack_bf16x8(sum);
}

/// The same with several loads under way at once, for who has nothing else to wait for.
__device__ __forceinline__ uint4 combine_part_at_once(const CombineParams& p, size_t part, int token, int at,
                                                      const int32_t* rows) {
  constexpr int kBatch = 6;
  const int64_t vectors = p.cols / 8;
  const uint4 none = make_uint4(0, 0, 0, 0);
  const uint4 shared =
      p.shared[part] != nullptr ? reinterpret_cast<const uint4*>(p.shared[part])[token * vectors + at] : none;
  float sum[8] = {};
  const int picks = p.rows[part] != nullptr ? p.picks : 0;
  for (int first = 0; first < picks; first += kBatch) {
    uint4 values[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int row = first + i < picks ? rows[first + i] : -1;
      values[i] = row >= 0 ? reinterpret_cast<const uint4*>(p.rows[part])[row * vectors + at] : none;
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) add_vector(sum, values[i]);
  }
  add_vector(sum, shared);
  return pack_bf16x8(sum);
}

/// Vector `at` of a token's output.
__device__ __forceinline__ uint4 combine_vector(const CombineParams& p, int token, int at, const int32_t* rows) {
  float total[8] = {};
#pragma unroll
  for (size_t part = 0; part < kParts; ++part) add_vector(total, combine_part(p, part, token, at, rows));
  return pack_bf16x8(total);
}

}  // namespace twelvex::cuda
