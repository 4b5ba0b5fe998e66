// SPDX-License-Identifier: MIT
// Steps without a scheduler: every sequence has a slot and blocks of its own.
#pragma once

#include <algorithm>
#include <vector>

#include "runtime/cache_layout.h"
#include "runtime/step.h"

namespace twelvex::test {

/// One row of a step.
struct StepRow {
  int sequence = 0;             // its slot
  int position = 0;
  std::vector<int32_t> tokens;  // drafts last
  int drafts = 0;
  int next_token = -1;
  uint8_t flags = 0;
  SamplingParams sampling = {.temperature = 0};  // with kRowSample
};

/// `blocks`: how many of each kind a sequence has; sequence s has those from s * blocks on.
inline StepInput step_of(const std::vector<StepRow>& rows, int blocks, int mtp) {
  StepInput in;
  in.window_offset = in.context_offset = in.penalty_offset = in.bias_offset = {0};
  for (const StepRow& row : rows) {
    const int last = row.position + static_cast<int>(row.tokens.size()) - 1, own = row.sequence * blocks;
    in.slot.push_back(row.sequence);
    in.position.push_back(row.position);
    in.count.push_back(static_cast<int32_t>(row.tokens.size()));
    in.drafts.push_back(row.drafts);
    in.next_token.push_back(row.next_token);
    in.flags.push_back(row.flags);
    in.window_base.push_back(std::max(0, row.position - (kWindow - 1)) / kBlockTokens);
    for (int b = in.window_base.back(); b <= (last + mtp) / kBlockTokens; ++b) in.window_blocks.push_back(own + b);
    for (int b = 0; b <= last / kBlockTokens; ++b) in.context_blocks.push_back(own + b);
    in.window_offset.push_back(static_cast<int32_t>(in.window_blocks.size()));
    in.context_offset.push_back(static_cast<int32_t>(in.context_blocks.size()));
    in.tokens.insert(in.tokens.end(), row.tokens.begin(), row.tokens.end());
    if ((row.flags & kRowSample) == 0) continue;
    in.sampling.push_back(row.sampling);
    in.penalty_offset.push_back(0);
    in.bias_offset.push_back(0);
    in.mask_row.push_back(-1);
  }
  return in;
}

/// Tokens [first, first + count) of a sequence; the one behind them is known if there is one.
inline StepRow row_of(const std::vector<int32_t>& tokens, int first, int count, uint8_t flags) {
  const int end = first + count;
  return {.position = first,
          .tokens = {tokens.begin() + first, tokens.begin() + end},
          .next_token = end < static_cast<int>(tokens.size()) ? tokens[static_cast<size_t>(end)] : -1,
          .flags = flags};
}

}  // namespace twelvex::test
