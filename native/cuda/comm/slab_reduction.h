// SPDX-License-Identifier: MIT
// All-reduces of parts of an array on a stream of their own, beside the work that computes the next part.
#pragma once

#include <cuda_runtime_api.h>

#include "comm/communicator.h"

namespace twelvex::cuda {

class SlabReduction {
 public:
  explicit SlabReduction(const Communicator& comm);
  ~SlabReduction();
  SlabReduction(const SlabReduction&) = delete;
  SlabReduction& operator=(const SlabReduction&) = delete;

  /// Starts to reduce `slab` behind the work that `queue` holds now; its `comm` and `stream` are filled in here.
  void begin(AllReduceParams slab, cudaStream_t queue);
  /// Work queued behind this waits for every slab begun.
  void join(cudaStream_t queue);

 private:
  const Communicator& comm_;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t computed_ = nullptr, reduced_ = nullptr;
};

}  // namespace twelvex::cuda
