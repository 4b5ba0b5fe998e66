// SPDX-License-Identifier: MIT
// What GEMM kernels do to sums before they are stored.
#pragma once

#include "common/convert.cuh"

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

}  // namespace twelvex::cuda
