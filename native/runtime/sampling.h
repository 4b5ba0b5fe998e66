// SPDX-License-Identifier: MIT
// How a token is drawn, the same on every backend.
//
// From raw logits: (1) tokens outside the mask get -inf; (2) penalties: repetition divides positive logits and multiplies
// negative ones of every token seen, then frequency * count and presence are subtracted for tokens of the output, drafts
// accepted earlier in the same row included; (3) biases are added; (4) temperature 0 takes the largest, ties to the lower id.
// Otherwise (5) divide by the temperature; (6) keep the top_k largest, ties to the lower id; (7) of these, normalised, the
// shortest prefix in falling order whose sum reaches top_p; (8) of these, what has at least min_p times the largest
// probability; (9) draw by inverse cumulative distribution over the kept tokens in ascending id, with one uniform number.
//
// That number depends on the request's seed and the absolute position of the drawn token alone: Philox-4x32-10 (Salmon et
// al., "Parallel random numbers: as easy as 1, 2, 3", 2011) with key = seed and counter = (position, 0, 0, 0).
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define TWELVEX_HOST_DEVICE __host__ __device__
#else
#define TWELVEX_HOST_DEVICE
#endif

namespace twelvex {

/// First output word of Philox-4x32-10.
TWELVEX_HOST_DEVICE inline uint32_t philox_word(uint64_t key, uint64_t counter) {
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  uint32_t c0 = static_cast<uint32_t>(counter), c1 = static_cast<uint32_t>(counter >> 32), c2 = 0, c3 = 0;
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * c0, p1 = uint64_t{0xCD9E8D57u} * c2;
    const uint32_t n0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0, n2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c0 = n0;
    c1 = static_cast<uint32_t>(p1);
    c2 = n2;
    c3 = static_cast<uint32_t>(p0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c0;
}

/// Uniform in [0, 1), a multiple of 2^-24.
TWELVEX_HOST_DEVICE inline float uniform_at(uint64_t seed, uint64_t position) {
  return static_cast<float>(philox_word(seed, position) >> 8) * (1.0f / 16777216.0f);
}

}  // namespace twelvex
