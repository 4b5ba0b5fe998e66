// SPDX-License-Identifier: MIT
// One rank's model over operations of the test's choosing, so that a test can look at a step from within. One sequence.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "runtime/backend.h"
#include "runtime/checkpoint.h"
#include "runtime/dummy.h"
#include "runtime/forward.h"
#include "runtime/weights.h"
#include "step_rows.h"

namespace twelvex::test {

struct BareOptions {
  int layers = 0;           // 0: all
  bool dummy = false;       // weights from a seed
  RowFormat rows = RowFormat::kBF16;
  Numerics numerics = Numerics::kExact;
  Limits limits;
  size_t stream_element_bytes = 2;
  RankShape shape = {};
  std::shared_ptr<RankGroup> group = std::make_shared<RankGroup>(1);
  int device = 0;
};

/// `Operations` is CudaOps or CpuOps, or derived from one.
template <class Operations>
struct BareModel {
  ModelConfig config;
  Operations ops;
  ModelWeights weights;
  Activations activations;
  const int mtp;

  BareModel(const std::string& directory, const BareOptions& options)
      : config(read_config(directory).first_layers(options.layers)),
        ops(BackendOptions{.config = config,
                           .shape = options.shape,
                           .group = options.group,
                           .numerics = options.numerics,
                           .rows = options.rows,
                           .with_mtp = options.limits.mtp > 0,
                           .device = options.device}),
        mtp(options.limits.mtp) {
    std::unique_ptr<TensorSource> source;
    if (options.dummy) {
      source = make_dummy_source(config, 1);
    } else {
      source = Checkpoint::open(directory, read_config(directory));
    }
    weights = load_weights(
        {.config = config, .source = *source, .shape = options.shape, .with_mtp = mtp > 0, .progress = {}}, ops);
    activations = ops.reserve(options.limits);
    const int blocks = options.limits.context_tokens / kBlockTokens + 2;
    ops.allocate_cache(CacheLayout::make(config, options.rows, mtp > 0, options.stream_element_bytes),
                       {.slots = 1, .window_blocks = blocks, .context_blocks = blocks});
  }

  /// Tokens [first, first + count) of the sequence; kRowSample draws greedily behind them.
  StepOutput prefill(const std::vector<int32_t>& tokens, int first, int count, uint8_t flags) {
    const StepInput in = step_of({row_of(tokens, first, count, flags)}, 0, mtp);
    StepOutput out;
    forward_step({.ops = ops, .config = config, .weights = weights, .activations = activations, .mtp = mtp}, in, out);
    return out;
  }
};

}  // namespace twelvex::test
