// SPDX-License-Identifier: MIT
// Two launches in order: entries are pooled from this step's projections and from the rings as earlier steps left them; then
// the rings take this step's positions. Rings are addressed by absolute position, so a rejected draft is written again.
#include "compressor/compressor.h"

#include "arch/dependent_launch.cuh"
#include "common/check.h"
#include "common/convert.cuh"
#include "common/reduce.cuh"
#include "layout/row_store.cuh"
#include "runtime/step.h"

namespace twelvex::cuda {

namespace {

constexpr int kThreads = 128;

/// Where the un-pooled values of a position are: kv at `value`, gate at `gate`; `ape` still to be added, or null.
struct State {
  const float *value, *gate, *ape;
};

__device__ __forceinline__ float* ring_row(const CompressorParams& p, int row, int position, int width) {
  return reinterpret_cast<float*>(p.ring + p.batch.row_slot[row] * p.slot_stride) +
         static_cast<size_t>(position % p.ring_rows) * 2 * width;
}

__device__ __forceinline__ float* tail_row(const CompressorParams& p, int row, int position, int width) {
  return reinterpret_cast<float*>(p.tail + window_block(p.batch, row, position) * p.tail_stride) +
         static_cast<size_t>(position % kBlockTokens - (kBlockTokens - kCsaRatio)) * 2 * width;
}

__device__ __forceinline__ State state_of(const CompressorParams& p, int row, int position, int width) {
  const int begin = p.batch.row_position[row];
  if (position >= begin) {
    const size_t at = static_cast<size_t>(p.batch.row_first_token[row] + position - begin) * width;
    return {p.kv + at, p.gate + at, p.ape + static_cast<size_t>(position % p.ratio) * width};
  }
  const bool resumed = p.ratio == kCsaRatio && (p.batch.row_flags[row] & kRowResume);
  const float* kept = resumed ? tail_row(p, row, position, width) : ring_row(p, row, position, width);
  return {kept, kept + width, nullptr};
}

/// Online softmax over positions, one channel a register.
template <int kChannels>
struct Pool {
  float top[kChannels], sum[kChannels], value[kChannels];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int c = 0; c < kChannels; ++c) top[c] = -INFINITY, sum[c] = 0, value[c] = 0;
  }
  __device__ __forceinline__ void add(const State& s, int channel) {
#pragma unroll
    for (int c = 0; c < kChannels; ++c) {
      const int at = channel + c * kThreads;
      const float gate = s.gate[at] + (s.ape ? s.ape[at] : 0.0f);
      const float next = fmaxf(top[c], gate), kept = __expf(top[c] - next), weight = __expf(gate - next);
      sum[c] = sum[c] * kept + weight;
      value[c] = value[c] * kept + weight * s.value[at];
      top[c] = next;
    }
  }
};

// Block (token); works when the token completes a window.
template <int kDim>
__global__ void __launch_bounds__(kThreads) pool_entries_kernel(const __grid_constant__ CompressorParams p) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  __shared__ float entry[kDim];
  constexpr int kChannels = kDim / kThreads;
  const int token = blockIdx.x, row = p.batch.token_row[token];
  if (row < 0) return;
  const int position = p.batch.cache_position[token];
  if ((position + 1) % p.ratio != 0) return;
  const int begin = position + 1 - p.ratio;
  const bool overlaps = p.ratio == kCsaRatio;
  const int width = overlaps ? 2 * kDim : kDim;
  Pool<kChannels> pool;
  pool.clear();
  if (overlaps && begin > 0) {
    for (int i = 0; i < p.ratio; ++i) pool.add(state_of(p, row, begin - p.ratio + i, width), threadIdx.x);
  }
  for (int i = 0; i < p.ratio; ++i) pool.add(state_of(p, row, begin + i, width), threadIdx.x + (overlaps ? kDim : 0));
#pragma unroll
  for (int c = 0; c < kChannels; ++c) entry[threadIdx.x + c * kThreads] = pool.value[c] / pool.sum[c];
  __syncthreads();
  if (threadIdx.x >= 32) return;

  constexpr int kPerLane = kDim / 32;
  const int lane = threadIdx.x, index = begin / p.ratio;
  float v[kPerLane], squares = 0;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    v[i] = entry[lane * kPerLane + i];
    squares += v[i] * v[i];
  }
  const float factor = rsqrtf(warp_sum(squares) / kDim + p.eps);
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) v[i] *= factor * p.norm[lane * kPerLane + i];
  const int first = lane * kPerLane - (kDim - kRopeDim);
  if (first >= 0) {
#pragma unroll
    for (int i = 0; i < kPerLane; i += 2) {
      const float2 turn = rope_turn(begin, p.frequencies.pair[(first + i) / 2]);
      const float x = v[i], y = v[i + 1];
      v[i] = x * turn.x - y * turn.y;
      v[i + 1] = y * turn.x + x * turn.y;
    }
  }
  const int block = context_block(p.batch, row, index / p.entries.rows), at = index % p.entries.rows;
  if constexpr (kDim == kHeadDim) {
    store_kv_row(p.entries, block, at, v, lane);
  } else {
    store_index_row(p.entries, block, at, v, lane);
  }
}

// Blocks [0, T): keep a token's position. Blocks [T, T + R): restore the ring of a resumed row from its tail, the positions
// before the row's first (no token of the step writes those: the ring is longer than a step's reach only by rows kept here).
__global__ void __launch_bounds__(kThreads, 4) keep_positions_kernel(const __grid_constant__ CompressorParams p) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  const int width = p.width();
  if (static_cast<int>(blockIdx.x) >= p.batch.tokens) {
    const int row = blockIdx.x - p.batch.tokens, begin = p.batch.row_position[row];
    if (p.ratio != kCsaRatio || !(p.batch.row_flags[row] & kRowResume) || begin == 0 || p.batch.row_count[row] <= 0) return;
    for (int i = 1; i <= kCsaRatio; ++i) {
      if (p.batch.row_count[row] + i > p.ring_rows) break;  // newer positions own that ring row
      const float* from = tail_row(p, row, begin - i, width);
      float* to = ring_row(p, row, begin - i, width);
      for (int c = threadIdx.x; c < 2 * width; c += kThreads) to[c] = from[c];
    }
    return;
  }
  const int token = blockIdx.x, row = p.batch.token_row[token];
  if (row < 0) return;
  const int position = p.batch.cache_position[token], end = p.batch.row_position[row] + p.batch.row_count[row];
  float* ring = end - position <= p.ring_rows ? ring_row(p, row, position, width) : nullptr;
  float* tail =
      p.ratio == kCsaRatio && position % kBlockTokens >= kBlockTokens - kCsaRatio ? tail_row(p, row, position, width) : nullptr;
  if (!ring && !tail) return;
  const size_t at = static_cast<size_t>(token) * width;
  const float* ape = p.ape + static_cast<size_t>(position % p.ratio) * width;
  for (int c = threadIdx.x; c < width; c += kThreads) {
    const float value = p.kv[at + c], gate = p.gate[at + c] + ape[c];
    if (ring) ring[c] = value, ring[width + c] = gate;
    if (tail) tail[c] = value, tail[width + c] = gate;
  }
}

}  // namespace

void run_compressor(const CompressorParams& p, cudaStream_t queue) {
  if (p.batch.tokens == 0) return;
  if (p.dim == kHeadDim) {
    launch_dependent({p.batch.tokens, kThreads, 0, queue}, pool_entries_kernel<kHeadDim>, p);
  } else {
    TWELVEX_NEED(p.dim, kIndexDim);
    launch_dependent({p.batch.tokens, kThreads, 0, queue}, pool_entries_kernel<kIndexDim>, p);
  }
  launch_dependent({p.batch.tokens + p.batch.rows, kThreads, 0, queue}, keep_positions_kernel, p);
}

}  // namespace twelvex::cuda
