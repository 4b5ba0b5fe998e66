// SPDX-License-Identifier: MIT
// Sixteen lanes take a group of 128 columns, eight columns each; a block of 256 threads takes 16 groups. In place: no lane writes
// before the group's largest magnitude is known, so before all of it is read.
#include "common/check.h"
#include "common/reduce.cuh"
#include "gemm/fp8_cells.h"
#include "gemm/quantise.cuh"

namespace twelvex::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kGroupsPerBlock = kThreads / 16;

/// Four values as e4m3, in the order 0, 2, 1, 3.
__device__ __forceinline__ uint32_t quantise_four(uint32_t pair01, uint32_t pair23, float inverse) {
  const float2 a = unpack_bf16(pair01), b = unpack_bf16(pair23);
  return to_e4m3x2(a.x * inverse, b.x * inverse) | static_cast<uint32_t>(to_e4m3x2(a.y * inverse, b.y * inverse)) << 16;
}

__global__ void __launch_bounds__(kThreads) quantise_fp8_kernel(const QuantiseParams p, int groups_per_row) {
  const int64_t group = static_cast<int64_t>(blockIdx.x) * kGroupsPerBlock + threadIdx.x / 16;
  const int64_t row = group / groups_per_row;
  const int at = static_cast<int>(group - row * groups_per_row), lane = threadIdx.x % 16;
  const bool valid = row < p.rows;
  uint4 v = make_uint4(0, 0, 0, 0);
  if (valid) v = *reinterpret_cast<const uint4*>(p.x + row * p.ldx + at * kScaleBlock + lane * 8);
  const uint32_t byte = e8m0_scale(warp_max<16>(amax_bf16x8(v)));
  if (!valid) return;
  const float inverse = __uint_as_float((254u - byte) << 23);
  auto* cell = reinterpret_cast<uint8_t*>(p.y + row * p.cols + at * kScaleBlock);
  *reinterpret_cast<uint2*>(cell + lane % 4 * 32 + lane / 4 * 8) =
      make_uint2(quantise_four(v.x, v.y, inverse), quantise_four(v.z, v.w, inverse));
  if (lane == 0) *reinterpret_cast<uint32_t*>(cell + kFp8CellScale) = byte;
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
