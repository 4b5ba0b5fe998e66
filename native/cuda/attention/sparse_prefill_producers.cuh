// SPDX-License-Identifier: MIT
// Sparse prefill attention: what its blocks have in shared memory, and the producer warps, which bring rows there. The protocol
// between them and the math warps: sparse_prefill.cuh.
#pragma once

#include "arch/async_copy.cuh"
#include "attention/candidates.cuh"
#include "attention/sparse_prefill.h"
#include "common/convert.cuh"
#include "common/reduce.cuh"

namespace twelvex::cuda::prefill {

inline constexpr int kMathWarps = 8;
inline constexpr int kMathThreads = kMathWarps * 32;
inline constexpr int kProducerWarps = 4;        // registers move between groups of four warps
inline constexpr int kTeams = 2;                // of two producers
inline constexpr int kTeamWarps = kProducerWarps / kTeams;
inline constexpr int kQuarters = 4;             // of the 512 dims
inline constexpr int kRowStride = kBf16RowBytes + 16;

template <int kHeads, int kTile, int kStages, bool kFp8>
struct Config {
  static constexpr int heads = kHeads, tile = kTile, stages = kStages;
  static constexpr bool fp8 = kFp8;
  static constexpr int threads = kMathThreads + kProducerWarps * 32;
  // Two math warps and one producer share what 384 threads are launched with: 168 registers each.
  static constexpr int math_registers = kFp8 ? 184 : 208, producer_registers = kFp8 ? 136 : 88;
  static_assert(2 * math_registers + producer_registers <= 3 * 168);
  static_assert(kStages % kTeams == 0);
  static_assert(kHeads <= kTile, "the query takes one slot");
};

template <class C>
struct alignas(128) SmemPlan {
  uint8_t rows[C::stages][C::tile][kRowStride];
  union {
    float partial[kQuarters][C::heads][C::tile + 8];
    struct {
      __nv_bfloat16 staged[kMathWarps][16][64 + 8];        // the output, 16 rows at a time
      float amax[C::heads / 16][kMathWarps][16];           // of the rows in each warp's columns, for cells
    };
  };
  __nv_bfloat16 weights[C::heads][C::tile + 8];
  float rescale[C::heads];                               // of the accumulated output; at the end 1 / denominator
  uint32_t valid[C::stages][C::tile / 32];               // bit i: candidate i of the tile counts
  uint64_t full[C::stages], empty[C::stages];
};

/// Position in the ring; producers and consumers walk it in step.
struct Cursor {
  int slot = 0;
  uint32_t phase = 0;
  template <int kStages>
  __device__ __forceinline__ void next() {
    if (++slot == kStages) slot = 0, phase ^= 1;
  }
};

template <class C>
__device__ __forceinline__ void load_query(const SparsePrefillParams& p, SmemPlan<C>& s, int slot, int token, int head0,
                                           int lane) {
  const int heads = min(C::heads, p.heads - head0);
  asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
  if (lane == 0) mbarrier_expect(&s.full[slot], heads * kBf16RowBytes);
  mbarrier_arrive_warp(&s.full[slot], lane);
  const __nv_bfloat16* q = p.query + (static_cast<size_t>(token) * p.heads + head0) * kHeadDim;
  for (int h = lane; h < heads; h += 32) bulk_copy(s.rows[slot][h], q + h * kHeadDim, kBf16RowBytes, &s.full[slot]);
}

/// The team member's half of the tile's validity bits.
template <class C>
__device__ __forceinline__ void set_valid(SmemPlan<C>& s, int slot, int member, uint32_t mask) {
  if constexpr (C::tile == 64) {
    s.valid[slot][member] = mask;
  } else {
    reinterpret_cast<uint16_t*>(s.valid[slot])[member] = static_cast<uint16_t>(mask);
  }
}

/// bf16 rows: one bulk copy a row. Invalid candidates load the token's own row (finite) and are masked.
template <class C>
__device__ __forceinline__ void bring_bf16(const SparsePrefillParams& p, const CandidateList& list, SmemPlan<C>& s, Cursor at,
                                           int first, int member, int lane) {
  constexpr int kRows = C::tile / kTeamWarps;  // of this warp: 16 or 32
  first += member * kRows;
  const int id = lane < kRows ? list.id(first + lane) : -1;
  const uint32_t mask = __ballot_sync(kFullWarp, id >= 0);
  const uint8_t* row =
      bf16_row(p.batch, p.kv, list.row, id >= 0 && first + lane < list.compressed, id >= 0 ? id : list.own_position());
  mbarrier_wait(&s.empty[at.slot], at.phase ^ 1);
  if (lane == 0) {
    set_valid(s, at.slot, member, mask);
    mbarrier_expect(&s.full[at.slot], kRows * kBf16RowBytes);
  }
  mbarrier_arrive_warp(&s.full[at.slot], lane);
  if (lane < kRows) bulk_copy(s.rows[at.slot][member * kRows + lane], row, kBf16RowBytes, &s.full[at.slot]);
}

/// 16 fp8 rows on their way through a warp's registers: 28 pieces of 16 e4m3 a row.
struct Fp8Rows {
  static constexpr int kRows = 16;
  static constexpr int kPieces = kRows * 28 / 32;  // of this lane
  const uint8_t* data;   // of row `lane`, lanes < kRows
  uint2 scales;
  uint32_t mask;         // validity
  uint4 piece[kPieces];

  __device__ __forceinline__ void load(const SparsePrefillParams& p, const CandidateList& list, int first, int lane) {
    data = nullptr;
    int id = -1;
    scales = make_uint2(0, 0);
    if (lane < kRows) {
      id = list.id(first + lane);
      const bool compressed = id >= 0 && first + lane < list.compressed;
      const PagedRow at = paged_row(p.batch, p.kv, list.row, compressed, id >= 0 ? id : list.own_position());
      data = at.pages->row_fp8(at.block, at.row);
      scales = *reinterpret_cast<const uint2*>(at.pages->scales_fp8(at.block, at.row));
    }
    mask = __ballot_sync(kFullWarp, id >= 0);
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      const int c = i * 32 + lane;
      const uint64_t row = __shfl_sync(kFullWarp, reinterpret_cast<uint64_t>(data), c / 28);
      piece[i] = __ldg(reinterpret_cast<const uint4*>(row) + c % 28);
    }
  }

  __device__ __forceinline__ void store(uint8_t (*rows)[kRowStride], int lane) const {
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      const int c = i * 32 + lane, row = c / 28, at = c % 28, group = at / 4;
      const bf162 scale = __float2bfloat162_rn(e8m0_to_float(rows[row][kBf16RowBytes + group]));
      uint2 wide[4] = {e4m3x4_to_bf16x4(piece[i].x), e4m3x4_to_bf16x4(piece[i].y), e4m3x4_to_bf16x4(piece[i].z),
                       e4m3x4_to_bf16x4(piece[i].w)};
      auto* pairs = reinterpret_cast<bf162*>(wide);
#pragma unroll
      for (int k = 0; k < 8; ++k) pairs[k] = __hmul2(pairs[k], scale);
      auto* out = reinterpret_cast<uint4*>(rows[row] + at * 32);
      out[0] = make_uint4(wide[0].x, wide[0].y, wide[1].x, wide[1].y);
      out[1] = make_uint4(wide[2].x, wide[2].y, wide[3].x, wide[3].y);
    }
  }
};

/// fp8 rows, widened on the way: each warp of the pair brings half of the tile. Loaded before the slot is free, so that the
/// latency hides behind the wait; the 128 bytes of bf16 of a row follow as a bulk copy.
template <class C>
__device__ __forceinline__ void bring_fp8(const SparsePrefillParams& p, const CandidateList& list, SmemPlan<C>& s, Cursor at,
                                          int first, int member, int lane) {
  static_assert(C::tile == kTeamWarps * Fp8Rows::kRows);
  uint8_t(*rows)[kRowStride] = s.rows[at.slot] + member * Fp8Rows::kRows;
  Fp8Rows batch;
  batch.load(p, list, first + member * Fp8Rows::kRows, lane);
  mbarrier_wait(&s.empty[at.slot], at.phase ^ 1);
  if (lane == 0) {
    set_valid(s, at.slot, member, batch.mask);
    mbarrier_expect(&s.full[at.slot], Fp8Rows::kRows * kRopeDim * 2);
  }
  // The row's scales wait in its padding: registers are what this warp has least of.
  if (lane < Fp8Rows::kRows) *reinterpret_cast<uint2*>(rows[lane] + kBf16RowBytes) = batch.scales;
  __syncwarp();
  if (lane < Fp8Rows::kRows) bulk_copy(rows[lane] + kNopeDim * 2, batch.data + kNopeDim, kRopeDim * 2, &s.full[at.slot]);
  batch.store(rows, lane);
  mbarrier_arrive_warp(&s.full[at.slot], lane);
}

template <class C>
__device__ void produce(const SparsePrefillParams& p, SmemPlan<C>& s, int items, int groups, int warp, int lane) {
  const int team = warp / kTeamWarps, member = warp % kTeamWarps;
  Cursor at;
  int turn = 0;
  for (int item = blockIdx.x; item < items; item += gridDim.x) {
    const int token = p.first_token + item / groups;
    const CandidateList list = CandidateList::of(p.batch, p.kind, p.selection, p.topk, token);
    if (list.total == 0) continue;
    if (turn++ % kTeams == team) {
      mbarrier_wait(&s.empty[at.slot], at.phase ^ 1);
      if (member == 0) {
        load_query<C>(p, s, at.slot, token, item % groups * C::heads, lane);
      } else {
        mbarrier_arrive_warp(&s.full[at.slot], lane);
      }
    }
    at.next<C::stages>();
    for (int first = 0; first < list.total; first += C::tile) {
      if (turn++ % kTeams == team) {
        if constexpr (C::fp8) {
          bring_fp8<C>(p, list, s, at, first, member, lane);
        } else {
          bring_bf16<C>(p, list, s, at, first, member, lane);
        }
      }
      at.next<C::stages>();
    }
  }
}

}  // namespace twelvex::cuda::prefill
