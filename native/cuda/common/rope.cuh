// SPDX-License-Identifier: MIT
// Rotary angles: float32 products as in the reference, then an exact range reduction.
#pragma once

#include <cuda_runtime.h>

namespace twelvex::cuda {

/// Frequencies of the 32 pairs.
struct RopeFrequencies {
  float pair[32];
};

#if defined(__CUDACC__)
/// (cos, sin) of float(position) * frequency.
__device__ __forceinline__ float2 rope_turn(int position, float frequency) {
  const double angle = static_cast<double>(static_cast<float>(position) * frequency);
  // |angle| is at most 2^20; two constants hold 2 pi to well below float precision after the product.
  const double turns = rint(angle * 0.15915494309189535);
  const float rest = static_cast<float>(fma(turns, -6.283185307179586, angle));
  float sine, cosine;
  // |rest| <= pi: no slow path is needed, so the accurate small-argument polynomials suffice.
  sincospif(rest * 0.3183098861837907f, &sine, &cosine);
  return make_float2(cosine, sine);
}
#endif

}  // namespace twelvex::cuda
