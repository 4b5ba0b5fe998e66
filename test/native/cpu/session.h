// SPDX-License-Identifier: MIT
// Drives a model with a few sequences, each with its own slot and blocks, without a scheduler.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "runtime/model.h"
#include "step_rows.h"

namespace twelvex::check {

struct SessionOptions {
  LoadOptions load;
  int sequences = 1;
  int context_tokens = 2048;
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

  StepOutput step(const std::vector<test::StepRow>& rows) { return model_->step(test::step_of(rows, blocks_, mtp_)); }

 private:
  int blocks_;
  int mtp_;
  std::unique_ptr<Model> model_;
};

}  // namespace twelvex::check
