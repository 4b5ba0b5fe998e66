// SPDX-License-Identifier: MIT
// Activations rounded to what FP8 per 1 x 128 holds, kept as bf16 (spec: "Quantisers").
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

namespace twelvex::cuda {

struct QuantiseParams {
  int rows = 0;                      // T
  int cols = 0;                      // a multiple of 8; the last group may be short
  int ldx = 0;                       // elements from row to row of x
  const __nv_bfloat16* x = nullptr;  // [T, cols]
  __nv_bfloat16* y = nullptr;        // [T, cols], dense; may be x when ldx == cols
  cudaStream_t stream = nullptr;
};
void run_quantise(const QuantiseParams& params);

}  // namespace twelvex::cuda
