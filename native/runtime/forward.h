// SPDX-License-Identifier: MIT
// One DeepSeek-V4 step, said once, over the operations of a backend (checkpoint specification, parts c and d).
#pragma once

#include "ops.h"

namespace twelvex {

/// What one rank needs to run steps. `config` is the trunk's; the MTP block is cache layer config.num_layers.
struct ForwardContext {
  Ops& ops;
  const ModelConfig& config;
  const ModelWeights& weights;
  const Activations& activations;
  int mtp = 0;  // drafts per step; 0 leaves the MTP block out
};

/// Runs trunk and draft passes for a validated `input` on this rank. Between begin_step and finish_step no decision
/// depends on what a device computed, only on the shapes in Batch, so a backend may record the operations and replay them.
void forward_step(const ForwardContext& context, const StepInput& input, StepOutput& output);

}  // namespace twelvex
