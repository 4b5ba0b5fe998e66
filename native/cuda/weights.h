// SPDX-License-Identifier: MIT
// The loading half of the backend: checkpoint views -> device memory in the layouts that the kernels read.
#pragma once

#include <cuda_runtime_api.h>

#include <span>
#include <vector>

#include "runtime/ops.h"

namespace twelvex::cuda {

/// Owns a rank's weights. Uploads go through two pinned buffers, so that one is filled while the other is copied and
/// prepared. One thread, with the rank's device current.
class WeightStore {
 public:
  /// Throws kOutOfMemory when the staging buffers do not fit.
  explicit WeightStore(cudaStream_t stream);
  ~WeightStore();
  WeightStore(const WeightStore&) = delete;
  WeightStore& operator=(const WeightStore&) = delete;

  /// bf16, fp8 or fp4; prepared (gemm/weight_layout.h). Throws kBadCheckpoint for scales that bf16 cannot hold, kUnsupported
  /// for f32, kOutOfMemory naming need and rest.
  Linear linear(const MatrixView& view);
  Experts experts(std::span<const ExpertView> views);
  /// f32 on the device; from f32 or bf16.
  Array vector(const MatrixView& view);
  Array matrix_f32(const MatrixView& view);
  /// fn of mHC, prepared (hyper/hyper.h).
  Array hyper_matrix(const MatrixView& view);
  Array token_table(std::span<const int32_t> table);

  size_t bytes() const { return bytes_; }
  /// Waits for the uploads and frees the staging buffers; call after the last load.
  void finish();

 private:
  struct Staging {
    uint8_t* host = nullptr;    // pinned
    uint8_t* device = nullptr;
    cudaEvent_t free = nullptr;  // recorded behind the last use
  };

  Linear empty_like(WeightFormat format, int64_t rows, int64_t cols, int64_t count);
  /// Rows of `view` into row tile `first_tile` of a prepared matrix at `data`, `scale`.
  void upload(const MatrixView& view, uint8_t* data, uint8_t* scale, int64_t first_tile);
  /// The same into one of several stacked matrices.
  void upload_expert(const MatrixView& view, const Linear& stacked, size_t expert, int64_t first_tile);
  void upload_scales(const MatrixView& view, uint8_t* scale, int64_t first_tile);
  void* allocate(size_t bytes, const char* purpose);
  Staging& next_staging();
  void release_staging() noexcept;

  cudaStream_t stream_;
  Staging staging_[2];
  int turn_ = 0;
  size_t bytes_ = 0;
  std::vector<void*> owned_;
};

}  // namespace twelvex::cuda
