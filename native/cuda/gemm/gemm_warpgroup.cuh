// SPDX-License-Identifier: MIT
// Many rows on sm_90a: the products of gemm_tile.cuh, same bits, through warpgroup instructions.
//
// A block computes tiles of 128 weight rows (paired: 64 gate and 64 up rows) x up to 128 activation rows and stays for several
// of them. Three warpgroups: one fills a ring of stages of 64 columns, each of the other two multiplies 64 weight rows.
//   full[s]   the stage's weights (fragment order) and activations (swizzled rows) are there, by cp.async
//   empty[s]  both multiplying warpgroups have read it
// Weights are widened in registers, the A operand; activations are B, read from shared memory by the tensor cores. Their
// columns lie in operand order (quantise.h), because the fragment order of the weights permutes columns.
// While one warpgroup widens or stores, the other multiplies. Every kChunkCells stages the sums join the totals.
#pragma once

#include "arch/async_copy.cuh"
#include "arch/wgmma.cuh"
#include "common/device.h"
#include "common/reduce.cuh"
#include "gemm/output_tile.cuh"
#include "gemm/widen.cuh"

namespace twelvex::cuda::warpgroup {

inline constexpr int kMultipliers = 2;                           // warpgroups
inline constexpr int kThreads = (kMultipliers + 1) * 128;
inline constexpr int kBlockTiles = 8;                            // row tiles of a block
inline constexpr int kBlockRows = kBlockTiles * kCellRows;       // 128
inline constexpr int kRowsM = 128;                               // activation rows
inline constexpr int kOutStride = 64 + 8;                        // bf16; a row of the output, 16-byte aligned, banks spread
inline constexpr int kSharedBytes = 227 * 1024;

template <WeightFormat kFormat>
struct SmemPlan {
  static constexpr bool kFp4 = kFormat == WeightFormat::kFp4Group32;
  static constexpr int kWeightBytes = kBlockTiles * cell_bytes(kFormat);
  static constexpr int kScaleBytes = kFp4 ? kBlockTiles * 32 : 0;
  static constexpr int kStageBytes = kRowsM * 128 + kWeightBytes + kScaleBytes;
  static constexpr int kOutBytes = kMultipliers * kRowsM * kOutStride * 2;
  static constexpr int kFit = (kSharedBytes - 2048 - kOutBytes) / kStageBytes;
  static constexpr int kStages = kFit > 8 ? 8 : kFit;
  uint4 x[kStages][kRowsM][8];
  uint4 weights[kStages][kBlockTiles][cell_bytes(kFormat) / 512][32];
  __nv_bfloat16 out[kMultipliers][kRowsM][kOutStride];
  uint32_t scales[kFp4 ? kStages : 1][kBlockTiles][8];
  uint64_t full[kStages], empty[kStages];
};

template <WeightFormat kFormat, bool kPaired, bool kGrouped>
struct Warpgroup {
  using Smem = SmemPlan<kFormat>;
  static_assert(sizeof(Smem) + 1024 <= kSharedBytes);
  static constexpr int kStages = Smem::kStages;
  static constexpr int kVectors = cell_bytes(kFormat) / 512;
  static constexpr int kWeightCopies = kBlockTiles * kVectors * 32 / 128;  // of a filling thread and stage
  static constexpr int kCopyTiles = kBlockTiles / kWeightCopies;
  static constexpr int kRowsOfPlace = kPaired ? kBlockRows / 2 : kBlockRows;

  const GemmParams& p;
  const TilePlan& plan;
  Smem& smem;
  const int cells = static_cast<int>(cells_per_row(p.cols));
  const int places = plan.grid_n * (kGrouped ? *p.tile_count : plan.grid_m);
  int at = 0;           // stage of the ring
  uint32_t phase = 0;   // its parity

  __device__ Warpgroup(const GemmParams& params, const TilePlan& tile_plan, Smem& shared)
      : p(params), plan(tile_plan), smem(shared) {}

  __device__ void advance() {
    if (++at == kStages) at = 0, phase ^= 1;
  }

  /// Tile `index` of the launch.
  __device__ __forceinline__ Place place_of(int index) const {
    return locate<kRowsOfPlace, kPaired, kGrouped>(p, index % plan.grid_n, index / plan.grid_n, plan.rows_m);
  }

  // ---- the filling warpgroup

  __device__ __forceinline__ void fill() {
    const int thread = threadIdx.x % 128;
    for (int index = blockIdx.x; index < places; index += gridDim.x) {
      const Place place = place_of(index);
      // This thread copies chunk thread % 8 of rows thread / 8 + 16 i.
      constexpr uint32_t kNoRow = 0xffffffffu;
      uint32_t from[kRowsM / 16];  // offset in x in units of eight elements
#pragma unroll
      for (int i = 0; i < kRowsM / 16; ++i) {
        const int m = thread / 8 + i * 16;
        int64_t row = place.group.first + m;
        if (kGrouped && p.gather != nullptr && m < place.group.rows) row = __ldg(p.gather + row);
        from[i] = m < place.group.rows ? static_cast<uint32_t>(row * p.ldx / 8) + thread % 8 : kNoRow;
      }
      const bf16* x = p.segments[place.segment].x;
      // And of the weights the vectors thread + 128 i, kCopyTiles row tiles apart.
      const int tile = thread / (kVectors * 32);
      const auto segment_of = [&](int i) -> const GemmSegment& {
        return p.segments[kPaired ? i / (kWeightCopies / 2) : place.segment];
      };
      const auto tile_row_of = [&](int i) {
        return place.first_row + (tile + (kPaired ? i % (kWeightCopies / 2) : i) * kCopyTiles) * kCellRows;
      };
      const size_t expert_weights = place.group.expert * p.expert_weight_bytes;
      const uint8_t* weights[kPaired ? 2 : 1];
#pragma unroll
      for (int s = 0; s < (kPaired ? 2 : 1); ++s) {
        weights[s] = segment_of(s * kWeightCopies / 2).weights + expert_weights + thread % (kVectors * 32) * 16 +
                     static_cast<size_t>(tile_row_of(0) / kCellRows) * cells * cell_bytes(kFormat);
      }
      const int rows = p.segments[place.segment].rows;
      // Two threads a row tile copy its scales.
      const int scale_tile = thread / 2, scale_row = place.first_row + (kPaired ? scale_tile % 4 : scale_tile) * kCellRows;
      const bool has_scales = Smem::kFp4 && scale_tile < kBlockTiles && scale_row < rows;
      const uint8_t* scales = nullptr;
      if (has_scales) {
        scales = p.segments[kPaired ? scale_tile / 4 : place.segment].scales + place.group.expert * p.expert_scale_bytes +
                 static_cast<size_t>(scale_row / kCellRows) * cells * 32 + thread % 2 * 16;
      }
      for (int cell = 0; cell < cells; ++cell, advance()) {
        mbarrier_wait(&smem.empty[at], phase ^ 1);
#pragma unroll
        for (int i = 0; i < kWeightCopies; ++i) {
          if (tile_row_of(i) >= rows) continue;
          const int step = kPaired ? i % (kWeightCopies / 2) : i;
          cp_async_16(smem_address(&smem.weights[at][0][0][0] + thread + i * 128),
                      weights[kPaired ? i / (kWeightCopies / 2) : 0] +
                          (static_cast<int64_t>(step) * kCopyTiles * cells + cell) * cell_bytes(kFormat));
        }
        if (has_scales)
          cp_async_16(smem_address(&smem.scales[at][scale_tile][thread % 2 * 4]), scales + static_cast<size_t>(cell) * 32);
        const bool in_row = cell * kCellCols + thread % 8 * 8 < p.cols;
#pragma unroll
        for (int i = 0; i < kRowsM / 16; ++i) {
          const int m = thread / 8 + i * 16;
          if (from[i] != kNoRow)
            cp_async_16(smem_address(&smem.x[at][m][(thread ^ m) & 7]),
                        x + static_cast<size_t>(from[i]) * 8 + (in_row ? cell * kCellCols : 0), in_row);
        }
        mbarrier_arrive_copied(&smem.full[at]);
      }
    }
    asm volatile("cp.async.wait_all;\n" ::: "memory");
  }

  // ---- the multiplying warpgroups

  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32 % 4;
  const int half = __shfl_sync(kFullWarp, threadIdx.x / 128, 0);  // which 64 of the block's weight rows

  /// Fragments of the stage's four steps of 16 columns.
  __device__ __forceinline__ void widen(uint32_t fp8_scale, uint32_t (&a)[4][4]) const {
    const int tile = half * 4 + warp;
    if constexpr (kFormat == WeightFormat::kBF16) {
#pragma unroll
      for (int v = 0; v < 4; ++v) {
        const uint4 w = smem.weights[at][tile][v][lane];
        a[v][0] = w.x, a[v][1] = w.y, a[v][2] = w.z, a[v][3] = w.w;
      }
    } else if constexpr (kFormat == WeightFormat::kFp8Block128) {
      const bf162 scale = scale_pair<kFp8ScaleBias>(fp8_scale);
#pragma unroll
      for (int b = 0; b < 2; ++b) {
        const uint4 w = smem.weights[at][tile][b][lane];
        fragment_fp8<0>(w, scale, a[b * 2]);
        fragment_fp8<1>(w, scale, a[b * 2 + 1]);
      }
    } else {
      const uint4 w = smem.weights[at][tile][0][lane];
      const uint32_t scale = smem.scales[at][tile][lane / 4];
      fragment_fp4<0, 0>(w, scale, a[0]);
      fragment_fp4<0, 1>(w, scale, a[1]);
      fragment_fp4<1, 0>(w, scale, a[2]);
      fragment_fp4<1, 1>(w, scale, a[3]);
    }
  }

  __device__ __forceinline__ void release(int stage) { mbarrier_arrive_warp(&smem.empty[stage], lane); }

  template <int kN>
  struct Sums {
    float acc[kN / 2], total[kN / 2];
  };

  template <int kN>
  __device__ __forceinline__ void pin(float (&acc)[kN]) {
#pragma unroll
    for (int i = 0; i < kN; ++i) asm volatile("" : "+f"(acc[i])::"memory");
  }

  /// Waits for a stage and multiplies it; kFirst: the sums start from zero.
  template <int kN, bool kFirst>
  __device__ __forceinline__ void step(Sums<kN>& sums, uint32_t fp8_scale, uint32_t (&a)[4][4]) {
    mbarrier_wait(&smem.full[at], phase);
    fence_async_proxy();
    widen(fp8_scale, a);
    const uint64_t b = wgmma_descriptor(smem_address(&smem.x[at][0][0]));
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; ++k) wgmma_bf16<kN>(sums.acc, a[k], b + k * 2, !kFirst || k > 0);
    wgmma_commit();
  }

  /// Behind step: the stage before has been read.
  __device__ __forceinline__ void release_previous(int stages) {
    release(at >= stages ? at - stages : at - stages + kStages);
  }

  template <int kN>
  __device__ __forceinline__ void end_chunk(Sums<kN>& sums) {
    wgmma_wait<0>();
    pin(sums.acc);
#pragma unroll
    for (int i = 0; i < kN / 2; ++i) sums.total[i] += sums.acc[i];
    pin(sums.acc);
  }

  template <int kN>
  __device__ __forceinline__ void multiply(const Place& place, Sums<kN>& sums) {
#pragma unroll
    for (int i = 0; i < kN / 2; ++i) sums.total[i] = 0;
    const uint8_t* scales = nullptr;
    int blocks = 0;
    if constexpr (kFormat == WeightFormat::kFp8Block128) {
      blocks = static_cast<int>(ceil_div(p.cols, kScaleBlock));
      scales = p.segments[kPaired ? half : place.segment].scales + place.first_row / kScaleBlock * blocks;
    }
    const auto scale_of = [&](int block) -> uint32_t { return block < blocks ? __ldg(scales + block) : 127u; };
    uint32_t even[4][4], odd[4][4];
    uint32_t scale0 = scale_of(0), scale1 = scale_of(1);
    int cell = 0;
    for (; cell + kChunkCells <= cells; cell += kChunkCells) {
      const uint32_t now0 = scale0, now1 = scale1;
      scale0 = scale_of(cell / 2 + 2), scale1 = scale_of(cell / 2 + 3);
      step<kN, true>(sums, now0, even);
      advance();
      step<kN, false>(sums, now0, odd);
      wgmma_wait<1>();
      release_previous(1);
      advance();
      step<kN, false>(sums, now1, even);
      wgmma_wait<1>();
      release_previous(1);
      advance();
      step<kN, false>(sums, now1, odd);
      wgmma_wait<1>();
      release_previous(1);
      end_chunk(sums);
      release(at);
      advance();
    }
    if (cell == cells) return;
    step<kN, true>(sums, scale0, even);
    wgmma_wait<0>();
    release(at);
    advance();
    for (int last = 1; cell + last < cells; ++last) {
      step<kN, false>(sums, last < 2 ? scale0 : scale1, even);
      wgmma_wait<0>();
      release(at);
      advance();
    }
    end_chunk(sums);
  }

  /// f32 outputs straight from registers: eight lanes write 32 consecutive bytes of a row.
  template <int kN>
  __device__ __forceinline__ void store_f32(const Place& place, const float (&total)[kN]) const {
    const GemmSegment& s = p.segments[place.segment];
#pragma unroll
    for (int i = 0; i < kN; ++i) {
      const int row = place.first_row + half * 64 + warp * 16 + lane / 4 + i / 2 % 2 * 8;
      const int token = i / 4 * 8 + lane % 4 * 2 + i % 2;
      if (row < s.rows && token < place.group.rows)
        static_cast<float*>(s.y)[static_cast<int64_t>(place.group.first + token) * s.ldy + row] = total[i];
    }
  }

  /// Totals as bf16 to shared memory, transposed: [token][row].
  template <int kN>
  __device__ __forceinline__ void to_shared(const float (&total)[kN]) {
    const int matrix = lane / 8;  // (token group, row half)
#pragma unroll
    for (int j = 0; j < kN / 8; ++j) {
      const uint32_t address =
          smem_address(&smem.out[half][j * 16 + matrix / 2 * 8 + lane % 8][warp * 16 + matrix % 2 * 8]);
      asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};\n" ::"r"(address),
                   "r"(pack_bf16(total[j * 8], total[j * 8 + 1])), "r"(pack_bf16(total[j * 8 + 2], total[j * 8 + 3])),
                   "r"(pack_bf16(total[j * 8 + 4], total[j * 8 + 5])), "r"(pack_bf16(total[j * 8 + 6], total[j * 8 + 7]))
                   : "memory");
    }
  }

  template <int kN>
  __device__ __forceinline__ void store_bf16(const Place& place, const float (&total)[kN]) {
    to_shared(total);
    named_barrier(1 + half, 128);
    const GemmSegment& s = p.segments[place.segment];
    const int first_row = place.first_row + half * 64;
    for (int i = threadIdx.x % 128; i < place.group.rows * 8; i += 128) {
      const int token = i / 8, row = i % 8 * 8;
      store_eight(s, place.group.first + token, first_row + row, &smem.out[half][token][row]);
    }
    named_barrier(1 + half, 128);
  }

  template <int kN>
  __device__ __forceinline__ void store_paired(const Place& place, const float (&total)[kN]) {
    to_shared(total);
    named_barrier(1, kMultipliers * 128);
    const GemmSegment& s = p.segments[0];
    const int rows = s.rows - place.first_row;
    for (int i = threadIdx.x; i < place.group.rows * 8; i += kMultipliers * 128) {
      const int token = i / 8, row = i % 8 * 8;
      if (row >= rows) continue;
      const int64_t y_row = place.group.first + token;
      const float weight = p.row_weight != nullptr ? __ldg(p.row_weight + y_row) : 1.0f;
      float gate[8], up[8];
      unpack_bf16x8(*reinterpret_cast<const uint4*>(&smem.out[0][token][row]), gate);
      unpack_bf16x8(*reinterpret_cast<const uint4*>(&smem.out[1][token][row]), up);
#pragma unroll
      for (int j = 0; j < 8; ++j) gate[j] = swiglu(gate[j], up[j], p.limit) * weight;
      *reinterpret_cast<uint4*>(static_cast<bf16*>(s.y) + y_row * s.ldy + place.first_row + row) = pack_bf16x8(gate);
    }
    named_barrier(1, kMultipliers * 128);
  }

  template <int kN>
  __device__ __forceinline__ void compute(const Place& place) {
    Sums<kN> sums;
    multiply(place, sums);
    if constexpr (kPaired) {
      store_paired(place, sums.total);
    } else if (p.segments[place.segment].f32) {
      store_f32(place, sums.total);
    } else {
      store_bf16(place, sums.total);
    }
  }

  __device__ __forceinline__ void work() {
    for (int index = blockIdx.x; index < places; index += gridDim.x) {
      const Place place = place_of(index);
      switch (__shfl_sync(kFullWarp, (place.group.rows + 31) / 32, 0)) {
        case 1: compute<32>(place); break;
        case 2: compute<64>(place); break;
        case 3: compute<96>(place); break;
        default: compute<128>(place); break;
      }
    }
  }

  __device__ __forceinline__ void run() {
    if (threadIdx.x == 0) {
      for (int s = 0; s < kStages; ++s) {
        mbarrier_init(&smem.full[s], 128);
        mbarrier_init(&smem.empty[s], kMultipliers * 4 * kArrivalsPerWarp);
      }
      mbarrier_fence_init();
    }
    __syncthreads();
    if (half == kMultipliers) {
      release_registers<56>();
      fill();
    } else {
      acquire_registers<224>();
      work();
    }
  }
};

template <WeightFormat kFormat, bool kPaired, bool kGrouped>
__global__ void __launch_bounds__(kThreads, 1)
    gemm_warpgroup_kernel(const __grid_constant__ GemmParams p, const __grid_constant__ TilePlan plan) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ uint8_t smem_bytes[];
  const uint32_t base = smem_address(smem_bytes);
  auto& smem = *reinterpret_cast<SmemPlan<kFormat>*>(smem_bytes + ((base + 1023) / 1024 * 1024 - base));
  Warpgroup<kFormat, kPaired, kGrouped>(p, plan, smem).run();
#endif
}

/// Launches one instance.
template <WeightFormat kFormat, bool kPaired, bool kGrouped>
void launch(const GemmParams& p, const TilePlan& plan) {
  const auto kernel = gemm_warpgroup_kernel<kFormat, kPaired, kGrouped>;
  constexpr int kBytes = sizeof(SmemPlan<kFormat>) + 1024;
  allow_shared_bytes(kernel, kBytes);
  const int64_t places = static_cast<int64_t>(plan.grid_n) * plan.grid_m;
  const int grid = static_cast<int>(places < p.num_sms ? places : p.num_sms);
  kernel<<<grid, kThreads, kBytes, p.stream>>>(p, plan);
  check_launch("gemm_warpgroup_kernel");
}

}  // namespace twelvex::cuda::warpgroup
