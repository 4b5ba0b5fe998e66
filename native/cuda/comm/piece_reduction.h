// SPDX-License-Identifier: MIT
// Sums over ranks of pieces of an array's rows, on a stream of their own beside the work that computes the next piece or that
// uses the one before.
#pragma once

#include <cuda_runtime_api.h>

#include <vector>

#include "comm/communicator.h"

namespace twelvex::cuda {

class PieceReduction {
 public:
  explicit PieceReduction(const Communicator& comm);
  ~PieceReduction();
  PieceReduction(const PieceReduction&) = delete;
  PieceReduction& operator=(const PieceReduction&) = delete;

  /// Starts to sum piece `index` of an array, `count` elements from `first` on, behind the work that `queue` holds now.
  void begin(size_t index, const PeerPointers& array, int64_t first, int64_t count, cudaStream_t queue);
  /// Work queued behind this waits for the piece.
  void wait(size_t index, cudaStream_t queue) const;

 private:
  const Communicator& comm_;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t computed_ = nullptr;
  std::vector<cudaEvent_t> reduced_;  // of every piece
};

}  // namespace twelvex::cuda
