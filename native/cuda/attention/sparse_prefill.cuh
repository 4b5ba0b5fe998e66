// SPDX-License-Identifier: MIT
// Kernel of sparse prefill attention (sparse_prefill.cu launches it; bench/kernels times its configurations).
//
// One work item is a token x 16 or 32 heads; persistent blocks walk over items. A gathered KV row enters shared memory
// once and serves all heads of the block, as key and as value.
//
//   four producer warps -> ring of kStages slots (kTile rows of 1,024 + 16 bytes) -> eight math warps
//     full[s]:  the slot's rows are there. Bulk copies complete it by bytes (bf16 rows); widening warps arrive (fp8).
//     empty[s]: one arrival per math warp; the slot may be overwritten.
//   Two pairs of producers take slots in turns, so that the chain index -> block table -> row of one tile runs beside the
//   other's. (One warp for all tiles: 142 TFLOP/s on an H100, waiting for that chain.) A slot always belongs to the same pair:
//   a wait by parity must not run two phases ahead.
//   The item's query is a slot of the same ring, in front of its candidate tiles, so that it is prefetched like them.
//
//   Per tile, math warp w:  S: candidates half (w & 1), dims quarter (w >> 1), query fragments held in registers.
//     Quarter sums meet in `partial` | barrier | 256 threads: sum, online softmax, weights to bf16 | barrier |
//     O[:, 64 w .. 64 w + 63] += weights * rows.
//   Reads of shared memory per 64 candidates: 64 KB keys, 32 + 32 KB partial sums, 96 KB weights and values.
//
// Row stride 1,040 = 65 x 16 bytes; 65 is odd, so the eight rows of one ldmatrix fall into eight bank groups.
#pragma once

#include "arch/async_copy.cuh"
#include "arch/mma.cuh"
#include "attention/sparse_prefill_producers.cuh"
#include "common/convert.cuh"
#include "common/device.h"
#include "common/reduce.cuh"
#include "gemm/fp8_cells.cuh"

namespace twelvex::cuda::prefill {

inline constexpr int kMathBarrier = 1;
inline constexpr float kLog2e = 1.4426950408889634f;

/// Registers of one math thread.
template <class C>
struct MathState {
  static constexpr int kM = C::heads / 16;
  static constexpr int kLanesPerRow = kMathThreads / C::heads;   // softmax: 8 or 16 threads a head
  static constexpr int kValues = C::tile / kLanesPerRow;         // 2, 4 or 8 scores a thread
  uint32_t q[kM][8][4];       // query fragments of this warp's quarter
  float out[kM][8][4];        // output fragments: 64 columns
  float row_max, row_sum;     // of softmax row threadIdx.x / kLanesPerRow; row_max in units of log2
};

template <class C>
__device__ __forceinline__ void read_query(MathState<C>& r, const uint8_t (*rows)[kRowStride], int warp, int lane) {
  const uint32_t base = smem_address(rows) + (lane % 16) * kRowStride + (warp >> 1) * 256 + (lane / 16) * 16;
#pragma unroll
  for (int m = 0; m < MathState<C>::kM; ++m)
#pragma unroll
    for (int k = 0; k < 8; ++k) ldmatrix_x4(r.q[m][k], base + m * 16 * kRowStride + k * 32);
}

/// Quarter sums of the scores of this warp's half of the tile -> partial.
template <class C>
__device__ __forceinline__ void score_tile(const MathState<C>& r, SmemPlan<C>& s, int slot, int warp, int lane) {
  constexpr int kM = MathState<C>::kM, kPairs = C::tile / 32;
  float acc[kM][2 * kPairs][4] = {};
  const int half = (warp & 1) * (C::tile / 2), quarter = warp >> 1;
  const uint32_t base =
      smem_address(s.rows[slot]) + (half + lane % 8 + lane / 16 * 8) * kRowStride + quarter * 256 + (lane / 8 % 2) * 16;
#pragma unroll
  for (int k = 0; k < 8; ++k) {
#pragma unroll
    for (int n = 0; n < kPairs; ++n) {
      uint32_t b[4];
      ldmatrix_x4(b, base + n * 16 * kRowStride + k * 32);
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        mma_bf16(acc[m][2 * n], r.q[m][k], b[0], b[1]);
        mma_bf16(acc[m][2 * n + 1], r.q[m][k], b[2], b[3]);
      }
    }
  }
  const int g = lane / 4, column = half + lane % 4 * 2;
#pragma unroll
  for (int m = 0; m < kM; ++m)
#pragma unroll
    for (int n = 0; n < 2 * kPairs; ++n) {
      auto& rows = s.partial[quarter];
      *reinterpret_cast<float2*>(&rows[m * 16 + g][column + n * 8]) = make_float2(acc[m][n][0], acc[m][n][1]);
      *reinterpret_cast<float2*>(&rows[m * 16 + g + 8][column + n * 8]) = make_float2(acc[m][n][2], acc[m][n][3]);
    }
}

/// One online-softmax step for this thread's scores: partial -> weights, rescale.
template <class C>
__device__ __forceinline__ void softmax_tile(MathState<C>& r, SmemPlan<C>& s, int slot, float scale) {
  constexpr int kLanes = MathState<C>::kLanesPerRow, kValues = MathState<C>::kValues;
  constexpr int kVector = kValues < 4 ? kValues : 4, kChunks = kValues / kVector;
  const int row = threadIdx.x / kLanes, j = threadIdx.x % kLanes;
  float v[kValues];
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
    const int column = (c * kLanes + j) * kVector;
    const uint32_t valid = s.valid[slot][column / 32] >> (column % 32);
    float sum[kVector] = {};
#pragma unroll
    for (int k = 0; k < kQuarters; ++k) {
      if constexpr (kVector == 4) {
        const float4 f = *reinterpret_cast<const float4*>(&s.partial[k][row][column]);
        sum[0] += f.x, sum[1] += f.y, sum[2] += f.z, sum[3] += f.w;
      } else {
        const float2 f = *reinterpret_cast<const float2*>(&s.partial[k][row][column]);
        sum[0] += f.x, sum[1] += f.y;
      }
    }
#pragma unroll
    for (int i = 0; i < kVector; ++i) v[c * kVector + i] = (valid >> i & 1) ? sum[i] * scale : -INFINITY;
  }
  float top = v[0];
#pragma unroll
  for (int i = 1; i < kValues; ++i) top = fmaxf(top, v[i]);
  top = fmaxf(r.row_max, warp_max<kLanes>(top));
  const float base = top == -INFINITY ? 0.0f : top;
  const float rescale = exp2f(r.row_max - base);
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kValues; ++i) sum += v[i] = exp2f(v[i] - base);
  r.row_sum = r.row_sum * rescale + warp_sum<kLanes>(sum);
  r.row_max = top;
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
    uint32_t* out = reinterpret_cast<uint32_t*>(&s.weights[row][(c * kLanes + j) * kVector]);
    out[0] = pack_bf16(v[c * kVector], v[c * kVector + 1]);
    if constexpr (kVector == 4) out[1] = pack_bf16(v[c * kVector + 2], v[c * kVector + 3]);
  }
  if (j == 0) s.rescale[row] = rescale;
}

/// out = out * rescale + weights * rows, this warp's 64 columns.
template <class C>
__device__ __forceinline__ void value_tile(MathState<C>& r, const SmemPlan<C>& s, int slot, int warp, int lane) {
  constexpr int kM = MathState<C>::kM;
  const int g = lane / 4;
#pragma unroll
  for (int m = 0; m < kM; ++m) {
    const float low = s.rescale[m * 16 + g], high = s.rescale[m * 16 + g + 8];
    if (!__any_sync(kFullWarp, low != 1.0f || high != 1.0f)) continue;
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      r.out[m][n][0] *= low, r.out[m][n][1] *= low;
      r.out[m][n][2] *= high, r.out[m][n][3] *= high;
    }
  }
  constexpr int kWeightStride = (C::tile + 8) * 2;
  const uint32_t weights = smem_address(s.weights) + (lane % 16) * kWeightStride + (lane / 16) * 16;
  const uint32_t rows = smem_address(s.rows[slot]) + (lane % 16) * kRowStride + warp * 128 + (lane / 16) * 16;
#pragma unroll
  for (int k = 0; k < C::tile / 16; ++k) {
    uint32_t a[kM][4];
#pragma unroll
    for (int m = 0; m < kM; ++m) ldmatrix_x4(a[m], weights + m * 16 * kWeightStride + k * 32);
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      uint32_t b[4];
      ldmatrix_x4_trans(b, rows + k * 16 * kRowStride + n * 32);
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        mma_bf16(r.out[m][2 * n], a[m], b[0], b[1]);
        mma_bf16(r.out[m][2 * n + 1], a[m], b[2], b[3]);
      }
    }
  }
}

/// This warp's half of a group of every staged row; its neighbour has the other half, so they exchange the largest magnitudes.
template <class C>
__device__ __forceinline__ void store_cells(SmemPlan<C>& s, __nv_bfloat16* attended, int heads, int m, int warp, int lane) {
  const auto columns = [&](int row) { return *reinterpret_cast<const uint4*>(&s.staged[warp][row][lane % 8 * 8]); };
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = i * 4 + lane / 8;
    const float amax = warp_max<8>(amax_bf16x8(columns(row)));
    if (lane % 8 == 0) s.amax[m][warp][row] = amax;
  }
  named_barrier(kMathBarrier, kMathThreads);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = i * 4 + lane / 8;
    if (row >= heads) continue;
    const uint32_t byte = e8m0_scale(fmaxf(s.amax[m][warp][row], s.amax[m][warp ^ 1][row]));
    auto* cell = reinterpret_cast<uint8_t*>(attended + row * kHeadDim + warp / 2 * kScaleBlock);
    store_cell(cell, warp % 2 * 8 + lane % 8, columns(row), byte);
  }
}

/// Divides by the denominator with the sink, rotates the last 64 dims back, stores this warp's 64 columns.
template <class C>
__device__ __forceinline__ void finish_item(const SparsePrefillParams& p, MathState<C>& r, SmemPlan<C>& s, int token, int head0,
                                            int warp, int lane) {
  constexpr int kM = MathState<C>::kM, kLanes = MathState<C>::kLanesPerRow;
  const int row = threadIdx.x / kLanes;
  if (threadIdx.x % kLanes == 0) {
    const float sink = head0 + row < p.heads ? p.sinks[head0 + row] * kLog2e : 0.0f;
    // The sink is one more score without a value. Relative to the larger of the two maxima nothing overflows.
    const float top = fmaxf(r.row_max, sink);
    const float kept = exp2f(r.row_max - top);
    s.rescale[row] = kept / (r.row_sum * kept + exp2f(sink - top));
  }
  named_barrier(kMathBarrier, kMathThreads);
  auto& stage = s.staged[warp];
  const int g = lane / 4, q = lane % 4;
  const float2* rope = p.rope + static_cast<size_t>(token) * (kRopeDim / 2);
#pragma unroll
  for (int m = 0; m < kM; ++m) {
    const float low = s.rescale[m * 16 + g], high = s.rescale[m * 16 + g + 8];
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      float2 x = make_float2(r.out[m][n][0] * low, r.out[m][n][1] * low);
      float2 y = make_float2(r.out[m][n][2] * high, r.out[m][n][3] * high);
      if (warp == kMathWarps - 1) {
        const float2 turn = rope[n * 4 + q];
        x = make_float2(x.x * turn.x + x.y * turn.y, x.y * turn.x - x.x * turn.y);
        y = make_float2(y.x * turn.x + y.y * turn.y, y.y * turn.x - y.x * turn.y);
      }
      *reinterpret_cast<uint32_t*>(&stage[g][n * 8 + q * 2]) = pack_bf16(x.x, x.y);
      *reinterpret_cast<uint32_t*>(&stage[g + 8][n * 8 + q * 2]) = pack_bf16(y.x, y.y);
    }
    __syncwarp();
    __nv_bfloat16* attended = p.attended + (static_cast<size_t>(token) * p.heads + head0 + m * 16) * kHeadDim;
    const int heads = p.heads - head0 - m * 16;
    bool stored = false;
    if constexpr (!C::fp8) {
      if (p.cells) store_cells<C>(s, attended, heads, m, warp, lane);
      stored = p.cells;
    }
    if (!stored) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int out_row = i * 4 + lane / 8;
        if (out_row >= heads) continue;
        *reinterpret_cast<uint4*>(attended + out_row * kHeadDim + warp * 64 + lane % 8 * 8) =
            *reinterpret_cast<const uint4*>(&stage[out_row][lane % 8 * 8]);
      }
    }
    __syncwarp();
  }
  named_barrier(kMathBarrier, kMathThreads);  // `partial` and `rescale` are free for the next item
}

template <class C>
__device__ void consume(const SparsePrefillParams& p, SmemPlan<C>& s, int items, int groups, int warp, int lane) {
  MathState<C> r;
  Cursor at;
  const float scale = p.scale * kLog2e;
  for (int item = blockIdx.x; item < items; item += gridDim.x) {
    const int token = p.first_token + item / groups, head0 = item % groups * C::heads;
    const CandidateList list = CandidateList::of(p.batch, p.kind, p.selection, p.topk, token);
    if (list.total == 0) continue;
    mbarrier_wait(&s.full[at.slot], at.phase);
    read_query<C>(r, s.rows[at.slot], warp, lane);
    mbarrier_arrive_warp(&s.empty[at.slot], lane);
    at.next<C::stages>();
#pragma unroll
    for (int m = 0; m < MathState<C>::kM; ++m)
#pragma unroll
      for (int n = 0; n < 8; ++n) r.out[m][n][0] = r.out[m][n][1] = r.out[m][n][2] = r.out[m][n][3] = 0;
    r.row_max = -INFINITY;
    r.row_sum = 0;
    for (int first = 0; first < list.total; first += C::tile) {
      mbarrier_wait(&s.full[at.slot], at.phase);
      score_tile<C>(r, s, at.slot, warp, lane);
      named_barrier(kMathBarrier, kMathThreads);
      softmax_tile<C>(r, s, at.slot, scale);
      named_barrier(kMathBarrier, kMathThreads);
      value_tile<C>(r, s, at.slot, warp, lane);
      mbarrier_arrive_warp(&s.empty[at.slot], lane);
      at.next<C::stages>();
    }
    named_barrier(kMathBarrier, kMathThreads);  // every warp has read `rescale`
    finish_item<C>(p, r, s, token, head0, warp, lane);
  }
}

template <class C>
__global__ void __launch_bounds__(C::threads, 1) sparse_prefill_kernel(const __grid_constant__ SparsePrefillParams p) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
  if constexpr (sizeof(SmemPlan<C>) > kMaxSharedBytes) return;  // a configuration of sm_90a
#endif
  extern __shared__ __align__(128) uint8_t shared[];
  auto& s = *reinterpret_cast<SmemPlan<C>*>(shared);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (threadIdx.x == 0) {
    for (int i = 0; i < C::stages; ++i) {
      mbarrier_init(&s.full[i], kTeamWarps * kArrivalsPerWarp);
      mbarrier_init(&s.empty[i], kMathWarps * kArrivalsPerWarp);
    }
    mbarrier_fence_init();
  }
  __syncthreads();
  const int groups = (p.heads + C::heads - 1) / C::heads, items = p.tokens * groups;
  if (warp >= kMathWarps) {
    release_registers<C::producer_registers>();
    produce<C>(p, s, items, groups, warp - kMathWarps, lane);
  } else {
    acquire_registers<C::math_registers>();
    consume<C>(p, s, items, groups, warp, lane);
  }
}

}  // namespace twelvex::cuda::prefill
