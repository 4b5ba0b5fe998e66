// SPDX-License-Identifier: MIT
// The block-scaled FP8 product of sm_12x (mma.m16n8k32, kind::mxf8f6f4), and the same from bf16 products on sm_90a: so all of a
// kernel but this one instruction runs on Hopper. Block-scaled because the plain e4m3 product with f32 accumulation runs at half
// of its rate on GeForce cards.
//
// d = c + sum over 32 columns of (a 2^(scale a - 127)) (b 2^(scale b - 127)), f32. Lane = 4 g + t:
//   A  four elements a word: words 0, 2 row g, words 1, 3 row g + 8; columns 4 t .. 4 t + 3, of words 2, 3: 16 more.
//   B  column g, rows 4 t .. 4 t + 3; word 1: 16 more. C, D as in mma.cuh.
//   An e2m1 element lies in bits 2 .. 5 of its byte.
//   Scales (ue8m0): of A's row r byte kByteA of the word that lane 4 (r % 8) + 2 kPairA + r / 8 holds, of B's column n the lowest
//   byte of the word that lane 4 n + kLaneB holds. Other lanes' words are not read.
#pragma once

#include <cuda_bf16.h>

#include "arch/mma.cuh"

namespace twelvex::cuda {

enum class ElementA { kE4M3, kE2M1 };

namespace emulated {

__device__ __forceinline__ uint32_t multiply_pair(uint32_t a, uint32_t b) {
  using Pair = __nv_bfloat162;
  const Pair product = __hmul2(*reinterpret_cast<const Pair*>(&a), *reinterpret_cast<const Pair*>(&b));
  return *reinterpret_cast<const uint32_t*>(&product);
}

/// 2^(byte - 127) as a bf16 pair; byte 0 is a subnormal.
__device__ __forceinline__ uint32_t scale_pair(uint32_t byte) { return byte == 0 ? 0x00400040u : byte * 0x00800080u; }

/// Bytes 0, 2 and bytes 1, 3 of a word as bf16 pairs, scaled; exact.
template <ElementA kElement>
__device__ __forceinline__ uint2 widen(uint32_t word, uint32_t scale) {
  uint32_t low, high, rebias;
  if constexpr (kElement == ElementA::kE4M3) {
    low = ((word << 8) & 0x80008000u) | ((word << 4) & 0x07f007f0u);
    high = (word & 0x80008000u) | ((word >> 4) & 0x07f007f0u);
    rebias = scale_pair(127 + 120);
  } else {
    low = ((word << 10) & 0x80008000u) | ((word << 4) & 0x01c001c0u);
    high = ((word << 2) & 0x80008000u) | ((word >> 4) & 0x01c001c0u);
    rebias = scale_pair(127 + 126);
  }
  return make_uint2(multiply_pair(multiply_pair(low, rebias), scale), multiply_pair(multiply_pair(high, rebias), scale));
}

template <ElementA kElement, int kByteA, int kPairA, int kLaneB>
__device__ __forceinline__ void mma_scaled(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, const float (&c)[4],
                                           uint32_t scales_a, uint32_t scale_b) {
  const int quad = static_cast<int>(threadIdx.x % 32) & ~3;
  const uint32_t low = scale_pair(__shfl_sync(0xffffffffu, scales_a, quad + 2 * kPairA) >> (8 * kByteA) & 0xffu);
  const uint32_t high = scale_pair(__shfl_sync(0xffffffffu, scales_a, quad + 2 * kPairA + 1) >> (8 * kByteA) & 0xffu);
  const uint32_t column = scale_pair(__shfl_sync(0xffffffffu, scale_b, quad + kLaneB) & 0xffu);
#pragma unroll
  for (int i = 0; i < 4; ++i) d[i] = c[i];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const uint2 top = widen<kElement>(a[2 * half], low), bottom = widen<kElement>(a[2 * half + 1], high);
    const uint2 b = widen<ElementA::kE4M3>(half == 0 ? b0 : b1, column);
    const uint32_t rows[4] = {top.x, bottom.x, top.y, bottom.y};
    mma_bf16(d, rows, b.x, b.y);
  }
}

}  // namespace emulated

template <ElementA kElement, int kByteA, int kPairA, int kLaneB>
__device__ __forceinline__ void mma_scaled(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, const float (&c)[4],
                                           uint32_t scales_a, uint32_t scale_b) {
  static_assert(kByteA < 4 && kPairA < 2 && kLaneB < 4);
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1200
#define TWELVEX_MMA_SCALED(element)                                                                                   \
  asm("mma.sync.aligned.kind::mxf8f6f4.block_scale.scale_vec::1X.m16n8k32.row.col.f32." element ".e4m3.f32.ue8m0 "    \
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13}, {%14}, {%15,%16}, {%17}, {%18,%19};\n"              \
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])                                                                \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]),     \
        "r"(scales_a), "n"(kByteA), "n"(kPairA), "r"(scale_b), "n"(0), "n"(kLaneB))
  if constexpr (kElement == ElementA::kE4M3) {
    TWELVEX_MMA_SCALED("e4m3");
  } else {
    TWELVEX_MMA_SCALED("e2m1");
  }
#undef TWELVEX_MMA_SCALED
#else
  emulated::mma_scaled<kElement, kByteA, kPairA, kLaneB>(d, a, b0, b1, c, scales_a, scale_b);
#endif
}

}  // namespace twelvex::cuda
