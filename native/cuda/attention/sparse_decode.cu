// SPDX-License-Identifier: MIT
// Split-KV decode attention, tiles as in decode_tile.cuh.
//
// With few tokens a block takes single tiles, so that all multiprocessors work, and the merge kernel joins them; with many it
// takes a split and joins its tiles in registers, the same sums.
#include "attention/sparse_decode.h"

#include "arch/dependent_launch.cuh"
#include "attention/decode_tile.cuh"
#include "common/check.h"
#include "gemm/quantise.cuh"

namespace twelvex::cuda {

namespace {

using namespace decode_tile;

/// Where one part of a token goes: this block's heads.
struct Part {
  float* partial;
  float2* state;
  int heads;  // real ones

  __device__ __forceinline__ Part(const SparseDecodeParams& p, int part) {
    const int head0 = blockIdx.y * kHeads;
    const size_t base = (static_cast<size_t>(blockIdx.x) * p.plan.parts + part) * p.heads + head0;
    partial = p.partial + base * kHeadDim;
    state = p.state + base;
    heads = p.heads - head0;
  }
  __device__ __forceinline__ void store(float2 row_state) const {
    const int row = threadIdx.x / 8;
    if (threadIdx.x % 8 == 0 && row < heads) state[row] = row_state;
  }
  /// This warp's columns, out[n] as value_tile gives them. They go by way of shared memory, where the warp's columns of the
  /// tile's rows were, which only it has read: whole lines are written sooner than fragments of 32 bytes.
  template <int kBlockWarps>
  __device__ __forceinline__ void store(SmemPlan& s, const float (&out)[kHeadDim / kBlockWarps / 8][4], int warp,
                                        int lane) const {
    constexpr int kColumns = kHeadDim / kBlockWarps, kHalf = kColumns / 2;
    static_assert(kTile == 2 * kHeads);
    const auto place = [&](int head, int column) {
      return reinterpret_cast<float*>(s.rows[2 * head + column / kHalf] + warp * kColumns * 2) + column % kHalf;
    };
    __syncwarp();
#pragma unroll
    for (int n = 0; n < kColumns / 8; ++n) {
      const int g = lane / 4, column = n * 8 + lane % 4 * 2;
      *reinterpret_cast<float2*>(place(g, column)) = make_float2(out[n][0], out[n][1]);
      *reinterpret_cast<float2*>(place(g + 8, column)) = make_float2(out[n][2], out[n][3]);
    }
    __syncwarp();
#pragma unroll
    for (int i = lane * 4; i < kHeads * kColumns; i += 32 * 4) {
      const int head = i / kColumns, column = i % kColumns;
      const float4 v = *reinterpret_cast<const float4*>(place(head, column));
      if (head < heads) *reinterpret_cast<float4*>(partial + head * kHeadDim + warp * kColumns + column) = v;
    }
  }
};

// Few tokens: blocks of eight warps take tiles in turn, mostly one. One copy of the code for what is done before the wait and
// behind it: a block runs it once, and fetching instructions takes longer than they do.
__global__ void __launch_bounds__(kSpreadWarps * 32, 2) decode_tiles_kernel(const __grid_constant__ SparseDecodeParams p) {
  extern __shared__ __align__(128) uint8_t shared[];
  auto& s = *reinterpret_cast<SmemPlan*>(shared);
  const int token = blockIdx.x, begin = blockIdx.z * kTile, step = gridDim.z * kTile;
  CandidateList list = CandidateList::of(p.batch, p.kind, p.selection, p.topk, token);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const bool fp8 = p.kv.window.format == RowFormat::kFp8;
  if (begin >= list.total) {
    wait_for_previous_kernel();
    return let_next_kernel_start();
  }
  if (p.all_kept) list.chosen = nullptr;
  // What the launch before has not written is fetched before it has ended.
  const bool rows_early = p.rows_ready && (list.chosen == nullptr || begin >= list.compressed);
  const QueryTurns turns(p, lane);
  // Round 0 fetches what the launch before has not written, round 1 the rest of the first tile.
#pragma unroll 1
  for (int round = 0, first = begin;; ++round) {
    if (round == 1) {
      wait_for_previous_kernel();
      let_next_kernel_start();
    }
    if (round == (p.query_ready ? 0 : 1)) load_query<kSpreadWarps>(p, s, turns);
    if (round > 1 || round == (rows_early ? 0 : 1)) {
      TileRows<kSpreadWarps> tile;
      tile.load(p, list, first);
      tile.store(s, fp8, warp, lane);
    }
    if (round == 0) continue;
    __syncthreads();
    score_tile<kSpreadWarps>(s, warp, lane);
    __syncthreads();
    const Part part(p, first / kTile);
    if (warp < kQuarters) part.store(softmax_tile<kSpreadWarps>(s, p.scale * kLog2e));
    __syncthreads();
    float out[kHeadDim / kSpreadWarps / 8][4];
    value_tile<kSpreadWarps>(s, warp, lane, [&](int n, const float (&c)[4]) {
#pragma unroll
      for (int i = 0; i < 4; ++i) out[n][i] = c[i];
    });
    part.store<kSpreadWarps>(s, out, warp, lane);
    first += step;
    if (first >= list.total) return;
    __syncthreads();
  }
}

// Many tokens: blocks of four warps take a split each.
__global__ void __launch_bounds__(kWarps * 32) decode_split_kernel(const __grid_constant__ SparseDecodeParams p) {
  extern __shared__ __align__(128) uint8_t shared[];
  auto& s = *reinterpret_cast<SmemPlan*>(shared);
  const int split = decode_split(p.kind), token = blockIdx.x, block = blockIdx.z;
  CandidateList list = CandidateList::of(p.batch, p.kind, p.selection, p.topk, token);
  if (p.all_kept) list.chosen = nullptr;
  const int begin = block * split, end = min(list.total, begin + split);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const bool fp8 = p.kv.window.format == RowFormat::kFp8, works = begin < end;
  // What the launch before has not written is fetched before it has ended.
  const bool rows_early = p.rows_ready && (list.chosen == nullptr || begin >= list.compressed);
  const QueryTurns turns(p, lane);
  TileRows<kWarps> tile;
  if (works && p.query_ready) load_query<kWarps>(p, s, turns);
#pragma unroll 1
  for (int waited = 0; waited < 2; ++waited) {
    if (waited) {
      wait_for_previous_kernel();
      let_next_kernel_start();
    }
    if (!works || rows_early == static_cast<bool>(waited)) continue;
    tile.load(p, list, begin);
    tile.store(s, fp8, warp, lane);
  }
  if (!works) return;
  if (!p.query_ready) load_query<kWarps>(p, s, turns);
  float out[kHeadDim / kWarps / 8][4] = {};
  float row_max = -INFINITY, row_sum = 0;
  for (int first = begin; first < end; first += kTile) {
    __syncthreads();
    if (first + kTile < end) tile.load(p, list, first + kTile);
    score_tile<kWarps>(s, warp, lane);
    __syncthreads();
    const float2 state = softmax_tile<kWarps>(s, p.scale * kLog2e);
    const Join join(row_max, state.x);
    row_max = join.top;
    row_sum = Join::apply(row_sum, join.kept, state.y, join.added);
    if (threadIdx.x % 8 == 0) s.kept[threadIdx.x / 8] = join.kept, s.added[threadIdx.x / 8] = join.added;
    __syncthreads();
    const float kept[2] = {s.kept[lane / 4], s.kept[lane / 4 + 8]}, added[2] = {s.added[lane / 4], s.added[lane / 4 + 8]};
    value_tile<kWarps>(s, warp, lane, [&](int n, const float (&c)[4]) {
#pragma unroll
      for (int i = 0; i < 4; ++i) out[n][i] = Join::apply(out[n][i], kept[i / 2], c[i], added[i / 2]);
    });
    __syncthreads();
    if (first + kTile < end) tile.store(s, fp8, warp, lane);
  }
  const Part part(p, block);
  part.store(make_float2(row_max, row_sum));
  part.store<kWarps>(s, out, warp, lane);
}

constexpr int kMergeThreads = kHeadDim / 4;
constexpr int kMergeColumns = 32 * 4;  // of a warp
constexpr int kMaxMergeParts = kMaxSpreadParts;

/// Four columns of a token's head that a thread merges.
struct MergedColumns {
  int token, head, column;
  float sink;
  float4 turn;  // of the last 64 columns

  __device__ __forceinline__ MergedColumns(const SparseDecodeParams& p, int first) : token(blockIdx.x), head(blockIdx.y) {
    column = first;
    sink = p.sinks[head] * kLog2e;
    turn = make_float4(1, 0, 1, 0);
    if (column < kNopeDim) return;
    turn = *reinterpret_cast<const float4*>(p.rope + static_cast<size_t>(token) * 32 + (column - kNopeDim) / 2);
  }
};

__device__ __forceinline__ void finish_merge(const SparseDecodeParams& p, const MergedColumns& m, float4 out, float sum) {
  const float inverse = 1.0f / sum;
  out.x *= inverse, out.y *= inverse, out.z *= inverse, out.w *= inverse;
  const float4 turn = m.turn;
  if (m.column >= kNopeDim) {
    out = make_float4(out.x * turn.x + out.y * turn.y, out.y * turn.x - out.x * turn.y, out.z * turn.z + out.w * turn.w,
                      out.w * turn.z - out.z * turn.w);
  }
  uint2 packed = make_uint2(pack_bf16(out.x, out.y), pack_bf16(out.z, out.w));
  if (p.quantise) {  // a warp has the 128 columns of a scale
    const float2 scale = activation_scale(warp_max(amax_bf16x8(make_uint4(packed.x, packed.y, 0, 0))));
    packed = make_uint2(requantise_pair(packed.x, scale), requantise_pair(packed.y, scale));
  }
  *reinterpret_cast<uint2*>(p.attended + (static_cast<size_t>(m.token) * p.heads + m.head) * kHeadDim + m.column) = packed;
}

// Block (token, head): joins the splits, divides by the sum with the sink, rotates the last 64 dims back.
__global__ void __launch_bounds__(kMergeThreads) merge_splits_kernel(const __grid_constant__ SparseDecodeParams p) {
  constexpr int kBatch = 8;  // splits whose outputs are fetched at once
  __shared__ float2 states[kMaxMergeParts];
  __shared__ float tops[kMergeThreads / 32];
  const int thread = threadIdx.x;
  const MergedColumns m(p, thread * 4);
  const CandidateList list = CandidateList::of(p.batch, p.kind, nullptr, p.topk, m.token);
  const int split = decode_split(p.kind), parts = (list.total + split - 1) / split;
  const size_t base = static_cast<size_t>(m.token) * p.plan.parts * p.heads + m.head;
  const auto* partial = reinterpret_cast<const float4*>(p.partial + base * kHeadDim) + thread;
  wait_for_previous_kernel();
  let_next_kernel_start();
  if (parts == 0) return;
  float top = m.sink, sum = 0;
  float4 out = make_float4(0, 0, 0, 0);
#pragma unroll 1
  for (int first = 0; first < parts; first += kBatch) {
    float4 fetched[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (first + i < parts) fetched[i] = partial[static_cast<size_t>(first + i) * p.heads * (kHeadDim / 4)];
    }
    if (first == 0) {
      for (int i = thread; i < parts; i += kMergeThreads) {
        const float2 state = states[i] = p.state[base + static_cast<size_t>(i) * p.heads];
        top = fmaxf(top, state.x);
      }
      top = warp_max(top);
      if (thread % 32 == 0) tops[thread / 32] = top;
      __syncthreads();
      for (const float t : tops) top = fmaxf(top, t);
      sum = exp2f(m.sink - top);
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (first + i >= parts) break;
      const float2 state = states[first + i];
      const float weight = exp2f(state.x - top);
      sum = __fmaf_rn(state.y, weight, sum);
      out.x = __fmaf_rn(fetched[i].x, weight, out.x), out.y = __fmaf_rn(fetched[i].y, weight, out.y);
      out.z = __fmaf_rn(fetched[i].z, weight, out.z), out.w = __fmaf_rn(fetched[i].w, weight, out.w);
    }
  }
  finish_merge(p, m, out, sum);
}

// Block (token, head, quarter of its columns), one warp: joins the tiles of few tokens to splits and these as merge_splits_kernel
// does. Its blocks are as many as the device has multiprocessors and wait for no other warp; without shared memory, whose size
// would be changed for this launch alone. Lanes find the weights of a tile each, so that what follows one by one is short.
template <int kPerSplit>
__global__ void __launch_bounds__(32) merge_tiles_kernel(const __grid_constant__ SparseDecodeParams p) {
  constexpr int kBatch = 20 / kPerSplit * kPerSplit;  // tiles whose outputs are fetched at once: whole splits
  const int lane = threadIdx.x;
  const MergedColumns m(p, blockIdx.z * kMergeColumns + lane * 4);
  const CandidateList list = CandidateList::of(p.batch, p.kind, nullptr, p.topk, m.token);
  const int parts = (list.total + kTile - 1) / kTile, stride = p.heads * (kHeadDim / 4);
  const size_t base = static_cast<size_t>(m.token) * p.plan.parts * p.heads + m.head;
  const float2* states = p.state + base;
  const auto* outputs = reinterpret_cast<const float4*>(p.partial + base * kHeadDim + m.column);
  wait_for_previous_kernel();
  let_next_kernel_start();
  if (parts == 0) return;
  float top = m.sink, sum = 0;
  float4 out = make_float4(0, 0, 0, 0);
#pragma unroll 1
  for (int first = 0; first < parts; first += kBatch) {
    // Tiles that are not there add zeros.
    float2 state = make_float2(-INFINITY, 0);
    if (lane < kBatch && first + lane < parts) state = states[(first + lane) * p.heads];
    float4 fetched[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      fetched[i] = make_float4(0, 0, 0, 0);
      if (first + i < parts) fetched[i] = outputs[(first + i) * stride];
    }
    if (first == 0) {
      top = fmaxf(top, state.x);
      for (int i = kBatch + lane; i < parts; i += 32) top = fmaxf(top, states[i * p.heads].x);
      top = warp_max(top);
      sum = exp2f(m.sink - top);
    }
    // Lane i: how tile first + i joins those of its split before it, and what the split weighs if it is the last.
    float own_top = state.x;
#pragma unroll
    for (int d = 1; d < kPerSplit; d <<= 1) {
      const float before = __shfl_up_sync(kFullWarp, own_top, d);
      if (lane % kPerSplit >= d) own_top = fmaxf(own_top, before);
    }
    const float before = __shfl_up_sync(kFullWarp, own_top, 1);
    const Join join(lane % kPerSplit == 0 ? -INFINITY : before, state.x);
    const float weight = exp2f(own_top - top);
#pragma unroll
    for (int split = 0; split < kBatch; split += kPerSplit) {
      float own_sum = 0;
      float4 own = make_float4(0, 0, 0, 0);
#pragma unroll
      for (int i = split; i < split + kPerSplit; ++i) {
        const float4 part = fetched[i];
        const float kept = __shfl_sync(kFullWarp, join.kept, i), added = __shfl_sync(kFullWarp, join.added, i);
        own_sum = Join::apply(own_sum, kept, __shfl_sync(kFullWarp, state.y, i), added);
        own.x = Join::apply(own.x, kept, part.x, added), own.y = Join::apply(own.y, kept, part.y, added);
        own.z = Join::apply(own.z, kept, part.z, added), own.w = Join::apply(own.w, kept, part.w, added);
      }
      const float by = __shfl_sync(kFullWarp, weight, split + kPerSplit - 1);
      sum = __fmaf_rn(own_sum, by, sum);
      out.x = __fmaf_rn(own.x, by, out.x), out.y = __fmaf_rn(own.y, by, out.y);
      out.z = __fmaf_rn(own.z, by, out.z), out.w = __fmaf_rn(own.w, by, out.w);
    }
  }
  finish_merge(p, m, out, sum);
}

}  // namespace

void run_sparse_decode(const SparseDecodeParams& p, cudaStream_t queue) {
  if (p.tokens == 0 || p.heads == 0) return;
  TWELVEX_NEED_LE(p.plan.parts, kMaxMergeParts);
  const auto kernel = p.plan.spread ? decode_tiles_kernel : decode_split_kernel;
  const unsigned threads = (p.plan.spread ? kSpreadWarps : kWarps) * 32;
  allow_shared_bytes(kernel, sizeof(SmemPlan));
  const dim3 grid(p.tokens, (p.heads + kHeads - 1) / kHeads, p.plan.blocks);
  launch_dependent({grid, threads, sizeof(SmemPlan), queue}, kernel, p);
  if (p.plan.spread) {
    constexpr int kLong = decode_split(LayerKind::kHca) / kTile, kShort = decode_split(LayerKind::kCsa) / kTile;
    const auto merge = decode_split(p.kind) / kTile == kLong ? merge_tiles_kernel<kLong> : merge_tiles_kernel<kShort>;
    launch_dependent({dim3(p.tokens, p.heads, kHeadDim / kMergeColumns), 32, 0, queue}, merge, p);
  } else {
    launch_dependent({dim3(p.tokens, p.heads), kMergeThreads, 0, queue}, merge_splits_kernel, p);
  }
}

}  // namespace twelvex::cuda
