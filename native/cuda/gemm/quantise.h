// SPDX-License-Identifier: MIT
// Activations rounded to what FP8 per 1 x 128 holds, kept as bf16 (spec: "Quantisers").
//
// Operand order: lanes t = 0 .. 3 of an mma hold, of every 32 columns, columns 8 t .. 8 t + 7 of a weight row (weight_layout.h),
// columns 8 t + 4 s + 2 j and the next as pair t of half j of step s. Kernels whose activations do not pass registers
// (gemm_warpgroup.cuh) need them where the tensor cores look: pair t of half j of step s at position 8 s + 4 j + t.
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
  bool round = true;                 // false: values stay as they are
  bool operand_order = false;        // y's columns; cols a multiple of 32
  cudaStream_t stream = nullptr;
};
void run_quantise(const QuantiseParams& params);

}  // namespace twelvex::cuda
