// SPDX-License-Identifier: MIT
// NCCL, when libnccl.so.2 can be loaded and the ranks have a device each: for messages too large for the ranks' own kernels.
#pragma once

#include <cuda_runtime_api.h>

#include <atomic>
#include <cstdint>
#include <memory>

#include "runtime/rank_group.h"

namespace twelvex::cuda {

class Nccl {
 public:
  /// A collective of the group. Null on every rank when one of them cannot load the library.
  static std::unique_ptr<Nccl> join(RankGroup& group, int rank);
  ~Nccl();
  Nccl(const Nccl&) = delete;
  Nccl& operator=(const Nccl&) = delete;

  /// In place, bf16. Throws kInternal with NCCL's reason, or when it was aborted.
  void all_reduce(void* array, int64_t count, cudaStream_t stream) const;
  /// Ends what this rank waits for, from any thread. Nothing can be reduced behind it.
  void give_up();
  bool usable() const { return comm_ != nullptr; }

 private:
  struct Api;
  Nccl() = default;
  const Api* api_ = nullptr;
  std::atomic<void*> comm_ = nullptr;
};

}  // namespace twelvex::cuda
