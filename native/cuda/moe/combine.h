// SPDX-License-Identifier: MIT
// The output of the expert sub-layer from those of its experts.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

#include "runtime/ops.h"

namespace twelvex::cuda {

/// y[t] = sum over k of rows[row_of_slot[t, k]] + shared[t], f32 in this order, rounded once; of two parts, both such sums added
/// as ranks add them (comm/all_reduce.h). Without picks: the sum of two parts in `shared`.
struct CombineParams {
  int tokens = 0;                            // T
  int cols = 0;                              // D, a multiple of 8
  int picks = 0;                             // K
  const int32_t* row_of_slot = nullptr;      // [T, K]
  Parts<const __nv_bfloat16*> rows = {};     // [S, D]; null: no routed experts in this part
  Parts<const __nv_bfloat16*> shared = {};   // [T, D]; null: no shared expert in this part
  __nv_bfloat16* y = nullptr;                // [T, D]
  cudaStream_t stream = nullptr;
};
void run_combine(const CombineParams& params);

}  // namespace twelvex::cuda
