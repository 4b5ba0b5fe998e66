// SPDX-License-Identifier: MIT
// Products on the FP8 tensor cores of sm_12x: e4m3 activations (fp8_cells.h) x e4m3 or e2m1 weights with their scales.
#pragma once

#include "gemm/gemm.h"

namespace twelvex::cuda {

inline constexpr int kFirstFp8Arch = 120;  // older ones have no fp8 mma.sync of their own
inline constexpr int kFp8GroupRows = 64;   // of a group tile
inline constexpr int kFp8BlockRows = 128, kFp8GroupBlockRows = 256;  // weight rows of a block: dense, grouped

/// Whether this product's rows behind decode_rows run on FP8 tensor cores: served numerics on sm_12x, quantised weights, whole
/// groups of 128 columns, more rows than the streaming kernels take and, behind decode rows, so many that the second reading of
/// the weights pays. A pure function of shape and architecture.
bool takes_fp8(const GemmParams& params);
/// Whether experts of decode and other tokens (slots: tokens x experts per token) run apart, so that the others can take FP8.
bool experts_apart(int decode_slots, int other_slots, int experts);
TilePlan plan_fp8(const GemmParams& params);

/// Dense: the decode rows as ever, then the others, quantised to cells if they are not yet. Grouped: x_fp8 alone.
void run_fp8_gemm(const GemmParams& params);

}  // namespace twelvex::cuda
