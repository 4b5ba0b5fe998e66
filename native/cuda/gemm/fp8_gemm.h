// SPDX-License-Identifier: MIT
// Products on the FP8 tensor cores of sm_12x: e4m3 activations (fp8_cells.h) x e4m3 or e2m1 weights with their scales.
#pragma once

#include "gemm/gemm.h"

namespace twelvex::cuda {

inline constexpr int kFirstFp8Arch = 120;  // older ones have no fp8 mma.sync of their own

/// Whether this product's rows behind decode_rows run on FP8 tensor cores: served numerics on sm_12x, quantised weights, whole
/// groups of 128 columns, and more rows than the streaming kernels take. A pure function of shape and architecture.
bool takes_fp8(const GemmParams& params);
TilePlan plan_fp8(const GemmParams& params);

/// Dense: the decode rows as ever, then the others, quantised to cells if they are not yet. Grouped: x_fp8 alone.
void run_fp8_gemm(const GemmParams& params);

}  // namespace twelvex::cuda
