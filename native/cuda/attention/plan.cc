// SPDX-License-Identifier: MIT
// Launch shapes: pure functions of the problem's shape, tested without a GPU (test/native/cuda/launch_plans.cc).
#include <algorithm>

#include "attention/sparse_decode.h"
#include "attention/sparse_prefill.h"

namespace twelvex::cuda {

SparsePrefillPlan plan_sparse_prefill(int tokens, PrefillHeads heads, int multiprocessors, int arch, bool fp8) {
  SparsePrefillPlan plan;
  plan.head_block = heads.part <= 16 ? 16 : 32;
  plan.head_groups = (heads.own + plan.head_block - 1) / plan.head_block;
  plan.tile = arch == 90 && !fp8 ? 64 : 32;
  const int items = tokens * plan.head_groups;
  plan.blocks = items < multiprocessors ? items : multiprocessors;
  return plan;
}

namespace {

int decode_candidates(LayerKind kind, int topk, int context_tokens) {
  const int window = std::min(context_tokens, kWindow);
  if (kind == LayerKind::kCsa) return window + std::min(topk, context_tokens / kCsaRatio);
  return kind == LayerKind::kHca ? window + context_tokens / kHcaRatio : window;
}

}  // namespace

int decode_splits(LayerKind kind, int topk, int context_tokens) {
  return (decode_candidates(kind, topk, context_tokens) + decode_split(kind) - 1) / decode_split(kind);
}

SparseDecodePlan plan_sparse_decode(LayerKind kind, int topk, int context_tokens, int tokens, int heads, int multiprocessors) {
  constexpr int kHeads = 16, kBlocksPerMultiprocessor = 4;
  const int groups = std::max(1, tokens * ((heads + kHeads - 1) / kHeads));
  const int tiles = (decode_candidates(kind, topk, context_tokens) + kDecodeTile - 1) / kDecodeTile;
  SparseDecodePlan plan;
  plan.parts = plan.blocks = decode_splits(kind, topk, context_tokens);
  // Spreading costs a write and a read of every tile's output: it pays while blocks of tiles fill the device little more than
  // twice. The tiles of an hca list are a bound that few steps come near, and its splits are long.
  const bool pays = kind == LayerKind::kHca ? groups * plan.parts < multiprocessors : groups * tiles <= 2 * multiprocessors;
  plan.spread = pays && tokens * tiles <= kMaxSpreadParts;
  if (!plan.spread) return plan;
  plan.parts = tiles;
  plan.blocks = std::min(tiles, std::max(1, kBlocksPerMultiprocessor * multiprocessors / groups));
  return plan;
}

}  // namespace twelvex::cuda
