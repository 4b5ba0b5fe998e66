// SPDX-License-Identifier: MIT
// mHC: four residual streams mixed around every sub-layer (spec, "mHC pre" and "mHC post").
//
// leave  streams = post * output + comb^T * streams        enter  mix = streams * fn^T; pre, post, comb; hidden = norm(pre *
// streams) A launch does leave, enter or both. It is two kernels over chunks of tokens small enough for the streams of a chunk to
// stay in L2, so device memory sees the streams once in each direction:
//   hyper_mix_kernel    leaves, and sums stream * fn over a slice of the dims (tensor cores; fn split into two bf16 parts)
//   hyper_finish_kernel adds the slices, applies sigmoids and Sinkhorn, and forms the normalised input
// Few tokens cross in one launch where the device has clusters of blocks for it (hyper_cluster.h).
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include "moe/combine.h"

namespace twelvex::cuda {

inline constexpr int kHyperMixes = 24;   // pre 4, post 4, comb 16
inline constexpr int kHyperKept = 20;    // post, comb: what `leave` reads
inline constexpr int kHyperSlice = 128;  // dims of a slice
inline constexpr int kHyperChunk = 1024; // tokens of a chunk
inline constexpr int kFewTokens = 64;    // up to here a launch is too short to hide the latency of a load by others

/// Few tokens leave with streams, mix and row_of_slot that the launch before must not have written: they are read early.
struct HyperParams {
  int tokens = 0;
  int dim = 0;                          // D, a multiple of 128, <= 8192
  bool clusters = false;                // the device runs them (common/clusters.h); few tokens may then cross in one
  float norm_eps = 1e-6f, hc_eps = 1e-6f;
  int sinkhorn_iters = 20;
  bool leave = false, enter = false;
  bool late_comb = false;               // few tokens: `enter` leaves comb's logits, `leave` makes comb of them before it waits
  bool comb_ready = false;              // leave: a launch between has made comb already (LateComb)
  __nv_bfloat16* streams = nullptr;     // [T, 4, D]
  const __nv_bfloat16* output = nullptr;  // leave: [T, D]
  CombineParams parts;                  // leave: with tokens, the output is combined from them as it is read (few tokens)
  float* mix = nullptr;                 // [T, 20] read by leave, written by enter
  const float* fn = nullptr;            // enter: [24, 4 D] prepared by run_prepare_hyper
  const float* base = nullptr;          // [24]
  const float* scale = nullptr;         // [3]
  const float* norm = nullptr;          // [D]
  __nv_bfloat16* hidden = nullptr;      // enter: [T, D]
  __nv_bfloat16* hidden_quantised = nullptr;  // enter: [T, D], rounded to FP8 per 128 columns (quantise.h); null: not wanted
  float* partial = nullptr;             // scratch, hyper_scratch_floats()
  uint32_t* ready = nullptr;            // [1] crossing in a cluster clears it; run_hyper_and_route, behind that, counts
};

/// Logits of comb, for a launch behind `enter` that has time.
struct LateComb {
  float* mix = nullptr;                 // [T, 20]; null: none
  int iterations = 0;                   // 0: comb is made
  float eps = 0;
};

/// Floats of `partial` for any batch.
inline size_t hyper_scratch_floats(int dim) { return static_cast<size_t>(kHyperChunk) * (dim / kHyperSlice) * 25; }

void run_hyper(const HyperParams& params, cudaStream_t queue);

/// fn [24, 4 D] as in the checkpoint -> the order in which the kernels read it.
void run_prepare_hyper(const float* raw, float* prepared, int dim, cudaStream_t queue);

/// hidden[n] = norm(sum over streams of (sigmoid(mix * scale + base) + eps) * stream) for the N tokens of `index`.
struct HyperHeadParams {
  int rows = 0;                         // N
  int dim = 0;
  float norm_eps = 1e-6f, hc_eps = 1e-6f;
  const int32_t* index = nullptr;       // [N] token of every row, -1: padding
  const __nv_bfloat16* streams = nullptr;  // [T, 4, D]
  const float* fn = nullptr;            // [4, 4 D]
  const float* base = nullptr;          // [4]
  const float* scale = nullptr;         // [1]
  const float* norm = nullptr;          // [D]
  __nv_bfloat16* hidden = nullptr;      // [N, D]
};
void run_hyper_head(const HyperHeadParams& params, cudaStream_t queue);

}  // namespace twelvex::cuda
