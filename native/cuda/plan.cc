// SPDX-License-Identifier: MIT
// Launch shapes: pure functions of the problem's shape, tested without a GPU (test/native/cuda/launch_plans.cc).
#include <algorithm>

#include "attention/sparse_decode.h"
#include "attention/sparse_prefill.h"
#include "step_graph.h"

namespace twelvex::cuda {

SparsePrefillPlan plan_sparse_prefill(int tokens, int heads, int multiprocessors, int arch, bool fp8) {
  SparsePrefillPlan plan;
  plan.head_block = heads <= 16 ? 16 : 32;
  plan.head_groups = (heads + plan.head_block - 1) / plan.head_block;
  plan.tile = arch == 90 && !fp8 ? 64 : 32;
  const int items = tokens * plan.head_groups;
  plan.blocks = items < multiprocessors ? items : multiprocessors;
  return plan;
}

int decode_splits(LayerKind kind, int topk, int context_tokens) {
  int candidates = context_tokens < kWindow ? context_tokens : kWindow;
  if (kind == LayerKind::kCsa) candidates += topk < context_tokens / kCsaRatio ? topk : context_tokens / kCsaRatio;
  if (kind == LayerKind::kHca) candidates += context_tokens / kHcaRatio;
  return (candidates + decode_split(kind) - 1) / decode_split(kind);
}

int padded_rows(int rows) {
  int power = 1;
  while (power < rows) power *= 2;
  const int between = power / 4 * 3;
  return rows <= between ? between : power;
}

bool is_decode_step(const StepInput& input) {
  for (size_t r = 0; r < input.slot.size(); ++r) {
    if (input.flags[r] != kRowSample || input.count[r] != 1 + input.drafts[r]) return false;
  }
  return !input.slot.empty() &&
         std::all_of(input.sampling.begin(), input.sampling.end(), [](const SamplingParams& p) { return p.logprobs < 0; });
}

}  // namespace twelvex::cuda
