// SPDX-License-Identifier: MIT
#include "warm_up.h"

#include <algorithm>

namespace twelvex {

namespace {

/// Appends logical blocks [first, last] of row `r`: those before `border` are shared and have the highest ids, the others are
/// the row's own.
void add_blocks(std::vector<int32_t>& ids, std::vector<int32_t>& offset, int r, const int (&range)[3], int blocks) {
  const auto& [first, border, last] = range;
  const int own = last - border + 1;
  for (int b = first; b < border; ++b) ids.push_back(blocks - border + b);
  for (int b = 0; b < own; ++b) ids.push_back(r * own + b);
  offset.push_back(static_cast<int32_t>(ids.size()));
}

}  // namespace

std::optional<StepInput> make_decode_step(const DecodeShape& shape, const CachePlan& cache, int mtp) {
  const int border = shape.position / kBlockTokens, base = std::max(0, shape.position - (kWindow - 1)) / kBlockTokens;
  const int last_window = (shape.position + mtp) / kBlockTokens;
  const int64_t windows = int64_t{shape.rows} * (last_window - border + 1) + border - base;
  const int64_t contexts = int64_t{shape.rows} + border;
  if (shape.rows > cache.slots || windows > cache.window_blocks || contexts > cache.context_blocks) return std::nullopt;
  StepInput step;
  step.window_offset = step.context_offset = step.penalty_offset = step.bias_offset = {0};
  for (int r = 0; r < shape.rows; ++r) {
    step.slot.push_back(r);
    step.position.push_back(shape.position);
    step.count.push_back(1);
    step.drafts.push_back(0);
    step.next_token.push_back(-1);
    step.flags.push_back(kRowSample);
    step.window_base.push_back(base);
    add_blocks(step.window_blocks, step.window_offset, r, {base, border, last_window}, cache.window_blocks);
    add_blocks(step.context_blocks, step.context_offset, r, {0, border, border}, cache.context_blocks);
    step.tokens.push_back(0);
    step.sampling.push_back({.temperature = 0});
    step.penalty_offset.push_back(0);
    step.bias_offset.push_back(0);
    step.mask_row.push_back(-1);
  }
  return step;
}

}  // namespace twelvex
