// SPDX-License-Identifier: MIT
// Checks a step plan against the model and the cache before anything runs, so that no backend ever reads wildly.
#pragma once

#include <cstdint>
#include <vector>

#include "ops.h"

namespace twelvex {

/// What a plan may refer to.
struct PlanBounds {
  Limits limits;
  CachePlan cache;
  int vocab_size = 0;
};

/// Holds marks that are reused from step to step: checking allocates nothing once warm.
class PlanValidator {
 public:
  explicit PlanValidator(const PlanBounds& bounds);

  /// @throws Error kInvalidPlan naming the row (or sampling row), what was expected and what came.
  void check(const StepInput& input);

 private:
  void check_shapes(const StepInput& input) const;
  void check_rows(const StepInput& input);
  void check_blocks(const StepInput& input);
  void check_sampling(const StepInput& input) const;
  void check_penalties(const StepInput& input);
  void check_masks(const StepInput& input) const;

  /// Who uses a block in this step. Every table may share what is only read; what a row writes is the row's alone.
  struct Marks {
    std::vector<uint64_t> used;     // per id: stamp of the last row that lists it
    std::vector<uint64_t> reader;   // per id: stamp of this step, when some row lists it
    std::vector<uint64_t> written;  // per id: stamp of this step, when some row writes it
  };
  struct BlockTable {
    const char* name;
    const std::vector<int32_t>& ids;
    const std::vector<int32_t>& offset;
    int64_t first_block;    // logical number of the first entry
    int64_t last_block;     // of the last entry needed
    int64_t first_written;  // logical number of the first block that this step writes
  };
  void check_table(int row, const BlockTable& table, int blocks, Marks& marks);

  const PlanBounds bounds_;
  uint64_t step_ = 0;
  uint64_t stamp_ = 0;  // changes with every row
  std::vector<uint64_t> slot_;
  std::vector<uint64_t> token_;
  Marks window_;
  Marks context_;
};

}  // namespace twelvex
