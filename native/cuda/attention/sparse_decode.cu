// SPDX-License-Identifier: MIT
// Split-KV decode attention.
//
// Block (token, head group of 16, split): four warps; the split's candidates in tiles of 32, rows widened to bf16 in shared
// memory.
//   scores: warp w takes dims quarter w of 16 heads x 32 candidates; quarter sums meet in `partial`.
//   values: warp w owns 128 output columns.
// The last block to arrive would save a launch, but a fixed merge kernel keeps the order of additions plain to see: splits
// 0, 1, 2 ... for every token, however many tokens there are. The split size is a constant, so a token's result does not
// depend on the batch.
#include "attention/sparse_decode.h"

#include "arch/async_copy.cuh"
#include "arch/dependent_launch.cuh"
#include "arch/fetch_ahead.cuh"
#include "arch/mma.cuh"
#include "attention/candidates.cuh"
#include "common/check.h"
#include "common/convert.cuh"
#include "common/device.h"
#include "common/reduce.cuh"

namespace twelvex::cuda {

namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * 32;
constexpr int kHeads = 16;               // heads a block
constexpr int kTile = 32;                // candidates a tile
constexpr int kRowStride = kBf16RowBytes + 16;
constexpr float kLog2e = 1.4426950408889634f;

struct alignas(128) SmemPlan {
  uint8_t query[kHeads][kRowStride];
  uint8_t rows[kTile][kRowStride];
  float partial[kWarps][kHeads][kTile + 8];
  __nv_bfloat16 weights[kHeads][kTile + 8];
  float rescale[kHeads];
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

/// Eight threads a head, four scores a thread. Keeps the running maximum and sum in registers.
__device__ __forceinline__ void softmax_tile(SmemPlan& s, float scale, float& row_max, float& row_sum) {
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
  const float top = fmaxf(row_max, warp_max<8>(fmaxf(fmaxf(v[0], v[1]), fmaxf(v[2], v[3]))));
  const float base = top == -INFINITY ? 0.0f : top;
  const float rescale = exp2f(row_max - base);
  float sum = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) sum += v[i] = exp2f(v[i] - base);
  row_sum = row_sum * rescale + warp_sum<8>(sum);
  row_max = top;
  *reinterpret_cast<uint2*>(&s.weights[row][j * 4]) = make_uint2(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]));
  if (j == 0) s.rescale[row] = rescale;
}

/// This warp's 128 columns: out = out * rescale + weights * rows.
__device__ __forceinline__ void value_tile(const SmemPlan& s, float (&out)[16][4], int warp, int lane) {
  const float low = s.rescale[lane / 4], high = s.rescale[lane / 4 + 8];
#pragma unroll
  for (int n = 0; n < 16; ++n) out[n][0] *= low, out[n][1] *= low, out[n][2] *= high, out[n][3] *= high;
  constexpr int kWeightStride = (kTile + 8) * 2;
  const uint32_t weights = smem_address(s.weights) + (lane % 16) * kWeightStride + (lane / 16) * 16;
  const uint32_t rows = smem_address(s.rows) + (lane % 16) * kRowStride + warp * 256 + (lane / 16) * 16;
#pragma unroll
  for (int k = 0; k < kTile / 16; ++k) {
    uint32_t a[4];
    ldmatrix_x4(a, weights + k * 32);
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      uint32_t b[4];
      ldmatrix_x4_trans(b, rows + k * 16 * kRowStride + n * 32);
      mma_bf16(out[2 * n], a, b[0], b[1]);
      mma_bf16(out[2 * n + 1], a, b[2], b[3]);
    }
  }
}

__global__ void __launch_bounds__(kThreads) sparse_decode_kernel(const __grid_constant__ SparseDecodeParams p) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  extern __shared__ __align__(128) uint8_t shared[];
  auto& s = *reinterpret_cast<SmemPlan*>(shared);
  const int token = blockIdx.x, head0 = blockIdx.y * kHeads, split = blockIdx.z;
  const CandidateList list = CandidateList::of(p.batch, p.kind, p.selection, p.topk, token);
  const int begin = split * decode_split(p.kind), end = min(list.total, begin + decode_split(p.kind));
  if (begin >= end) return;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const bool fp8 = p.kv.window.format == RowFormat::kFp8;
  TileRows tile;
  tile.load(p, list, begin, warp, lane);
  for (int i = threadIdx.x; i < kHeads * 64; i += kThreads) {
    const int h = i / 64;
    const auto* q =
        reinterpret_cast<const uint4*>(p.query + (static_cast<size_t>(token) * p.heads + head0 + h) * kHeadDim) + i % 64;
    *reinterpret_cast<uint4*>(s.query[h] + i % 64 * 16) = head0 + h < p.heads ? *q : make_uint4(0, 0, 0, 0);
  }
  float out[16][4] = {};
  float row_max = -INFINITY, row_sum = 0;
  for (int first = begin; first < end; first += kTile) {
    tile.store(s, fp8, warp, lane);
    __syncthreads();
    if (first + kTile < end) tile.load(p, list, first + kTile, warp, lane);
    score_tile(s, warp, lane);
    __syncthreads();
    softmax_tile(s, p.scale * kLog2e, row_max, row_sum);
    __syncthreads();
    value_tile(s, out, warp, lane);
    __syncthreads();
  }
  const size_t base = (static_cast<size_t>(token) * p.max_splits + split) * p.heads + head0;
  const int row = threadIdx.x / 8;
  if (threadIdx.x % 8 == 0 && head0 + row < p.heads) p.state[base + row] = make_float2(row_max, row_sum);
  const int g = lane / 4, column = warp * 128 + lane % 4 * 2;
#pragma unroll
  for (int n = 0; n < 16; ++n) {
    if (head0 + g < p.heads)
      *reinterpret_cast<float2*>(p.partial + (base + g) * kHeadDim + column + n * 8) = make_float2(out[n][0], out[n][1]);
    if (head0 + g + 8 < p.heads)
      *reinterpret_cast<float2*>(p.partial + (base + g + 8) * kHeadDim + column + n * 8) = make_float2(out[n][2], out[n][3]);
  }
}

// Block (token, head): adds the splits in order, divides by the sum with the sink, rotates the last 64 dims back.
__global__ void __launch_bounds__(128) merge_splits_kernel(const __grid_constant__ SparseDecodeParams p) {
  fetch_ahead(p.ahead);  // while the splits are under way
  wait_for_previous_kernel();
  let_next_kernel_start();
  const int token = blockIdx.x, head = blockIdx.y;
  const CandidateList list = CandidateList::of(p.batch, p.kind, p.selection, p.topk, token);
  if (list.total == 0) return;
  const int splits = (list.total + decode_split(p.kind) - 1) / decode_split(p.kind);
  const size_t base = static_cast<size_t>(token) * p.max_splits * p.heads + head;
  const float sink = p.sinks[head] * kLog2e;
  float top = sink;
  for (int i = 0; i < splits; ++i) top = fmaxf(top, p.state[base + static_cast<size_t>(i) * p.heads].x);
  float sum = exp2f(sink - top);
  float4 out = make_float4(0, 0, 0, 0);
  for (int i = 0; i < splits; ++i) {
    const float2 state = p.state[base + static_cast<size_t>(i) * p.heads];
    const float weight = exp2f(state.x - top);
    sum += state.y * weight;
    const float4 part =
        *reinterpret_cast<const float4*>(p.partial + (base + static_cast<size_t>(i) * p.heads) * kHeadDim + threadIdx.x * 4);
    out.x += part.x * weight, out.y += part.y * weight, out.z += part.z * weight, out.w += part.w * weight;
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
  allow_shared_bytes(sparse_decode_kernel, sizeof(SmemPlan));
  const dim3 grid(p.tokens, (p.heads + kHeads - 1) / kHeads, p.max_splits);
  launch_dependent({grid, kThreads, sizeof(SmemPlan), queue}, sparse_decode_kernel, p);
  launch_dependent({dim3(p.tokens, p.heads), 128, 0, queue}, merge_splits_kernel, p);
}

}  // namespace twelvex::cuda
