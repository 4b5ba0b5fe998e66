// SPDX-License-Identifier: MIT
// Sixteen lanes take a group of 128 columns, eight columns each; a block of 256 threads takes 16 groups.
#include "arch/dependent_launch.cuh"
#include "common/check.h"
#include "common/reduce.cuh"
#include "gemm/quantise.cuh"
#include "gemm/quantise.h"
#include "gemm/weight_layout.h"

namespace twelvex::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kGroupsPerBlock = kThreads / 16;

/// Pairs of four lanes transposed: lane l gets word l of each.
__device__ __forceinline__ uint4 to_operand_order(const uint4& v) {
  const uint32_t lane = threadIdx.x % 4;
  const uint32_t in[4] = {v.x, v.y, v.z, v.w};
  uint32_t out[4];
  const auto select = [](const uint32_t(&w)[4], uint32_t i) { return i & 2 ? (i & 1 ? w[3] : w[2]) : (i & 1 ? w[1] : w[0]); };
  uint32_t got[4];  // from lane ^ d
#pragma unroll
  for (uint32_t d = 0; d < 4; ++d) got[d] = __shfl_xor_sync(kFullWarp, select(in, lane ^ d), d);
#pragma unroll
  for (uint32_t i = 0; i < 4; ++i) out[i] = select(got, lane ^ i);
  return make_uint4(out[0], out[1], out[2], out[3]);
}

template <bool kRound, bool kOrder>
__global__ void __launch_bounds__(kThreads) quantise_kernel(const QuantiseParams p, int groups_per_row) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  const int64_t group = static_cast<int64_t>(blockIdx.x) * kGroupsPerBlock + threadIdx.x / 16;
  const int64_t row = group / groups_per_row;
  const int col = static_cast<int>(group - row * groups_per_row) * kScaleBlock + (threadIdx.x % 16) * 8;
  const bool valid = row < p.rows && col < p.cols;
  uint4 v = make_uint4(0, 0, 0, 0);
  if (valid) v = *reinterpret_cast<const uint4*>(p.x + row * p.ldx + col);
  if constexpr (kRound) v = requantise_bf16x8(v, activation_scale(warp_max<16>(amax_bf16x8(v))));
  if constexpr (kOrder) v = to_operand_order(v);
  if (valid) *reinterpret_cast<uint4*>(p.y + row * p.cols + col) = v;
}

}  // namespace

void run_quantise(const QuantiseParams& p) {
  if (p.rows == 0 || p.cols == 0) return;
  TWELVEX_NEED(p.cols % 8, 0);
  TWELVEX_NEED(p.ldx % 8, 0);
  const int groups_per_row = static_cast<int>(ceil_div(p.cols, kScaleBlock));
  const int64_t blocks = ceil_div(static_cast<int64_t>(p.rows) * groups_per_row, kGroupsPerBlock);
  if (p.operand_order) TWELVEX_NEED(p.cols % 32, 0);
  const auto kernel = !p.operand_order ? quantise_kernel<true, false>
                      : p.round        ? quantise_kernel<true, true>
                                       : quantise_kernel<false, true>;
  launch_dependent({static_cast<unsigned>(blocks), kThreads, 0, p.stream}, kernel, p, groups_per_row);
}

}  // namespace twelvex::cuda
