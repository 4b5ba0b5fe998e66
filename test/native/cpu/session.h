// SPDX-License-Identifier: MIT
// Drives a model with a few sequences, each with its own slot and blocks, without a scheduler.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "runtime/model.h"

namespace twelvex::check {

struct SessionOptions {
  LoadOptions load;
  int sequences = 1;
  int context_tokens = 2048;
};

/// One row of a step.
struct RowRequest {
  int sequence = 0;
  int position = 0;
  std::vector<int32_t> tokens;
  int drafts = 0;
  int next_token = -1;
  uint8_t flags = 0;
  SamplingParams sampling = greedy();

  static SamplingParams greedy() {
    SamplingParams params;
    params.temperature = 0;
    return params;
  }
};

class Session {
 public:
  Session(const std::string& directory, const SessionOptions& options)
      : blocks_((options.context_tokens + kBlockTokens - 1) / kBlockTokens + 1), mtp_(options.load.mtp) {
    LoadOptions load = options.load;
    load.context_tokens = options.context_tokens;
    load.max_rows = options.sequences;
    model_ = Model::load(directory, load, [](double, const std::string&) {});
    model_->allocate_cache({options.sequences, blocks_ * options.sequences, blocks_ * options.sequences});
  }

  const ModelConfig& config() const { return model_->info().config; }
  int mtp() const { return mtp_; }

  StepOutput step(const std::vector<RowRequest>& rows) {
    StepInput in;
    in.window_offset = in.context_offset = in.penalty_offset = in.bias_offset = {0};
    for (const RowRequest& row : rows) add_row(in, row);
    return model_->step(in);
  }

 private:
  void add_row(StepInput& in, const RowRequest& row) {
    const int count = static_cast<int>(row.tokens.size());
    in.slot.push_back(row.sequence);
    in.position.push_back(row.position);
    in.count.push_back(count);
    in.drafts.push_back(row.drafts);
    in.next_token.push_back(row.next_token);
    in.flags.push_back(row.flags);
    const int first = std::max(0, row.position - (kWindow - 1)) / kBlockTokens;
    in.window_base.push_back(first);
    for (int b = first; b <= (row.position + count - 1 + mtp_) / kBlockTokens; ++b)
      in.window_blocks.push_back(block(row.sequence, b));
    for (int b = 0; b <= (row.position + count - 1) / kBlockTokens; ++b) in.context_blocks.push_back(block(row.sequence, b));
    in.window_offset.push_back(static_cast<int32_t>(in.window_blocks.size()));
    in.context_offset.push_back(static_cast<int32_t>(in.context_blocks.size()));
    in.tokens.insert(in.tokens.end(), row.tokens.begin(), row.tokens.end());
    if ((row.flags & kRowSample) == 0) return;
    in.sampling.push_back(row.sampling);
    in.penalty_offset.push_back(0);
    in.bias_offset.push_back(0);
    in.mask_row.push_back(-1);
  }

  int block(int sequence, int number) const { return sequence * blocks_ + number; }

  int blocks_;
  int mtp_;
  std::unique_ptr<Model> model_;
};

}  // namespace twelvex::check
