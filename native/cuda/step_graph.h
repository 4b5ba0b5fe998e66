// SPDX-License-Identifier: MIT
// CUDA graphs of pure decode steps: trunk, sampling and draft passes of a padded number of rows are one launch.
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <map>

#include "runtime/step.h"
#include "runtime/ops.h"

namespace twelvex::cuda {

/// What a graph is captured for; everything else that a step varies lies in device memory.
struct GraphShape {
  int rows = 0;        // padded; every row has 1 + Limits::mtp places
  bool select = false; // some csa layer scores entries (else every entry is kept)
  bool operator<(const GraphShape& other) const { return rows != other.rows ? rows < other.rows : select < other.select; }
};

/// Smallest of 1, 2, 3, 4, 6, 8, 12, 16, 24, ... (powers of two and one and a half times them) that holds `rows`.
inline int padded_rows(int rows) {
  int power = 1;
  while (power < rows) power *= 2;
  const int between = power / 4 * 3;
  return rows <= between ? between : power;
}

/// Whether a step can run as a graph: rows that sample, each its last token and drafts, without log-probabilities or diagnostics.
inline bool is_decode_step(const StepInput& input) {
  for (size_t r = 0; r < input.slot.size(); ++r) {
    if (input.flags[r] != kRowSample || input.count[r] != 1 + input.drafts[r]) return false;
  }
  return !input.slot.empty() &&
         std::all_of(input.sampling.begin(), input.sampling.end(), [](const SamplingParams& p) { return p.logprobs < 0; });
}

/// Captures or replays on one stream.
class StepGraphs {
 public:
  StepGraphs() = default;
  ~StepGraphs();
  StepGraphs(const StepGraphs&) = delete;
  StepGraphs& operator=(const StepGraphs&) = delete;

  /// True: the shape was captured before, nothing is to be queued. False: capturing has begun.
  bool begin(const GraphShape& shape, cudaStream_t queue);
  /// Ends capturing, if any: true when there is a new graph, which is on the device then. Ranks must meet before any of them
  /// launches a new graph, since making one may wait for the device, and so for a rank that waits in a collective.
  bool finish_capture(cudaStream_t queue);
  void launch(cudaStream_t queue);
  /// Gives up a capture that an error interrupted.
  void abandon(cudaStream_t queue) noexcept;

 private:
  std::map<GraphShape, cudaGraphExec_t> graphs_;
  GraphShape shape_;
  bool capturing_ = false;
};

}  // namespace twelvex::cuda
