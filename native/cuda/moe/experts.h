// SPDX-License-Identifier: MIT
// The expert sub-layer of one rank: routed experts (MXFP4) and the shared expert (FP8), summed.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include "gemm/gemm.h"
#include "moe/combine.h"
#include "moe/dispatch.h"
#include "moe/route.h"
#include "runtime/ops.h"

namespace twelvex::cuda {

struct MoeShape {
  int tokens = 0;        // T, the most that a step has
  int hidden = 0;        // D
  int experts = 0;       // E
  int picks = 0;         // K
  int width = 0;         // I, this rank's share of an expert's width; 0: none
  int shared_width = 0;  // this rank's share of the shared expert's width; 0: none
  int parts = 1;         // of the down projections: 2 when one rank computes those of two (ops.h)
};

/// Buffers of run_experts, carved out of one allocation of moe_workspace_bytes(shape).
struct MoeWorkspace {
  float* logits = nullptr;               // [T, E] router
  int32_t* sorted_token = nullptr;       // [T K]
  float* sorted_weight = nullptr;        // [T K]
  int32_t* row_of_slot = nullptr;        // [T K]
  // Twice, as decode tokens and others may be sorted apart.
  int32_t* begin = nullptr;              // [2, E + 1]
  GroupTile* tiles = nullptr;            // [max_group_tiles(T K, E, 8) + E + 16 K], one list behind the other
  int32_t* tile_count = nullptr;         // [2]
  __nv_bfloat16* quantised = nullptr;    // [T, D]
  __nv_bfloat16* act = nullptr;          // [T K, I]
  Parts<__nv_bfloat16*> down = {};       // [T K, D]
  __nv_bfloat16* shared_act = nullptr;   // [T, shared I]
  Parts<__nv_bfloat16*> shared_down = {};  // [T, D]
};
size_t moe_workspace_bytes(const MoeShape& shape);
MoeWorkspace carve_moe_workspace(void* base, const MoeShape& shape);

struct MoeParams {
  int tokens = 0;                          // T
  int picks = 0;                           // K
  float limit = 0;                         // swiglu_limit
  bool quantise = false;                   // served numerics
  int arch = 0;                            // gemm.h
  bool dispatched = false;                 // route_experts has sorted the slots
  int decode_tokens = 0;                   // leading tokens whose bits may not depend on the batch (gemm.h, decode_rows)
  const MoeWeights* weights = nullptr;
  const __nv_bfloat16* hidden = nullptr;   // [T, D]
  const __nv_bfloat16* hidden_quantised = nullptr;  // the same quantised, where it is there already
  const uint32_t* hidden_ready = nullptr;  // the launch that routes writes both meanwhile, and counts here (GemmParams::ready)
  uint32_t ready_count = 0;
  const int32_t* ids = nullptr;            // [T, K]
  const float* routing = nullptr;          // [T, K]
  __nv_bfloat16* output = nullptr;         // [T, D]
  MoeWorkspace workspace;
  int num_sms = 0;
  cudaStream_t stream = nullptr;
};
void run_experts(const MoeParams& params);

/// Whether route_experts also dispatches these tokens, so that `dispatched` holds: few, of which no part runs apart.
bool route_dispatches(const MoeParams& params);
DispatchParams dispatch_of(const MoeParams& params);
/// run_route, with the dispatch where route_dispatches().
void route_experts(const RouteParams& route, const MoeParams& params);

/// The same in parts, so that finished rows of the output can be summed over ranks meanwhile: all products, then the combination
/// of tokens [first, first + tokens).
void begin_experts(const MoeParams& params);
void finish_experts(const MoeParams& params, int first, int tokens);
/// Few tokens (`dispatched`): what finish_experts would combine, for who combines it while reading it.
CombineParams uncombined_experts(const MoeParams& params);

}  // namespace twelvex::cuda
