// SPDX-License-Identifier: MIT
// Writes cells (fp8_cells.h): sixteen lanes with eight columns each make one.
#pragma once

#include "common/reduce.cuh"
#include "gemm/fp8_cells.h"
#include "gemm/quantise.cuh"

namespace twelvex::cuda {

/// Four values as e4m3, in the order 0, 2, 1, 3.
__device__ __forceinline__ uint32_t quantise_four(uint32_t pair01, uint32_t pair23, float inverse) {
  const float2 a = unpack_bf16(pair01), b = unpack_bf16(pair23);
  return to_e4m3x2(a.x * inverse, b.x * inverse) | static_cast<uint32_t>(to_e4m3x2(a.y * inverse, b.y * inverse)) << 16;
}

/// Lane 0 .. 15 stores columns 8 lane .. 8 lane + 7 of a group with this scale.
__device__ __forceinline__ void store_cell(uint8_t* cell, int lane, const uint4& columns, uint32_t byte) {
  const float inverse = __uint_as_float((254u - byte) << 23);
  *reinterpret_cast<uint2*>(cell + lane % 4 * 32 + lane / 4 * 8) =
      make_uint2(quantise_four(columns.x, columns.y, inverse), quantise_four(columns.z, columns.w, inverse));
  if (lane == 0) *reinterpret_cast<uint32_t*>(cell + kFp8CellScale) = byte;
}

/// Every lane of the warp calls it; lane 0 .. 15 of a half warp brings columns 8 lane .. 8 lane + 7. Nothing is written before
/// the sixteen have brought theirs, so `cell` may lie where they were. Null: no cell.
__device__ __forceinline__ void write_cell(uint8_t* cell, int lane, const uint4& columns) {
  const uint32_t byte = e8m0_scale(warp_max<16>(amax_bf16x8(columns)));
  if (cell != nullptr) store_cell(cell, lane, columns, byte);
}

}  // namespace twelvex::cuda
