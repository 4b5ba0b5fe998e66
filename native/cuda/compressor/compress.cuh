// SPDX-License-Identifier: MIT
// What a block does for one token of a compressed layer: pool the entry that the token completes, keep its position for later.
#pragma once

#include <type_traits>

#include "common/convert.cuh"
#include "common/reduce.cuh"
#include "compressor/compressor.h"
#include "layout/row_store.cuh"
#include "runtime/step.h"

namespace twelvex::cuda {

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
  // No branch stands in front of what is read of the row: all of it is fetched at once.
  const int begin = p.batch.row_position[row], first = p.batch.row_first_token[row];
  const bool resumed = p.ratio == kCsaRatio && (p.batch.row_flags[row] & kRowResume), fresh = position >= begin;
  const float* kept = ring_row(p, row, position, width);
  if (resumed && !fresh) kept = tail_row(p, row, position, width);
  const size_t at = static_cast<size_t>(first + position - begin) * width;
  return {fresh ? p.kv + at : kept, fresh ? p.gate + at : kept + width,
          fresh ? p.ape + static_cast<size_t>(position % p.ratio) * width : nullptr};
}

/// For `ready` below: there is nothing to wait for.
struct IsReady {
  __device__ __forceinline__ void operator()() const {}
};

/// Some positions in a row that are pooled.
struct PoolRun {
  int first, skipped, turn, shift;
};

/// Online softmax over positions, one channel a register.
template <int kChannels, int kThreads>
struct Pool {
  float top[kChannels], sum[kChannels], value[kChannels];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int c = 0; c < kChannels; ++c) top[c] = -INFINITY, sum[c] = 0, value[c] = 0;
  }
  /// Positions [first, first + kRun) but the first `skipped`, channels `channel` of those before `turn` and channels
  /// `channel + shift` of the others: they are found before `ready`, and all are fetched before one is added.
  template <int kRun, class Ready>
  __device__ __forceinline__ void add(const CompressorParams& p, int row, const PoolRun& run, int width, int channel,
                                      const Ready& ready) {
    constexpr bool kEarly = !std::is_same_v<Ready, IsReady>;
    State states[kEarly ? kRun : 1];
    if constexpr (kEarly) {
#pragma unroll
      for (int i = 0; i < kRun; ++i) states[i] = state_of(p, row, run.first + max(i, run.skipped), width);
      ready();
    }
    float gates[kRun][kChannels], values[kRun][kChannels];
#pragma unroll
    for (int i = 0; i < kRun; ++i) {
      if (i < run.skipped) continue;
      const State s = kEarly ? states[kEarly ? i : 0] : state_of(p, row, run.first + i, width);
#pragma unroll
      for (int c = 0; c < kChannels; ++c) {
        const int at = channel + c * kThreads + (i < run.turn ? 0 : run.shift);
        gates[i][c] = s.gate[at] + (s.ape ? s.ape[at] : 0.0f);
        values[i][c] = s.value[at];
      }
    }
#pragma unroll
    for (int i = 0; i < kRun; ++i) {
      if (i < run.skipped) continue;
#pragma unroll
      for (int c = 0; c < kChannels; ++c) {
        const float next = fmaxf(top[c], gates[i][c]), kept = __expf(top[c] - next), weight = __expf(gates[i][c] - next);
        sum[c] = sum[c] * kept + weight;
        value[c] = value[c] * kept + weight * values[i][c];
        top[c] = next;
      }
    }
  }
};

/// Entry of the window that `token` completes, if it completes one, by a block of kThreads. `entry`: shared memory. Every thread
/// calls `ready` once or more, before it reads what this step projected.
template <int kDim, int kThreads, class Ready>
__device__ __forceinline__ void pool_entry(const CompressorParams& p, int token, float* entry, const Ready& ready) {
  constexpr int kChannels = kDim > kThreads ? kDim / kThreads : 1;
  constexpr int kRun = 2 * kCsaRatio;
  static_assert(kHcaRatio % kRun == 0);
  const int row = p.batch.token_row[token], position = p.batch.cache_position[token];
  if (row < 0) return ready();
  if ((position + 1) % p.ratio != 0) return ready();
  const int begin = position + 1 - p.ratio, channel = threadIdx.x;
  const bool overlaps = p.ratio == kCsaRatio;
  const int width = overlaps ? 2 * kDim : kDim;
  constexpr int kPerLane = kDim / 32;
  const int lane = threadIdx.x, index = begin / p.ratio;
  float norm[kPerLane];
  float2 own_turn;  // of pair `lane`
  int block = 0;
  if (lane < 32) {
    own_turn = rope_turn(begin, p.frequencies.pair[lane]);
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) norm[i] = p.norm[lane * kPerLane + i];
    block = context_block(p.batch, row, index / p.entries.rows);
  }
  if (channel < kDim) {
    Pool<kChannels, kThreads> pool;
    pool.clear();
    const PoolRun whole{begin - kCsaRatio, begin > 0 ? 0 : kCsaRatio, kCsaRatio, kDim};
    for (int i = 0; i < (overlaps ? 1 : p.ratio); i += kRun) {
      pool.template add<kRun>(p, row, overlaps ? whole : PoolRun{begin + i, 0, kRun, 0}, width, channel, ready);
    }
#pragma unroll
    for (int c = 0; c < kChannels; ++c) entry[channel + c * kThreads] = pool.value[c] / pool.sum[c];
  } else {
    ready();
  }
  __syncthreads();
  if (lane >= 32) return;

  float v[kPerLane], squares = 0;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    v[i] = entry[lane * kPerLane + i];
    squares += v[i] * v[i];
  }
  const float factor = rsqrtf(warp_sum(squares) / kDim + p.eps);
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) v[i] *= factor * norm[i];
  const int first = lane * kPerLane - (kDim - kRopeDim);
#pragma unroll
  for (int i = 0; i < kPerLane; i += 2) {
    const int pair = first >= 0 ? (first + i) / 2 : 0;
    const float2 turn = make_float2(__shfl_sync(kFullWarp, own_turn.x, pair), __shfl_sync(kFullWarp, own_turn.y, pair));
    const float x = v[i], y = v[i + 1];
    if (first >= 0) v[i] = x * turn.x - y * turn.y, v[i + 1] = y * turn.x + x * turn.y;
  }
  const int at = index % p.entries.rows;
  if constexpr (kDim == kHeadDim) {
    store_kv_row(p.entries, block, at, v, lane);
  } else {
    store_index_row(p.entries, block, at, v, lane);
  }
}

/// Restores the ring of a resumed row from its tail, the positions before the row's first (no token of the step writes those:
/// the ring is longer than a step's reach only by rows kept here).
__device__ __forceinline__ void restore_ring(const CompressorParams& p, int row) {
  const int width = p.width(), begin = p.batch.row_position[row];
  if (p.ratio != kCsaRatio || !(p.batch.row_flags[row] & kRowResume) || begin == 0 || p.batch.row_count[row] <= 0) return;
  for (int i = 1; i <= kCsaRatio; ++i) {
    if (p.batch.row_count[row] + i > p.ring_rows) break;  // newer positions own that ring row
    const float* from = tail_row(p, row, begin - i, width);
    float* to = ring_row(p, row, begin - i, width);
    for (int c = threadIdx.x; c < 2 * width; c += blockDim.x) to[c] = from[c];
  }
}

/// Keeps a token's position in the ring and, at a block's end, in the tail. Every thread calls `ready` once, before it reads what
/// this step projected.
template <class Ready>
__device__ __forceinline__ void keep_position(const CompressorParams& p, int token, const Ready& ready) {
  const int row = p.batch.token_row[token], width = p.width();
  if (row < 0) return ready();
  const int position = p.batch.cache_position[token], end = p.batch.row_position[row] + p.batch.row_count[row];
  float* ring = end - position <= p.ring_rows ? ring_row(p, row, position, width) : nullptr;
  float* tail =
      p.ratio == kCsaRatio && position % kBlockTokens >= kBlockTokens - kCsaRatio ? tail_row(p, row, position, width) : nullptr;
  if (!ring && !tail) return ready();
  const size_t at = static_cast<size_t>(token) * width;
  const float* ape = p.ape + static_cast<size_t>(position % p.ratio) * width;
  const int first = threadIdx.x * 4, step = blockDim.x * 4;
  float4 bias = first < width ? *reinterpret_cast<const float4*>(ape + first) : float4{};
  ready();
  for (int c = first; c < width; c += step) {
    const float4 value = *reinterpret_cast<const float4*>(p.kv + at + c);
    float4 gate = *reinterpret_cast<const float4*>(p.gate + at + c);
    if (c > first) bias = *reinterpret_cast<const float4*>(ape + c);
    gate = make_float4(gate.x + bias.x, gate.y + bias.y, gate.z + bias.z, gate.w + bias.w);
    for (float* to : {ring, tail}) {
      if (to == nullptr) continue;
      *reinterpret_cast<float4*>(to + c) = value;
      *reinterpret_cast<float4*>(to + width + c) = gate;
    }
  }
}

}  // namespace twelvex::cuda
