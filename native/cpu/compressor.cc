// SPDX-License-Identifier: MIT
// Compressed entries of csa and hca layers and of the indexer (spec/checkpoint.md, "Compressor").
//
// Un-pooled positions live in rings addressed by absolute position, so a rejected draft is simply written again. Within a
// step the order is: entries first, from the step's own projections and what the rings hold of earlier steps; then the rings.
#include <cstring>

#include "cpu_ops.h"

namespace twelvex::cpu {

/// One call of compress.
struct CpuOps::Compression {
  const BatchTokens* tokens = nullptr;
  const CompressorWeights* weights = nullptr;
  int layer = 0;
  bool index = false;
  int ratio = 0;
  int dim = 0;
  int width = 0;  // channels of the projections: both windows' for csa
  int ring = 0;   // positions

  bool overlaps() const { return ratio == kCsaRatio; }
};

void CpuOps::project_compressor(const Compression& c, const float* hidden) {
  const CompressorWeights& weights = *c.weights;
  const int count = c.tokens->tokens();
  const GemmJob jobs[] = {product(weights.wkv, hidden, count, scratch_.kv), product(weights.wgate, hidden, count, scratch_.gate)};
  run_gemms(pool_, kernels_, jobs);
  for_tokens(count, {8, 32}, [&](int first, int end, int) {
    for (auto t = static_cast<size_t>(first); t < static_cast<size_t>(end); ++t) {
      const float* ape =
          floats_of(weights.ape) + static_cast<size_t>(c.tokens->position[t] % c.ratio) * static_cast<size_t>(c.width);
      float* gate = scratch_.gate + t * static_cast<size_t>(c.width);
      for (int i = 0; i < c.width; ++i) gate[i] += ape[i];
    }
  });
}

/// The last four positions of the block before the row come back from its tail.
void CpuOps::restore_ring(const Compression& c, int row) const {
  const StepInput& input = batches_->input();
  const auto r = static_cast<size_t>(row);
  const int position = input.position[r];
  if ((input.flags[r] & kRowResume) == 0 || position == 0) return;
  const float* tail = cache_->window_tail(c.layer, batches_->window_block(row, position - 1), c.index);
  float* ring = cache_->ring(c.layer, input.slot[r], c.index);
  const auto size = static_cast<size_t>(c.width) * 2;
  for (int i = 0; i < kCsaRatio; ++i) {
    const auto at = static_cast<size_t>((position - kCsaRatio + i) % c.ring);
    std::memcpy(ring + at * size, tail + static_cast<size_t>(i) * size, size * sizeof(float));
  }
}

/// Pools a complete window, normalises, rotates at the window's first position and stores the entry.
void CpuOps::emit_entry(const Compression& c, int row, int window, WorkerScratch& scratch) const {
  const StepInput& input = batches_->input();
  const auto r = static_cast<size_t>(row);
  const int begin = window * c.ratio, step_begin = input.position[r], token = c.tokens->row_begin[r];
  const float* ring = cache_->ring(c.layer, input.slot[r], c.index);
  const float *values[kHcaRatio], *gates[kHcaRatio];
  int slots = 0;
  const auto add = [&](int position, int channel) {
    if (position >= step_begin) {
      const size_t at =
          static_cast<size_t>(token + position - step_begin) * static_cast<size_t>(c.width) + static_cast<size_t>(channel);
      values[slots] = scratch_.kv + at;
      gates[slots++] = scratch_.gate + at;
    } else {
      values[slots] = ring + static_cast<size_t>(position % c.ring) * 2 * static_cast<size_t>(c.width) + channel;
      gates[slots] = values[slots] + c.width;
      ++slots;
    }
  };
  if (c.overlaps() && window > 0) {
    for (int i = 0; i < c.ratio; ++i) add(begin - c.ratio + i, 0);
  }
  for (int i = 0; i < c.ratio; ++i) add(begin + i, c.overlaps() ? c.dim : 0);
  kernels_.pool({values, gates, slots, c.dim, scratch.entry});
  rms_norm(scratch.entry, floats_of(c.weights->norm), c.dim, scratch.entry);
  rotate(rope_.at(begin, true), scratch.entry + c.dim - kRopeDim);
  const int per_block = kBlockTokens / c.ratio;
  const RowBlock block = cache_->context(c.layer, batches_->context_block(row, window / per_block), c.index);
  store_row({cache_->format(), block, window % per_block}, scratch.entry);
}

/// Writes a token's projections into the ring, and into the block's tail at its last four positions.
void CpuOps::keep_positions(const Compression& c, int token) const {
  const StepInput& input = batches_->input();
  const auto t = static_cast<size_t>(token), r = static_cast<size_t>(c.tokens->row[t]);
  const int position = c.tokens->position[t], after = c.tokens->row_begin[r + 1] - token;
  const auto width = static_cast<size_t>(c.width);
  const auto keep = [&](float* to) {
    std::memcpy(to, scratch_.kv + t * width, width * sizeof(float));
    std::memcpy(to + width, scratch_.gate + t * width, width * sizeof(float));
  };
  if (after <= c.ring) keep(cache_->ring(c.layer, input.slot[r], c.index) + static_cast<size_t>(position % c.ring) * 2 * width);
  const int tail = position % kBlockTokens - (kBlockTokens - kCsaRatio);
  if (c.overlaps() && tail >= 0) {
    const int block = batches_->window_block(c.tokens->row[t], position);
    keep(cache_->window_tail(c.layer, block, c.index) + static_cast<size_t>(tail) * 2 * width);
  }
}

void CpuOps::compress(const Batch& batch, int layer, const CompressorWeights& weights, Array hidden) {
  Compression c;
  c.tokens = &StepBatches::of(batch);
  c.weights = &weights;
  c.layer = layer;
  c.index = weights.dim == kIndexDim;
  c.ratio = weights.ratio;
  c.dim = weights.dim;
  c.width = c.overlaps() ? 2 * weights.dim : weights.dim;
  c.ring = c.overlaps() ? kCsaRing : kHcaRing;
  project_compressor(c, floats_of(hidden));

  const StepInput& input = batches_->input();
  scratch_.emissions.clear();
  for (int row = 0; row < batch.rows; ++row) {
    const auto r = static_cast<size_t>(row);
    if (c.overlaps()) restore_ring(c, row);
    const int end = (input.position[r] + input.count[r]) / c.ratio;
    for (int window = input.position[r] / c.ratio; window < end; ++window) scratch_.emissions.emplace_back(row, window);
  }
  pool_.run(static_cast<int>(scratch_.emissions.size()), [&](int item, int worker) {
    const auto [row, window] = scratch_.emissions[static_cast<size_t>(item)];
    emit_entry(c, row, window, workers_[static_cast<size_t>(worker)]);
  });
  for_tokens(batch.tokens, {16, 64}, [&](int first, int last, int) {
    for (int t = first; t < last; ++t) keep_positions(c, t);
  });
}

}  // namespace twelvex::cpu
