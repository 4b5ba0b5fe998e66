// SPDX-License-Identifier: MIT
#include "attention/gather.h"

#include "common/check.h"
#include "common/convert.cuh"
#include "common/device.h"

namespace twelvex::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;

/// One row by one warp: 32 lanes x 32 bytes of bf16.
__device__ __forceinline__ void copy_row(const RowPages& pages, int block, int row, uint8_t* out, int lane) {
  auto* to = reinterpret_cast<uint4*>(out);
  if (pages.format == RowFormat::kBF16) {
    const auto* from = reinterpret_cast<const uint4*>(pages.row_bf16(block, row));
    to[lane] = __ldg(from + lane);
    to[lane + 32] = __ldg(from + lane + 32);
    return;
  }
  // Lanes 0..27 widen 16 e4m3 each; the rotary part is eight 16-byte pieces of bf16.
  const uint8_t* from = pages.row_fp8(block, row);
  if (lane < 28) {
    const uint4 bytes = __ldg(reinterpret_cast<const uint4*>(from) + lane);
    const bf162 scale = __float2bfloat162_rn(e8m0_to_float(__ldg(pages.scales_fp8(block, row) + lane / 4)));
    uint2 wide[4] = {e4m3x4_to_bf16x4(bytes.x), e4m3x4_to_bf16x4(bytes.y), e4m3x4_to_bf16x4(bytes.z), e4m3x4_to_bf16x4(bytes.w)};
    auto* pairs = reinterpret_cast<bf162*>(wide);
#pragma unroll
    for (int k = 0; k < 8; ++k) pairs[k] = __hmul2(pairs[k], scale);
    to[2 * lane] = make_uint4(wide[0].x, wide[0].y, wide[1].x, wide[1].y);
    to[2 * lane + 1] = make_uint4(wide[2].x, wide[2].y, wide[3].x, wide[3].y);
  }
  if (lane < 8) to[56 + lane] = __ldg(reinterpret_cast<const uint4*>(from + kNopeDim) + lane);
}

// Grid (x, batch row); warps walk over the batch row's entries and window rows.
__global__ void __launch_bounds__(kThreads) gather_kernel(const __grid_constant__ GatherParams p) {
  const int row = p.first_row + blockIdx.y, lane = threadIdx.x % 32;
  const BatchView& b = p.batch;
  const int count = b.row_count[row];
  if (count <= 0) return;
  const int last = b.row_position[row] + count - 1;
  const int entries = p.ratio ? (last + 1) / p.ratio : 0;
  const int start = p.kv.gathered_start[row], total = entries + last + 1 - start;
  for (int i = blockIdx.x * kWarps + threadIdx.x / 32; i < total; i += gridDim.x * kWarps) {
    if (i < entries) {
      const int rows = p.kv.compressed.rows;
      copy_row(p.kv.compressed, context_block(b, row, i / rows), i % rows,
               p.workspace + static_cast<size_t>(p.kv.gathered_compressed[row] + i) * kBf16RowBytes, lane);
    } else {
      const int position = start + i - entries;
      copy_row(p.kv.window, window_block(b, row, position), position % kBlockTokens,
               p.workspace + static_cast<size_t>(p.kv.gathered_window[row] + i - entries) * kBf16RowBytes, lane);
    }
  }
}

}  // namespace

void run_gather(const GatherParams& p, cudaStream_t queue) {
  if (p.rows == 0) return;
  const dim3 grid(4 * device_info().multiprocessors / p.rows + 1, p.rows);
  gather_kernel<<<grid, kThreads, 0, queue>>>(p);
  check_launch("gather_kernel");
}

}  // namespace twelvex::cuda
