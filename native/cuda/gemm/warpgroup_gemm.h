// SPDX-License-Identifier: MIT
// Products of many rows on sm_90a (gemm_warpgroup.cuh): the bits of the other bf16 kernels at twice the rate.
#pragma once

#include "gemm/gemm.h"

namespace twelvex::cuda {

inline constexpr int kWarpgroupArch = 90;
inline constexpr int kGroupRows = 128;  // of a group tile: the block computes as many as the group has, in steps of 32

/// Whether a product runs there: more rows than the streaming kernels take, and room for its input in operand order or the
/// input in that order. A pure function of shape and architecture.
bool takes_warpgroup(const GemmParams& params);
TilePlan plan_warpgroup(const GemmParams& params);

/// Makes the copy in operand order if the input is not one.
void run_warpgroup_gemm(const GemmParams& params);

}  // namespace twelvex::cuda
