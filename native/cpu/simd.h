// SPDX-License-Identifier: MIT
// Vectors of TWELVEX_WIDTH floats in the compiler's own vector types, so that one source serves every instruction set.
// Included by kernels_impl.h only; internal linkage, because each translation unit is compiled with other flags.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace twelvex::cpu {
namespace {

constexpr int W = TWELVEX_WIDTH;

typedef float Vec __attribute__((vector_size(W * 4)));
typedef int32_t Ints __attribute__((vector_size(W * 4)));
typedef uint32_t Words __attribute__((vector_size(W * 4)));
typedef float LooseVec __attribute__((vector_size(W * 4), aligned(4), may_alias));
typedef uint32_t LooseWords __attribute__((vector_size(W * 4), aligned(4), may_alias));
typedef uint8_t LooseBytes __attribute__((vector_size(W), aligned(1), may_alias));
typedef uint16_t LooseHalves __attribute__((vector_size(W * 2), aligned(1), may_alias));
typedef float Quad __attribute__((vector_size(16)));
typedef float LooseQuad __attribute__((vector_size(16), aligned(4), may_alias));

inline Vec load(const float* p) { return *reinterpret_cast<const LooseVec*>(p); }
inline void store(float* p, Vec v) { *reinterpret_cast<LooseVec*>(p) = v; }
inline Vec broadcast(float x) { return x - Vec{}; }
inline Words load_words(const void* p) { return *static_cast<const LooseWords*>(p); }
inline Words widen_bytes(const uint8_t* p) { return __builtin_convertvector(*reinterpret_cast<const LooseBytes*>(p), Words); }
inline Words widen_halves(const uint16_t* p) { return __builtin_convertvector(*reinterpret_cast<const LooseHalves*>(p), Words); }
inline Vec as_floats(Words w) { return reinterpret_cast<Vec>(w); }
inline Words as_words(Vec v) { return reinterpret_cast<Words>(v); }
inline Vec larger(Vec a, Vec b) { return a > b ? a : b; }
inline Vec smaller(Vec a, Vec b) { return a < b ? a : b; }

/// These lanes of `a` and `b` laid end to end. GCC 11 has no __builtin_shufflevector; from this one compilers make the same code.
template <int... LANES, typename V>
inline auto lanes(V a, V b) {
  typedef float Lanes __attribute__((vector_size(sizeof...(LANES) * 4)));
  constexpr int n = sizeof(V) / 4;
  return Lanes{(LANES < n ? a[LANES % n] : b[LANES % n])...};
}

/// Sum of the vector's quarters (halves, itself): the first step of every horizontal sum.
inline Quad fold(Vec v) {
#if TWELVEX_WIDTH == 16
  const auto half = lanes<0, 1, 2, 3, 4, 5, 6, 7>(v, v) + lanes<8, 9, 10, 11, 12, 13, 14, 15>(v, v);
  return lanes<0, 1, 2, 3>(half, half) + lanes<4, 5, 6, 7>(half, half);
#elif TWELVEX_WIDTH == 8
  return lanes<0, 1, 2, 3>(v, v) + lanes<4, 5, 6, 7>(v, v);
#else
  return v;
#endif
}

/// Horizontal sums of four quads.
inline Quad sum_quads(Quad a, Quad b, Quad c, Quad d) {
  const Quad ab = lanes<0, 4, 1, 5>(a, b) + lanes<2, 6, 3, 7>(a, b);
  const Quad cd = lanes<0, 4, 1, 5>(c, d) + lanes<2, 6, 3, 7>(c, d);
  return lanes<0, 1, 4, 5>(ab, cd) + lanes<2, 3, 6, 7>(ab, cd);
}

/// Horizontal sums of four vectors.
inline Quad sum_each(Vec a, Vec b, Vec c, Vec d) { return sum_quads(fold(a), fold(b), fold(c), fold(d)); }

/// The same order of additions as sum_each.
inline float sum(Vec v) {
  const Quad q = fold(v);
  return (q[0] + q[2]) + (q[1] + q[3]);
}

inline float largest_lane(Vec v) {
  float best = v[0];
  for (int i = 1; i < W; ++i) best = v[i] > best ? v[i] : best;
  return best;
}

/// exp with a relative error of about 2^-23; below -87.3 exactly 0.
inline Vec exp_lanes(Vec x) {
  constexpr float kLowest = -87.33654f, kHighest = 88.37626f;
  const Vec bounded = smaller(larger(x, broadcast(kLowest)), broadcast(kHighest));
  // Adding 1.5 * 2^23 rounds to an integer, whose low bits are then the float's.
  const Vec shifted = bounded * 1.44269504f + 12582912.0f;
  const Vec n = shifted - 12582912.0f;
  Vec r = bounded - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  Vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const Vec result = as_floats(as_words(p) + (as_words(shifted) << 23));
  return x < kLowest ? Vec{} : result;
}

}  // namespace
}  // namespace twelvex::cpu
