// SPDX-License-Identifier: MIT
// Compressed entries of csa and hca layers and of the indexer, and the state that they pool from.
#pragma once

#include <cuda_runtime_api.h>

#include "common/rope.cuh"
#include "layout/batch_view.h"

namespace twelvex::cuda {

struct CompressorParams {
  BatchView batch;
  RowPages entries;             // main rows of 512 or indexer rows of 128 dims
  int ratio = 4;                // 4 (with overlap: width 2 dim) or 128 (width dim)
  int dim = 512;
  float eps = 1e-6f;
  RopeFrequencies frequencies;  // of compressed layers
  const float* kv = nullptr;    // [T, width] this step's projections
  const float* gate = nullptr;  // [T, width], without ape
  const float* ape = nullptr;   // [ratio, width]
  const float* norm = nullptr;  // [dim]
  // State of earlier steps: un-pooled kv, then gate + ape, 2 width floats a position.
  uint8_t* ring = nullptr;      // slot s at ring + s * slot_stride; position p in row p mod ring_rows
  size_t slot_stride = 0;
  int ring_rows = kCsaRing;
  uint8_t* tail = nullptr;      // csa: window block b at tail + b * tail_stride, the block's last four positions
  size_t tail_stride = 0;

  TWELVEX_HD int width() const { return ratio == kCsaRatio ? 2 * dim : dim; }
};

/// Pools every window that a token of the batch completes, normalises, rotates at the window's first position and stores the
/// entry; then keeps the batch's positions in rings and tails (and restores rings of rows with kRowResume).
void run_compressor(const CompressorParams& params, cudaStream_t queue);

}  // namespace twelvex::cuda
