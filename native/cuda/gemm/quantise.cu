// SPDX-License-Identifier: MIT
// Sixteen lanes take a group of 128 columns, eight columns each; a block of 256 threads takes 16 groups.
#include "common/check.h"
#include "common/reduce.cuh"
#include "gemm/quantise.cuh"
#include "gemm/quantise.h"
#include "gemm/weight_layout.h"

namespace twelvex::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kGroupsPerBlock = kThreads / 16;

__global__ void __launch_bounds__(kThreads) quantise_kernel(const QuantiseParams p, int groups_per_row) {
  const int64_t group = static_cast<int64_t>(blockIdx.x) * kGroupsPerBlock + threadIdx.x / 16;
  const int64_t row = group / groups_per_row;
  const int col = static_cast<int>(group - row * groups_per_row) * kScaleBlock + (threadIdx.x % 16) * 8;
  const bool valid = row < p.rows && col < p.cols;
  uint4 v = make_uint4(0, 0, 0, 0);
  if (valid) v = *reinterpret_cast<const uint4*>(p.x + row * p.ldx + col);
  const float2 scale = activation_scale(warp_max<16>(amax_bf16x8(v)));
  if (valid) *reinterpret_cast<uint4*>(p.y + row * p.cols + col) = requantise_bf16x8(v, scale);
}

}  // namespace

void run_quantise(const QuantiseParams& p) {
  if (p.rows == 0 || p.cols == 0) return;
  TWELVEX_NEED(p.cols % 8, 0);
  TWELVEX_NEED(p.ldx % 8, 0);
  const int groups_per_row = static_cast<int>(ceil_div(p.cols, kScaleBlock));
  const int64_t blocks = ceil_div(static_cast<int64_t>(p.rows) * groups_per_row, kGroupsPerBlock);
  quantise_kernel<<<static_cast<unsigned>(blocks), kThreads, 0, p.stream>>>(p, groups_per_row);
  check_launch("quantise_kernel");
}

}  // namespace twelvex::cuda
