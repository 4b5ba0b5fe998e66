// SPDX-License-Identifier: MIT
// What GEMM kernels do to sums before they are stored, and the store.
#pragma once

#include "common/convert.cuh"
#include "gemm/gemm.h"

namespace twelvex::cuda {

/// Both projections are rounded to bf16 first (spec: "Expert"); limit 0 means no clamps.
__device__ __forceinline__ float swiglu(float gate, float up, float limit) {
  float g = round_bf16(gate), u = round_bf16(up);
  if (limit > 0) {
    g = fminf(g, limit);
    u = fminf(fmaxf(u, -limit), limit);
  }
  return g / (1.0f + __expf(-g)) * u;
}

/// Stores outputs row .. row + 7 of activation row `token`, those that the segment has.
__device__ __forceinline__ void store_eight(const GemmSegment& s, int token, int row, const bf16* values) {
  bf16* y = static_cast<bf16*>(s.y) + static_cast<int64_t>(token) * s.ldy + row;
  if (row + 8 <= s.rows && s.ldy % 8 == 0) {
    *reinterpret_cast<uint4*>(y) = *reinterpret_cast<const uint4*>(values);
  } else {
#pragma unroll 1
    for (int j = 0; j < 8 && row + j < s.rows; ++j) y[j] = values[j];
  }
}

}  // namespace twelvex::cuda
