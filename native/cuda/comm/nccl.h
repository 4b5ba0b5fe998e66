// SPDX-License-Identifier: MIT
// NCCL, when libnccl.so.2 can be loaded and the ranks have a device each: for messages too large for the ranks' own kernels.
#pragma once

#include <cuda_runtime_api.h>

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

  /// In place, bf16. Throws kInternal with NCCL's reason.
  void all_reduce(void* array, int64_t count, cudaStream_t stream) const;

 private:
  struct Api;
  Nccl() = default;
  const Api* api_ = nullptr;
  void* comm_ = nullptr;
};

}  // namespace twelvex::cuda
