// SPDX-License-Identifier: MIT
// Sixteen lanes take a group of 128 columns, eight columns each; a block of 256 threads takes 16 groups.
#include "common/check.h"
#include "gemm/fp8_cells.cuh"

namespace twelvex::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kGroupsPerBlock = kThreads / 16;

__global__ void __launch_bounds__(kThreads) quantise_fp8_kernel(const QuantiseParams p, int groups_per_row) {
  const int64_t group = static_cast<int64_t>(blockIdx.x) * kGroupsPerBlock + threadIdx.x / 16;
  const int64_t row = group / groups_per_row;
  const int at = static_cast<int>(group - row * groups_per_row), lane = threadIdx.x % 16;
  const bool valid = row < p.rows;
  uint4 v = make_uint4(0, 0, 0, 0);
  if (valid) v = *reinterpret_cast<const uint4*>(p.x + row * p.ldx + at * kScaleBlock + lane * 8);
  auto* cell = reinterpret_cast<uint8_t*>(p.y + row * p.cols + at * kScaleBlock);
  write_cell(valid ? cell : nullptr, lane, v);
}

}  // namespace

void run_quantise_fp8(const QuantiseParams& p) {
  if (p.rows == 0 || p.cols == 0) return;
  TWELVEX_NEED(p.cols % kScaleBlock, 0);
  TWELVEX_NEED(p.ldx % kScaleBlock, 0);
  const int groups_per_row = p.cols / kScaleBlock;
  const int64_t blocks = ceil_div(static_cast<int64_t>(p.rows) * groups_per_row, kGroupsPerBlock);
  quantise_fp8_kernel<<<static_cast<unsigned>(blocks), kThreads, 0, p.stream>>>(p, groups_per_row);
  check_launch("quantise_fp8_kernel");
}

}  // namespace twelvex::cuda
