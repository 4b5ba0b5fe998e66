// SPDX-License-Identifier: MIT
// Products with few rows: where a warp's unit of weights lies, and the loads of weights, scales and activations.
#pragma once

#include <cstdint>

#include "common/convert.cuh"
#include "gemm/stream_plan.h"

namespace twelvex::cuda::stream {

inline constexpr int kNone = 1 << 30;  // key of no unit

/// A unit, as one warp knows it.
struct alignas(16) Place {
  int key;           // dense: segment; grouped: index into tiles, times segments; kNone: no unit
  int index;         // among the key's units
  int expert;
  uint32_t rows;     // row of its first token (sorted where grouped) and, in the low bits, tokens
  uint32_t weights;  // tile 0 of this warp's first chunk in its segment, in units of 16 bytes
  uint32_t scales;   // byte offset of its scales in the segment
  uint32_t second;   // from tile 0's weights to tile 1's (experts: gate to up), in units of 16 bytes; 0: there is no tile 1
  int segment;

  static constexpr int kTokenBits = 5;
  __device__ int first() const { return static_cast<int>(rows >> kTokenBits); }
  __device__ int tokens() const { return static_cast<int>(rows & ((1 << kTokenBits) - 1)); }
};

static_assert(2 * sizeof(Place) == kStreamPlaces);

/// A chunk of a unit, for loads of its weights and scales.
struct Source {
  uint32_t weights, scales, second;  // as a place's, of this lane
  int segment;
  int cells;  // from here to the row's end; 0: no unit
};

/// 16 bytes; `v` stays as it is when `valid` is false: a predicated load, no branch. A warp asks for 512 bytes in a row; with a
/// hint that L2 should fetch 256 (`L2::256B`) a step of one token takes 1 % longer (bench/results/2026-11-23-load-hints.md).
__device__ __forceinline__ void load_weights(uint4& v, const uint8_t* address, bool valid) {
  asm volatile(
      "{\n .reg .pred valid;\n setp.ne.u32 valid, %5, 0;\n"
      " @valid ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];\n}\n"
      : "+r"(v.x), "+r"(v.y), "+r"(v.z), "+r"(v.w)
      : "l"(address), "r"(static_cast<uint32_t>(valid)));
}

/// The same of a word of scales, which is read once too.
__device__ __forceinline__ void load_scale_word(uint32_t& v, const uint8_t* address, bool valid) {
  asm volatile("{\n .reg .pred valid;\n setp.ne.u32 valid, %2, 0;\n @valid ld.global.nc.L1::no_allocate.u32 %0, [%1];\n}\n"
               : "+r"(v)
               : "l"(address), "r"(static_cast<uint32_t>(valid)));
}

/// 16 bytes of activations, which other kernels of the same graph write, or zeros. Volatile: not hoisted, registers are short.
__device__ __forceinline__ uint4 load_activations(const bf16* address, bool valid) {
  uint4 v;
  asm volatile(
      "{\n .reg .pred valid;\n setp.ne.u32 valid, %5, 0;\n"
      " mov.u32 %0, 0;\n mov.u32 %1, 0;\n mov.u32 %2, 0;\n mov.u32 %3, 0;\n"
      " @valid ld.global.v4.u32 {%0,%1,%2,%3}, [%4];\n}\n"
      : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
      : "l"(address), "r"(static_cast<uint32_t>(valid))
      : "memory");
  return v;
}

/// 16 bytes of shared memory.
template <int kOffset>
__device__ __forceinline__ uint4 load_shared(uint32_t address) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4 + %5];\n"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(address), "n"(kOffset));
  return v;
}

}  // namespace twelvex::cuda::stream
