// SPDX-License-Identifier: MIT
// The kernels of kernels.h for vectors of TWELVEX_WIDTH floats. Included once per instruction set.
#pragma once

#include "gemm_kernel.h"
#include "kernels.h"
#include "simd.h"

namespace twelvex::cpu {
namespace {

// ---------------------------------------------------------------- dot products

/// FETCH: the next four rows come from main memory while these are multiplied.
template <int VECTORS, int ROWS, bool FETCH>
inline void dot_tile(const DotArgs& a, int vector, int row) {
  const float* x = a.vectors + static_cast<size_t>(vector) * a.vector_stride;
  const float* const* rows = a.rows + row;
  Vec sums[VECTORS][ROWS] = {};
  for (int d = 0; d < a.dim; d += W) {
    Vec y[ROWS];
#pragma GCC unroll 4
    for (int r = 0; r < ROWS; ++r) {
      y[r] = load(rows[r] + d);
      if constexpr (FETCH) __builtin_prefetch(rows[ROWS + r] + d);
    }
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; ++v) {
      const Vec value = load(x + static_cast<size_t>(v) * a.vector_stride + d);
#pragma GCC unroll 4
      for (int r = 0; r < ROWS; ++r) sums[v][r] += value * y[r];
    }
  }
#pragma GCC unroll 4
  for (int v = 0; v < VECTORS; ++v) {
    float* out = a.out + static_cast<size_t>(vector + v) * a.out_stride + row;
    if constexpr (ROWS == 4) {
      *reinterpret_cast<LooseQuad*>(out) = sum_each(sums[v][0], sums[v][1], sums[v][2], sums[v][3]);
    } else {
      for (int r = 0; r < ROWS; ++r) out[r] = sum(sums[v][r]);
    }
  }
}

template <int ROWS, bool FETCH>
inline void dot_vectors(const DotArgs& a, int row) {
  constexpr int kVectors = W == 16 ? 4 : 2;
  int vector = 0;
  if (FETCH && kVectors <= a.vectors_count) {
    dot_tile<kVectors, ROWS, true>(a, vector, row);
    vector = kVectors;
  }
  for (; vector + kVectors <= a.vectors_count; vector += kVectors) dot_tile<kVectors, ROWS, false>(a, vector, row);
  for (; vector < a.vectors_count; ++vector) dot_tile<1, ROWS, false>(a, vector, row);
}

void dot(const DotArgs& a) {
  int row = 0;
  for (; row + 8 <= a.row_count; row += 4) dot_vectors<4, true>(a, row);
  for (; row + 4 <= a.row_count; row += 4) dot_vectors<4, false>(a, row);
  for (; row < a.row_count; ++row) dot_vectors<1, false>(a, row);
}

// ---------------------------------------------------------------- weighted sums of cache rows

constexpr int kMixDim = 512;

/// FETCH: brings the same part of the next rows nearer.
template <int VECTORS, bool FETCH>
inline void mix_tile(const MixArgs& a, int vector, int d) {
  constexpr int kAcross = 2;
  float* out = a.out + static_cast<size_t>(vector) * kMixDim + d;
  const float* weights = a.weights + static_cast<size_t>(vector) * a.weight_stride;
  Vec sums[VECTORS][kAcross];
#pragma GCC unroll 8
  for (int v = 0; v < VECTORS; ++v) {
    for (int i = 0; i < kAcross; ++i) sums[v][i] = load(out + v * kMixDim + i * W) * a.scale[vector + v];
  }
  for (int j = 0; j < a.row_count; ++j) {
    const float* row = a.rows[j] + d;
    Vec values[kAcross];
    for (int i = 0; i < kAcross; ++i) {
      values[i] = load(row + i * W);
      if constexpr (FETCH) __builtin_prefetch(a.next[j] + d + i * W);
    }
#pragma GCC unroll 8
    for (int v = 0; v < VECTORS; ++v) {
      const Vec weight = broadcast(weights[static_cast<size_t>(v) * a.weight_stride + j]);
      for (int i = 0; i < kAcross; ++i) sums[v][i] += weight * values[i];
    }
  }
#pragma GCC unroll 8
  for (int v = 0; v < VECTORS; ++v) {
    for (int i = 0; i < kAcross; ++i) store(out + v * kMixDim + i * W, sums[v][i]);
  }
}

template <int VECTORS>
inline void mix_vectors(const MixArgs& a, int vector) {
  for (int d = 0; d < kMixDim; d += 2 * W) {
    vector == 0 ? mix_tile<VECTORS, true>(a, vector, d) : mix_tile<VECTORS, false>(a, vector, d);
  }
}

void mix(const MixArgs& a) {
  constexpr int kVectors = W == 16 ? 8 : 4;
  int vector = 0;
  for (; vector + kVectors <= a.vectors_count; vector += kVectors) mix_vectors<kVectors>(a, vector);
  for (; vector + 4 <= a.vectors_count; vector += 4) mix_vectors<4>(a, vector);
  for (; vector < a.vectors_count; ++vector) mix_vectors<1>(a, vector);
}

// ---------------------------------------------------------------- compressor pooling

void pool(const PoolArgs& a) {
  for (int c = 0; c < a.channels; c += W) {
    Vec top = load(a.gates[0] + c);
    for (int s = 1; s < a.slots; ++s) top = larger(top, load(a.gates[s] + c));
    Vec total = {}, weighted = {};
    for (int s = 0; s < a.slots; ++s) {
      const Vec weight = exp_lanes(load(a.gates[s] + c) - top);
      total += weight;
      weighted += weight * load(a.values[s] + c);
    }
    store(a.out + c, weighted / total);
  }
}

// ---------------------------------------------------------------- reductions and elementwise

float largest(const float* x, int count) {
  float best = x[0];
  int i = 0;
  if (count >= W) {
    Vec top = load(x);
    for (i = W; i + W <= count; i += W) top = larger(top, load(x + i));
    best = largest_lane(top);
  }
  for (; i < count; ++i) best = x[i] > best ? x[i] : best;
  return best;
}

/// Lanes 0 .. count of x, the rest `fill`.
inline Vec load_some(const float* x, int count, float fill) {
  float lanes[W];
  for (int i = 0; i < W; ++i) lanes[i] = i < count ? x[i] : fill;
  return load(lanes);
}

float exp_sum(float* x, int count, float scale, float shift) {
  Vec total = {};
  int i = 0;
  for (; i + W <= count; i += W) {
    const Vec e = exp_lanes(load(x + i) * scale - shift);
    store(x + i, e);
    total += e;
  }
  if (i < count) {
    const Vec e = exp_lanes(load_some(x + i, count - i, 0) * scale - shift);
    for (int lane = 0; i + lane < count; ++lane) {
      x[i + lane] = e[lane];
      total[lane] += e[lane];
    }
  }
  return sum(total);
}

float exp_total(const float* x, int count, float shift) {
  Vec total = {};
  int i = 0;
  for (; i + W <= count; i += W) total += exp_lanes(load(x + i) - shift);
  if (i < count) total += exp_lanes(load_some(x + i, count - i, shift - 1000.0f) - shift);
  return sum(total);
}

float square_sum(const float* x, int count) {
  Vec first = {}, second = {};
  int i = 0;
  for (; i + 2 * W <= count; i += 2 * W) {
    const Vec a = load(x + i), b = load(x + i + W);
    first += a * a;
    second += b * b;
  }
  float total = sum(first + second);
  for (; i < count; ++i) total += x[i] * x[i];
  return total;
}

void scale_by(const float* x, float factor, const float* weight, int count, float* out) {
  int i = 0;
  for (; i + W <= count; i += W) store(out + i, load(x + i) * factor * load(weight + i));
  for (; i < count; ++i) out[i] = x[i] * factor * weight[i];
}

void collapse(const float* streams, const float* weights, int count, float* out) {
  const float *s0 = streams, *s1 = s0 + count, *s2 = s1 + count, *s3 = s2 + count;
  int i = 0;
  for (; i + W <= count; i += W) {
    Vec y = load(s0 + i) * weights[0];
    y += load(s1 + i) * weights[1];
    y += load(s2 + i) * weights[2];
    y += load(s3 + i) * weights[3];
    store(out + i, y);
  }
  for (; i < count; ++i) out[i] = s0[i] * weights[0] + s1[i] * weights[1] + s2[i] * weights[2] + s3[i] * weights[3];
}

void expand(const float* mix, const float* output, int count, float* streams) {
  const float *post = mix, *comb = mix + 4;
  float *s0 = streams, *s1 = s0 + count, *s2 = s1 + count, *s3 = s2 + count;
  int i = 0;
  for (; i + W <= count; i += W) {
    const Vec o = load(output + i), x0 = load(s0 + i), x1 = load(s1 + i), x2 = load(s2 + i), x3 = load(s3 + i);
    for (int k = 0; k < 4; ++k) {
      Vec y = o * post[k];
      y += x0 * comb[k];
      y += x1 * comb[4 + k];
      y += x2 * comb[8 + k];
      y += x3 * comb[12 + k];
      store(streams + static_cast<size_t>(k) * count + i, y);
    }
  }
  for (; i < count; ++i) {
    const float x0 = s0[i], x1 = s1[i], x2 = s2[i], x3 = s3[i];
    for (int k = 0; k < 4; ++k) {
      streams[static_cast<size_t>(k) * count + i] =
          output[i] * post[k] + x0 * comb[k] + x1 * comb[4 + k] + x2 * comb[8 + k] + x3 * comb[12 + k];
    }
  }
}

void sinkhorn(float* comb, int iterations, float eps) {
  Quad rows[4];
  for (int j = 0; j < 4; ++j) rows[j] = *reinterpret_cast<const LooseQuad*>(comb + 4 * j);
  const auto divide_columns = [&] {
    const Quad total = ((rows[0] + rows[1]) + (rows[2] + rows[3])) + eps;
    for (int j = 0; j < 4; ++j) rows[j] = rows[j] / total;
  };
  divide_columns();
  for (int i = 1; i < iterations; ++i) {
    const Quad total = sum_quads(rows[0], rows[1], rows[2], rows[3]) + eps;
    for (int j = 0; j < 4; ++j) rows[j] = rows[j] / total[j];
    divide_columns();
  }
  for (int j = 0; j < 4; ++j) *reinterpret_cast<LooseQuad*>(comb + 4 * j) = rows[j];
}

void gate_up(const float* gate, const float* up, float limit, int count, float* out) {
  for (int i = 0; i < count; i += W) store(out + i, gated(load(gate + i), load(up + i), limit, 1.0f));
}

// ---------------------------------------------------------------- cache rows to float

void widen_bf16(const uint16_t* x, int count, float* out) {
  for (int i = 0; i < count; i += W) store(out + i, as_floats(widen_halves(x + i) << 16));
}

void widen_e4m3(const uint8_t* codes, float scale, int count, float* out) {
  // Exponent and mantissa moved into place as a float, whose exponent is then 120 too low; the products also get subnormals
  // right. Two of them, because 2^120 * scale may overflow.
  const float rescale = scale * 0x1p60f;
  for (int i = 0; i < count; i += W) {
    const Words w = widen_bytes(codes + i);
    store(out + i, as_floats(((w & 0x80u) << 24) | ((w & 0x7fu) << 20)) * 0x1p60f * rescale);
  }
}

constexpr Kernels make_table(const char* name) {
  return {name,       gemm,     dot,      mix,    pool,     largest, exp_sum,    exp_total,
          square_sum, scale_by, collapse, expand, sinkhorn, gate_up, widen_bf16, widen_e4m3};
}

}  // namespace
}  // namespace twelvex::cpu
