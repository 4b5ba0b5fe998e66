// SPDX-License-Identifier: MIT
// y[T, N] = x[T, K] . W[N, K]^T for prepared weights (weight_layout.h), dense or grouped by expert.
//
// Two kernel families, same bits: `gemm_stream` reads every weight once, straight to registers, for few rows; `gemm_tile` shares
// tiles of weights and rows in shared memory for many. Both widen weights exactly to bf16, multiply on tensor cores with f32
// accumulation and add the sums of 256-column chunks in ascending order (kChunkCols). A row's result depends on that row
// and the weights alone.
//
// On sm_90a tiles run on warpgroup instructions (warpgroup_gemm.h): the same bits, faster.
//
// Served numerics: `quantise` rounds activations per row and 128 columns to e4m3 times a power of two before the product (such
// values are exact in bf16).
//
// On sm_12x a third family, `fp8` (fp8_gemm.h), multiplies quantised activations and weights of many rows on FP8 tensor cores at
// twice the rate. It adds sums of 128 columns, so a row's bits differ from the other two families' (not what they mean): rows of
// decode never go there.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

#include "gemm/weight_layout.h"

namespace twelvex::cuda {

inline constexpr int kMaxSegments = 16;

/// One product of a launch. Segments of a launch share the weight format, K and T, not necessarily the input.
struct GemmSegment {
  const uint8_t* weights = nullptr;   // prepared [rows, K]
  const uint8_t* scales = nullptr;    // prepared; null for bf16
  const __nv_bfloat16* x = nullptr;   // [T, K], rows GemmParams::ldx apart; 16-byte aligned
  void* y = nullptr;                  // [T, rows], bf16 or f32, rows `ldy` apart
  int rows = 0;                       // N
  int ldy = 0;
  bool f32 = false;
};

/// A run of consecutive sorted rows of one expert.
struct GroupTile {
  int expert = 0;
  int first = 0;  // sorted row
  int rows = 0;
};

struct GemmParams {
  WeightFormat format = WeightFormat::kFp8Block128;
  int rows = 0;               // T; grouped: sorted rows (tokens x experts per token)
  int cols = 0;               // K, a multiple of 32
  int ldx = 0;                // elements from row to row of x
  bool quantise = false;      // served numerics
  int arch = 0;               // of the device (90, 120, 121); 0: only what every architecture has
  // The launch before this one neither writes x nor touches y: the product may begin while that one runs. First of two alone
  // (run_gemm_beside).
  bool input_ready = false;
  // With input_ready, not null: the launch before does write x, and is done with it, and with y, when it has counted to
  // `ready_count` here.
  const uint32_t* ready = nullptr;
  uint32_t ready_count = 0;
  int group_rows = 8;         // grouped: most rows of a tile
  int decode_rows = 0;        // leading rows whose bits may not depend on the batch: never on FP8 tensor cores. Dense only
  bool x_fp8 = false;         // x holds cells of fp8_cells.h behind the decode rows
  bool y_fp8 = false;         // paired grouped products of such x: y receives cells, segments' rows are multiples of 128
  bool x_ordered = false;     // x's columns are in operand order (quantise.h; then `quantise` is done)
  int num_segments = 0;
  GemmSegment segments[kMaxSegments];
  // Paired: segment 0 is the gate, segment 1 the up projection, of equal rows (a multiple of 16); y of segment 0 receives
  //   silu(min(gate, limit)) * clamp(up, +-limit) [* row_weight], bf16 [T, rows]; limit 0: no clamps.
  bool paired = false;
  float limit = 0;
  // Grouped: weights and scales of segment s for expert e start e * expert_*_bytes behind the segment's pointers. One segment or,
  // of equal rows, two.
  const GroupTile* tiles = nullptr;   // [tile_count] device; null: dense
  const int* tile_count = nullptr;    // device
  bool fresh_tiles = false;           // the launch before this one writes them: no weights are read before it has ended
  int max_tiles = 0;                  // host bound on *tile_count
  int experts = 0;                    // E
  size_t expert_weight_bytes = 0, expert_scale_bytes = 0;
  const int* gather = nullptr;        // [rows] row of x for each sorted row; null: the same row
  const float* row_weight = nullptr;  // [rows] routing weight of each sorted row; null: 1
  // Launches that do not quantise while they load first write a quantised copy of x: the x_rows x x_cols elements behind
  // segment 0's x (0: rows and cols), among which lie the inputs of all segments.
  __nv_bfloat16* quantised = nullptr;  // [x_rows, x_cols]
  int x_rows = 0, x_cols = 0;
  int num_sms = 0;
  cudaStream_t stream = nullptr;
};

/// Launches the product. The choice of kernel depends on the shape alone and does not change the result.
void run_gemm(const GemmParams& params);

/// The same product on a copy of its input in `quantised`, dense [x_rows, x_cols]: for who writes that copy first.
GemmParams on_copied_input(const GemmParams& params);

/// Launches two products that need nothing of each other: in one launch (true) where both are of few rows and the first is a
/// dense fp8 one, the second experts' fp4 one or a dense bf16 one; else the first, then the second. The same bits as alone.
bool run_gemm_beside(const GemmParams& first, const GemmParams& second);

// ---- launch plans: pure functions of the shape (streaming launches: stream_plan.h)

/// Activation rows of a streaming launch (8 or 16), 0 when the tile kernel runs.
int stream_rows(const GemmParams& params);
/// Rows of a group tile: the dispatcher cuts experts' rows into tiles of this many. `rows` = tokens x experts per token.
int group_tile_rows(int rows, int experts, int arch);

struct TilePlan {
  int rows_m = 0;  // activation rows of a block: 32, 64 or 128
  int grid_n = 0, grid_m = 0;
};
TilePlan plan_tile(const GemmParams& params);

}  // namespace twelvex::cuda
