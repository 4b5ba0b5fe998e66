// SPDX-License-Identifier: MIT
// Indexer scores on FP8 tensor cores: e4m3 queries (gemm/fp8_cells.h, a cell a head) x e4m3 entries (the loop: score_loop.cuh).
//
// A warp's 32 entries are one cache block and go from there straight to registers.
//   query row:  128 bytes; 16-byte chunk c lies at c ^ (head & 1): the two rows and four lanes of a quarter warp hit all banks
// A head's scale is positive, so it multiplies the head's weight.
#include "arch/mma_fp8.cuh"
#include "common/check.h"
#include "common/convert.cuh"
#include "gemm/fp8_cells.h"
#include "indexer/score_loop.cuh"

namespace twelvex::cuda {

namespace {

constexpr int kThreads = kScoreThreads;
constexpr int kWarpTiles = kCsaRowsPerBlock / 8;  // 4: of eight entries
constexpr int kBlocks = kIndexDim / 32;           // 4: of 32 dims
static_assert(kScoreTile == kScoreWarps * kCsaRowsPerBlock && kIndexDim == kScaleBlock);

struct alignas(128) SmemPlan {
  uint4 query[2][kMaxIndexHeads][8];
  float weights[2][kMaxIndexHeads];
};
static_assert(sizeof(SmemPlan) <= 48 * 1024);

struct Scores {
  const IndexScoreParams& p;
  SmemPlan& s;
  uint32_t b[kWarpTiles][kBlocks][2];
  float entry_scale;

  /// Entries that are not visible become zeros. The cells' order of dims.
  __device__ __forceinline__ void load_entries(int row, int first, int visible) {
    const int lane = threadIdx.x % 32, own = first + threadIdx.x / 32 * kCsaRowsPerBlock;
    const int block = own < visible ? context_block(p.batch, row, own / kCsaRowsPerBlock) : 0;
#pragma unroll
    for (int n = 0; n < kWarpTiles; ++n) {
      const int at = n * 8 + lane / 4;
      const auto* in = reinterpret_cast<const uint2*>(p.entries.index_fp8(block, at)) + lane % 4;
#pragma unroll
      for (int k = 0; k < kBlocks; ++k) {
        const uint2 v = own + at < visible ? __ldg(in + k * 4) : make_uint2(0, 0);
        b[n][k][0] = __byte_perm(v.x, 0, 0x3120);
        b[n][k][1] = __byte_perm(v.y, 0, 0x3120);
      }
    }
    const int entry = summed_entry(lane);
    entry_scale = own + entry < visible ? *p.entries.index_scale_fp8(block, entry) : 0.0f;
  }

  __device__ __forceinline__ void clear_queries() {
    for (int i = p.heads * 8 + threadIdx.x; i < (p.heads + 15) / 16 * 128; i += kThreads) {
      s.query[0][i / 8][i % 8] = s.query[1][i / 8][i % 8] = make_uint4(0, 0, 0, 0);
    }
    for (int i = p.heads + threadIdx.x; i < kMaxIndexHeads; i += kThreads) s.weights[0][i] = s.weights[1][i] = 0;
  }

  __device__ __forceinline__ void load_query(int buffer, int token) {
    const auto* cells = reinterpret_cast<const uint8_t*>(p.query) + static_cast<size_t>(token) * p.heads * kFp8CellBytes;
    for (int i = threadIdx.x; i < p.heads * 8; i += kThreads) {
      cp_async_16(smem_address(&s.query[buffer][i / 8][i % 8 ^ (i / 8 & 1)]), cells + i / 8 * kFp8CellBytes + i % 8 * 16);
    }
    const int head = threadIdx.x;
    if (head < p.heads) {
      const float scale = e8m0_to_float(cells[head * kFp8CellBytes + kFp8CellScale]);
      s.weights[buffer][head] = __bfloat162float(p.weights[static_cast<size_t>(token) * p.heads + head]) * p.scale * scale;
    }
  }

  /// Heads g and g + 8 of a tile of sixteen as A operands of the four blocks.
  __device__ __forceinline__ void load_heads(int buffer, int tile, uint32_t (&a)[kBlocks][4]) const {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int head = tile * 16 + lane / 4 + r * 8;
        const uint4 v = s.query[buffer][head][(lane % 4 * 2 + half) ^ (head & 1)];
        a[2 * half][r] = v.x, a[2 * half][2 + r] = v.y;
        a[2 * half + 1][r] = v.z, a[2 * half + 1][2 + r] = v.w;
      }
    }
  }

  __device__ __forceinline__ float score(int buffer) const {
    constexpr uint32_t kUnit = 127;
    constexpr float kZero[4] = {0, 0, 0, 0};
    const int lane = threadIdx.x % 32, head_tiles = (p.heads + 15) / 16;
    float sums[8] = {};  // entries n * 8 + 2 q + {0, 1}, n = 0 .. 3, over this lane's heads
    for (int m = 0; m < head_tiles; ++m) {
      uint32_t a[kBlocks][4];
      load_heads(buffer, m, a);
      float acc[kWarpTiles][4];
#pragma unroll
      for (int k = 0; k < kBlocks; ++k) {
#pragma unroll
        for (int n = 0; n < kWarpTiles; ++n) {
          if (k == 0) {
            mma_scaled<ElementA::kE4M3, 0, 0, 0>(acc[n], a[k], b[n][k][0], b[n][k][1], kZero, kUnit, kUnit);
          } else {
            mma_scaled<ElementA::kE4M3, 0, 0, 0>(acc[n], a[k], b[n][k][0], b[n][k][1], acc[n], kUnit, kUnit);
          }
        }
      }
      const float low = s.weights[buffer][m * 16 + lane / 4], high = s.weights[buffer][m * 16 + lane / 4 + 8];
#pragma unroll
      for (int n = 0; n < kWarpTiles; ++n) {
        sums[2 * n] += low * fmaxf(acc[n][0], 0.0f) + high * fmaxf(acc[n][2], 0.0f);
        sums[2 * n + 1] += low * fmaxf(acc[n][1], 0.0f) + high * fmaxf(acc[n][3], 0.0f);
      }
    }
    return sum_heads(sums, lane);
  }
};

// Where the product is emulated it does not fit into half of the registers.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1200
constexpr int kResidentBlocks = 2;
#else
constexpr int kResidentBlocks = 1;
#endif

__global__ void __launch_bounds__(kThreads, kResidentBlocks)
index_scores_fp8_kernel(const __grid_constant__ IndexScoreParams p) {
  __shared__ SmemPlan s;
  Scores scores{p, s};
  score_entries(p, scores);
}

}  // namespace

void launch_index_scores_fp8(const IndexScoreParams& p, dim3 grid, cudaStream_t queue) {
  TWELVEX_NEED(p.entries.format == RowFormat::kFp8, true);
  launch_dependent({grid, kThreads, 0, queue}, index_scores_fp8_kernel, p);
}

}  // namespace twelvex::cuda
