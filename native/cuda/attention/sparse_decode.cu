// SPDX-License-Identifier: MIT
// Split-KV decode attention.
//
// Block (token, head group of 16, tiles or a split): four warps; candidates in tiles of 32, rows widened to bf16 in shared
// memory.
//   scores: warp w takes dims quarter w of 16 heads x 32 candidates; quarter sums meet in `partial`.
//   values: warp w owns 128 output columns.
// A tile has its own maximum, sum and output. They are joined in order to those of its split (128 or 512 candidates), the splits
// in order to the token's, whatever the batch: so a token's result does not depend on it. With few tokens a block takes single
// tiles, so that all multiprocessors work, and the merge kernel joins them; with many it takes a split and joins its tiles in
// registers, the same sums.
#include "attention/sparse_decode.h"

#include "arch/async_copy.cuh"
#include "arch/dependent_launch.cuh"
#include "arch/mma.cuh"
#include "attention/candidates.cuh"
#include "common/check.h"
#include "common/convert.cuh"
#include "common/device.h"
#include "common/reduce.cuh"
#include "elementwise/norm_rope.cuh"

namespace twelvex::cuda {

namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * 32;
constexpr int kHeads = 16;               // heads a block
constexpr int kTile = kDecodeTile;
constexpr int kRowStride = kBf16RowBytes + 16;
constexpr float kLog2e = 1.4426950408889634f;

struct alignas(128) SmemPlan {
  uint8_t query[kHeads][kRowStride];
  uint8_t rows[kTile][kRowStride];
  float partial[kWarps][kHeads][kTile + 8];
  __nv_bfloat16 weights[kHeads][kTile + 8];
  float kept[kHeads], added[kHeads];  // weights of what was there and of the tile
  uint32_t valid;
};
static_assert(sizeof(SmemPlan) <= kMaxSharedBytes, "sm_12x gives one block at most 99 KiB");

/// Rows of one tile on their way, eight a warp; invalid candidates become zeros. `load` for the next tile is issued before the
/// current one is worked on.
struct TileRows {
  static constexpr int kRows = kTile / kWarps;
  uint4 chunk[kRows][2];
  uint2 scales;   // of row `lane`, lanes < kRows
  uint32_t mask;

  __device__ __forceinline__ void load(const SparseDecodeParams& p, const CandidateList& list, int first, int warp, int lane) {
    int id = -1;
    const uint8_t* data = nullptr;
    scales = make_uint2(0, 0);
    const bool fp8 = p.kv.window.format == RowFormat::kFp8;
    if (lane < kRows) {
      const int c = first + warp * kRows + lane;
      id = list.id(c);
      if (id >= 0) {
        const PagedRow at = paged_row(p.batch, p.kv, list.row, c < list.compressed, id);
        data = fp8 ? at.pages->row_fp8(at.block, at.row) : at.pages->row_bf16(at.block, at.row);
        if (fp8) scales = *reinterpret_cast<const uint2*>(at.pages->scales_fp8(at.block, at.row));
      }
    }
    mask = __ballot_sync(kFullWarp, id >= 0);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const auto* row = reinterpret_cast<const uint4*>(__shfl_sync(kFullWarp, reinterpret_cast<uint64_t>(data), r));
      chunk[r][0] = chunk[r][1] = make_uint4(0, 0, 0, 0);
      if (row == nullptr) continue;
      if (!fp8) {
        chunk[r][0] = row[lane], chunk[r][1] = row[lane + 32];
      } else {
        if (lane < 28) chunk[r][0] = row[lane];      // e4m3
        if (lane < 8) chunk[r][1] = row[28 + lane];  // rotary bf16
      }
    }
  }

  __device__ __forceinline__ void store(SmemPlan& s, bool fp8, int warp, int lane) const {
    if (lane == 0) reinterpret_cast<uint8_t*>(&s.valid)[warp] = static_cast<uint8_t>(mask);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      auto* out = reinterpret_cast<uint4*>(s.rows[warp * kRows + r]);
      if (!fp8) {
        out[lane] = chunk[r][0], out[lane + 32] = chunk[r][1];
        continue;
      }
      const uint32_t low = __shfl_sync(kFullWarp, scales.x, r), high = __shfl_sync(kFullWarp, scales.y, r);
      const int group = lane / 4;
      const bf162 scale = __float2bfloat162_rn(e8m0_to_float(((group < 4 ? low : high) >> (group % 4 * 8)) & 0xff));
      const uint4 bytes = chunk[r][0];
      uint2 wide[4] = {e4m3x4_to_bf16x4(bytes.x), e4m3x4_to_bf16x4(bytes.y), e4m3x4_to_bf16x4(bytes.z),
                       e4m3x4_to_bf16x4(bytes.w)};
      auto* pairs = reinterpret_cast<bf162*>(wide);
#pragma unroll
      for (int k = 0; k < 8; ++k) pairs[k] = __hmul2(pairs[k], scale);
      if (lane < 28) {
        out[2 * lane] = make_uint4(wide[0].x, wide[0].y, wide[1].x, wide[1].y);
        out[2 * lane + 1] = make_uint4(wide[2].x, wide[2].y, wide[3].x, wide[3].y);
      }
      if (lane < 8) out[56 + lane] = chunk[r][1];
    }
  }
};

/// Quarter sums of the tile's scores.
__device__ __forceinline__ void score_tile(SmemPlan& s, int warp, int lane) {
  float acc[4][4] = {};
  const uint32_t query = smem_address(s.query) + (lane % 16) * kRowStride + warp * 256 + (lane / 16) * 16;
  const uint32_t rows = smem_address(s.rows) + (lane % 8 + lane / 16 * 8) * kRowStride + warp * 256 + (lane / 8 % 2) * 16;
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    uint32_t a[4];
    ldmatrix_x4(a, query + k * 32);
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      uint32_t b[4];
      ldmatrix_x4(b, rows + n * 16 * kRowStride + k * 32);
      mma_bf16(acc[2 * n], a, b[0], b[1]);
      mma_bf16(acc[2 * n + 1], a, b[2], b[3]);
    }
  }
  const int g = lane / 4, column = lane % 4 * 2;
#pragma unroll
  for (int n = 0; n < 4; ++n) {
    *reinterpret_cast<float2*>(&s.partial[warp][g][column + n * 8]) = make_float2(acc[n][0], acc[n][1]);
    *reinterpret_cast<float2*>(&s.partial[warp][g + 8][column + n * 8]) = make_float2(acc[n][2], acc[n][3]);
  }
}

/// How a tile (or split) with maximum `top` joins what has the maximum `before`.
struct Join {
  float top, kept, added;

  __device__ __forceinline__ Join(float before, float tile_top) {
    top = fmaxf(before, tile_top);
    const float base = top == -INFINITY ? 0.0f : top;
    kept = exp2f(before - base);
    added = exp2f(tile_top - base);
  }
  __device__ __forceinline__ static float apply(float before, float kept, float tile, float added) {
    return __fmaf_rn(tile, added, __fmul_rn(before, kept));
  }
};

/// Eight threads a head, four scores a thread: the tile's weights, its maximum and sum.
__device__ __forceinline__ float2 softmax_tile(SmemPlan& s, float scale) {
  const int row = threadIdx.x / 8, j = threadIdx.x % 8;
  float v[4] = {};
#pragma unroll
  for (int w = 0; w < kWarps; ++w) {
    const float4 f = *reinterpret_cast<const float4*>(&s.partial[w][row][j * 4]);
    v[0] += f.x, v[1] += f.y, v[2] += f.z, v[3] += f.w;
  }
  const uint32_t valid = s.valid >> (j * 4);
#pragma unroll
  for (int i = 0; i < 4; ++i) v[i] = (valid >> i & 1) ? v[i] * scale : -INFINITY;
  const float top = warp_max<8>(fmaxf(fmaxf(v[0], v[1]), fmaxf(v[2], v[3])));
  const float base = top == -INFINITY ? 0.0f : top;
  float sum = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) sum += v[i] = exp2f(v[i] - base);
  *reinterpret_cast<uint2*>(&s.weights[row][j * 4]) = make_uint2(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]));
  return make_float2(top, warp_sum<8>(sum));
}

/// This warp's 128 columns of weights * rows, 16 at a time: use(n, c) gets columns 8 n + 2 (lane % 4) + {0, 1} of heads lane / 4
/// (c[0], c[1]) and lane / 4 + 8 (c[2], c[3]).
template <class Use>
__device__ __forceinline__ void value_tile(const SmemPlan& s, int warp, int lane, const Use& use) {
  constexpr int kWeightStride = (kTile + 8) * 2;
  const uint32_t weights = smem_address(s.weights) + (lane % 16) * kWeightStride + (lane / 16) * 16;
  const uint32_t rows = smem_address(s.rows) + (lane % 16) * kRowStride + warp * 256 + (lane / 16) * 16;
  uint32_t a[kTile / 16][4];
#pragma unroll
  for (int k = 0; k < kTile / 16; ++k) ldmatrix_x4(a[k], weights + k * 32);
#pragma unroll
  for (int n = 0; n < 8; ++n) {
    float c[2][4] = {};
#pragma unroll
    for (int k = 0; k < kTile / 16; ++k) {
      uint32_t b[4];
      ldmatrix_x4_trans(b, rows + k * 16 * kRowStride + n * 32);
      mma_bf16(c[0], a[k], b[0], b[1]);
      mma_bf16(c[1], a[k], b[2], b[3]);
    }
    use(2 * n, c[0]);
    use(2 * n + 1, c[1]);
  }
}

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
  __device__ __forceinline__ void store(int n, const float (&c)[4], int warp, int lane) const {
    const int g = lane / 4, column = warp * 128 + lane % 4 * 2 + n * 8;
    if (g < heads) *reinterpret_cast<float2*>(partial + g * kHeadDim + column) = make_float2(c[0], c[1]);
    if (g + 8 < heads) *reinterpret_cast<float2*>(partial + (g + 8) * kHeadDim + column) = make_float2(c[2], c[3]);
  }
};

/// Queries of this block's heads, four a warp. Raw ones become what run_finish_queries makes of them, to the bit.
__device__ __forceinline__ void load_query(const SparseDecodeParams& p, SmemPlan& s, int warp, int lane) {
  constexpr int kOwn = kHeads / kWarps;
  const int head0 = blockIdx.y * kHeads + warp * kOwn;
  uint4 raw[kOwn][2];
#pragma unroll
  for (int h = 0; h < kOwn; ++h) {
    const auto* row =
        reinterpret_cast<const uint4*>(p.query + (static_cast<size_t>(blockIdx.x) * p.heads + head0 + h) * kHeadDim) + lane * 2;
    for (int i = 0; i < 2; ++i) raw[h][i] = head0 + h < p.heads ? row[i] : make_uint4(0, 0, 0, 0);
  }
#pragma unroll
  for (int h = 0; h < kOwn; ++h) {
    auto* out = reinterpret_cast<bf16*>(s.query[warp * kOwn + h]);
    if (p.raw_query) {
      float v[16];
      unpack_row16(raw[h], v);
      norm_rotate_row16(v, p.eps, p.rope + static_cast<size_t>(blockIdx.x) * (kRopeDim / 2), lane);
      store_row16(out, v, lane);
    } else {
      for (int i = 0; i < 2; ++i) reinterpret_cast<uint4*>(out)[lane * 2 + i] = raw[h][i];
    }
  }
}

template <bool kSpread>
__global__ void __launch_bounds__(kThreads) sparse_decode_kernel(const __grid_constant__ SparseDecodeParams p) {
  extern __shared__ __align__(128) uint8_t shared[];
  auto& s = *reinterpret_cast<SmemPlan*>(shared);
  const int split = decode_split(p.kind), token = blockIdx.x, block = blockIdx.z;
  const CandidateList list = CandidateList::of(p.batch, p.kind, p.selection, p.topk, token);
  const int begin = block * (kSpread ? kTile : split), step = kSpread ? gridDim.z * kTile : kTile;
  const int end = kSpread ? list.total : min(list.total, begin + split);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const bool fp8 = p.kv.window.format == RowFormat::kFp8, works = begin < end;
  // What the launch before has not written is fetched before it has ended.
  const bool rows_early = p.rows_ready && (list.chosen == nullptr || begin >= list.compressed);
  TileRows tile;
  if (works && p.query_ready) load_query(p, s, warp, lane);
#pragma unroll 1
  for (int waited = 0; waited < 2; ++waited) {
    if (waited) {
      wait_for_previous_kernel();
      let_next_kernel_start();
    }
    if (!works || rows_early == static_cast<bool>(waited)) continue;
    tile.load(p, list, begin, warp, lane);
    tile.store(s, fp8, warp, lane);
  }
  if (!works) return;
  if (!p.query_ready) load_query(p, s, warp, lane);
  float out[kSpread ? 1 : 16][4] = {};
  float row_max = -INFINITY, row_sum = 0;
  for (int first = begin; first < end; first += step) {
    __syncthreads();
    if (first + step < end) tile.load(p, list, first + step, warp, lane);
    score_tile(s, warp, lane);
    __syncthreads();
    const float2 state = softmax_tile(s, p.scale * kLog2e);
    if constexpr (kSpread) {
      const Part part(p, first / kTile);
      part.store(state);
      __syncthreads();
      value_tile(s, warp, lane, [&](int n, const float (&c)[4]) { part.store(n, c, warp, lane); });
    } else {
      const Join join(row_max, state.x);
      row_max = join.top;
      row_sum = Join::apply(row_sum, join.kept, state.y, join.added);
      if (threadIdx.x % 8 == 0) s.kept[threadIdx.x / 8] = join.kept, s.added[threadIdx.x / 8] = join.added;
      __syncthreads();
      const float kept[2] = {s.kept[lane / 4], s.kept[lane / 4 + 8]}, added[2] = {s.added[lane / 4], s.added[lane / 4 + 8]};
      value_tile(s, warp, lane, [&](int n, const float (&c)[4]) {
#pragma unroll
        for (int i = 0; i < 4; ++i) out[n][i] = Join::apply(out[n][i], kept[i / 2], c[i], added[i / 2]);
      });
    }
    __syncthreads();
    if (first + step < end) tile.store(s, fp8, warp, lane);
  }
  if constexpr (!kSpread) {
    const Part part(p, block);
    part.store(make_float2(row_max, row_sum));
#pragma unroll
    for (int n = 0; n < 16; ++n) part.store(n, out[n], warp, lane);
  }
}

constexpr int kMergeThreads = kHeadDim / 4;
constexpr int kMergeBatch = 20;  // parts whose outputs are fetched at once
constexpr int kMaxMergeParts = kMaxSpreadParts;

struct MergeSmem {
  alignas(128) float4 parts[kMergeBatch][kMergeThreads];
  float2 states[kMaxMergeParts];
  // How a part joins its split, and, at a split's last part, how the split joins the token.
  float kept[kMergeBatch], added[kMergeBatch], split[kMergeBatch];
  float tops[kMergeThreads / 32];
  uint64_t arrived;
};
static_assert(sizeof(MergeSmem) <= 48 * 1024);

// Block (token, head): joins the parts, divides by the sum with the sink, rotates the last 64 dims back.
__global__ void __launch_bounds__(kMergeThreads) merge_parts_kernel(const __grid_constant__ SparseDecodeParams p) {
  __shared__ MergeSmem s;
  const int token = blockIdx.x, head = blockIdx.y, thread = threadIdx.x;
  const CandidateList list = CandidateList::of(p.batch, p.kind, p.selection, p.topk, token);
  const int split = decode_split(p.kind), part_size = p.plan.spread ? kTile : split, per_split = split / part_size;
  const int parts = (list.total + part_size - 1) / part_size;
  const size_t base = static_cast<size_t>(token) * p.plan.parts * p.heads + head;
  const float sink = p.sinks[head] * kLog2e;
  if (thread == 0) {
    mbarrier_init(&s.arrived, kMergeBatch);
    mbarrier_fence_init();
  }
  __syncthreads();
  wait_for_previous_kernel();
  let_next_kernel_start();
  if (parts == 0) return;
  float top = sink;
  float4 out = make_float4(0, 0, 0, 0), own = out;
  float sum = 0, own_sum = 0;
  int phase = 0;
  for (int first = 0; first < parts; first += kMergeBatch) {
    const int at = first + thread;
    if (thread < kMergeBatch) {
      if (at < parts) {
        mbarrier_expect(&s.arrived, sizeof(s.parts[0]));
        bulk_copy(s.parts[thread], p.partial + (base + static_cast<size_t>(at) * p.heads) * kHeadDim, sizeof(s.parts[0]),
                  &s.arrived);
      }
      mbarrier_arrive(&s.arrived);
    }
    if (first == 0) {
      for (int i = thread; i < parts; i += kMergeThreads) {
        const float2 state = s.states[i] = p.state[base + static_cast<size_t>(i) * p.heads];
        top = fmaxf(top, state.x);
      }
      top = warp_max(top);
      if (thread % 32 == 0) s.tops[thread / 32] = top;
      __syncthreads();
      for (const float t : s.tops) top = fmaxf(top, t);
      sum = exp2f(sink - top);
    }
    if (thread < kMergeBatch && at < parts) {
      float before = -INFINITY;
      for (int i = at / per_split * per_split; i < at; ++i) before = fmaxf(before, s.states[i].x);
      const Join join(before, s.states[at].x);
      s.kept[thread] = join.kept;
      s.added[thread] = join.added;
      s.split[thread] = exp2f(join.top - top);
    }
    __syncthreads();
    mbarrier_wait(&s.arrived, phase);
    phase ^= 1;
#pragma unroll 2
    for (int i = 0; i < min(kMergeBatch, parts - first); ++i) {
      const float4 part = s.parts[i][thread];
      const float kept = s.kept[i], added = s.added[i];
      own_sum = Join::apply(own_sum, kept, s.states[first + i].y, added);
      own.x = Join::apply(own.x, kept, part.x, added), own.y = Join::apply(own.y, kept, part.y, added);
      own.z = Join::apply(own.z, kept, part.z, added), own.w = Join::apply(own.w, kept, part.w, added);
      if ((first + i + 1) % per_split != 0 && first + i + 1 < parts) continue;
      const float weight = s.split[i];
      sum = __fmaf_rn(own_sum, weight, sum);
      out.x = __fmaf_rn(own.x, weight, out.x), out.y = __fmaf_rn(own.y, weight, out.y);
      out.z = __fmaf_rn(own.z, weight, out.z), out.w = __fmaf_rn(own.w, weight, out.w);
    }
    __syncthreads();
  }
  const float inverse = 1.0f / sum;
  out.x *= inverse, out.y *= inverse, out.z *= inverse, out.w *= inverse;
  if (threadIdx.x >= kNopeDim / 4) {
    const float4 turn =
        *reinterpret_cast<const float4*>(p.rope + static_cast<size_t>(token) * 32 + (threadIdx.x - kNopeDim / 4) * 2);
    out = make_float4(out.x * turn.x + out.y * turn.y, out.y * turn.x - out.x * turn.y, out.z * turn.z + out.w * turn.w,
                      out.w * turn.z - out.z * turn.w);
  }
  *reinterpret_cast<uint2*>(p.attended + (static_cast<size_t>(token) * p.heads + head) * kHeadDim + threadIdx.x * 4) =
      make_uint2(pack_bf16(out.x, out.y), pack_bf16(out.z, out.w));
}

}  // namespace

void run_sparse_decode(const SparseDecodeParams& p, cudaStream_t queue) {
  if (p.tokens == 0 || p.heads == 0) return;
  TWELVEX_NEED_LE(p.plan.parts, kMaxMergeParts);
  const auto kernel = p.plan.spread ? sparse_decode_kernel<true> : sparse_decode_kernel<false>;
  allow_shared_bytes(kernel, sizeof(SmemPlan));
  const dim3 grid(p.tokens, (p.heads + kHeads - 1) / kHeads, p.plan.blocks);
  launch_dependent({grid, kThreads, sizeof(SmemPlan), queue}, kernel, p);
  launch_dependent({dim3(p.tokens, p.heads), kMergeThreads, 0, queue}, merge_parts_kernel, p);
}

}  // namespace twelvex::cuda
