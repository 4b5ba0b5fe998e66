// SPDX-License-Identifier: MIT
// What an operation has to compute and to move, from the configuration alone: the least it can do, whatever the kernels do.
#pragma once

#include <string>
#include <vector>

#include "runtime/ops.h"
#include "timed_ops.h"

namespace twelvex::bench {

struct Cost {
  double flops = 0;
  double bytes = 0;  // weights once, inputs once, outputs once; cache rows once a sequence
  Cost& operator+=(const Cost& other) {
    flops += other.flops;
    bytes += other.bytes;
    return *this;
  }
};

/// A row of a step: tokens at `position` .. `position + count - 1`.
struct RowShape {
  int position = 0, count = 0;
};

struct StepShape {
  std::vector<RowShape> rows;
  int sampled = 0;  // logits rows of the trunk
};

/// Cost of one rank's operation `sample.op` in that step. FP8 rows: 584 bytes, index entries 132.
Cost op_cost(const ModelConfig& config, RankShape shape, const Sample& sample, const StepShape& step);

}  // namespace twelvex::bench
