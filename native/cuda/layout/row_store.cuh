// SPDX-License-Identifier: MIT
// A warp writes one cache row from registers, in the cache's format.
#pragma once

#include "common/convert.cuh"
#include "common/reduce.cuh"
#include "layout/kv_row.h"

namespace twelvex::cuda {

/// Row of 512: lane l holds dims 16 l .. 16 l + 15; lanes 28 .. 31 hold the rotary part.
__device__ __forceinline__ void store_kv_row(const RowPages& pages, int block, int row, const float (&v)[16], int lane) {
  if (pages.format == RowFormat::kBF16) {
    auto* out = reinterpret_cast<uint32_t*>(pages.row_bf16(block, row)) + lane * 8;
#pragma unroll
    for (int i = 0; i < 8; ++i) out[i] = pack_bf16(v[2 * i], v[2 * i + 1]);
    return;
  }
  float amax = 0;
#pragma unroll
  for (int i = 0; i < 16; ++i) amax = fmaxf(amax, fabsf(v[i]));
  amax = warp_max<4>(amax);  // four lanes hold a group of 64 dims
  const uint8_t byte = e8m0_scale(amax);
  uint8_t* data = pages.row_fp8(block, row);
  uint8_t* scales = pages.scales_fp8(block, row);
  if (lane < kNopeDim / 16) {
    const float inverse = 1.0f / e8m0_to_float(byte);
    uint32_t words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      words[i] = to_e4m3x2(v[4 * i] * inverse, v[4 * i + 1] * inverse) |
                 static_cast<uint32_t>(to_e4m3x2(v[4 * i + 2] * inverse, v[4 * i + 3] * inverse)) << 16;
    }
    *(reinterpret_cast<uint4*>(data) + lane) = make_uint4(words[0], words[1], words[2], words[3]);
    if (lane % 4 == 0) scales[lane / 4] = byte;
  } else {
    auto* out = reinterpret_cast<uint32_t*>(data + kNopeDim) + (lane - kNopeDim / 16) * 8;
#pragma unroll
    for (int i = 0; i < 8; ++i) out[i] = pack_bf16(v[2 * i], v[2 * i + 1]);
    if (lane == kNopeDim / 16) scales[7] = 0;
  }
}

/// Indexer row of 128: lane l holds dims 4 l .. 4 l + 3.
__device__ __forceinline__ void store_index_row(const RowPages& pages, int block, int row, const float (&v)[4], int lane) {
  if (pages.format == RowFormat::kBF16) {
    *(reinterpret_cast<uint2*>(pages.index_bf16(block, row)) + lane) = make_uint2(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]));
    return;
  }
  const float amax = warp_max(fmaxf(fmaxf(fabsf(v[0]), fabsf(v[1])), fmaxf(fabsf(v[2]), fabsf(v[3]))));
  const float scale = e8m0_to_float(e8m0_scale(amax)), inverse = 1.0f / scale;
  *(reinterpret_cast<uint32_t*>(pages.index_fp8(block, row)) + lane) =
      to_e4m3x2(v[0] * inverse, v[1] * inverse) | static_cast<uint32_t>(to_e4m3x2(v[2] * inverse, v[3] * inverse)) << 16;
  if (lane == 0) *pages.index_scale_fp8(block, row) = scale;
}

}  // namespace twelvex::cuda
