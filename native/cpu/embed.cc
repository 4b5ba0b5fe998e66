// SPDX-License-Identifier: MIT
// Embedding, the four streams, and the MTP block's input.
#include <cstring>

#include "cpu_ops.h"

namespace twelvex::cpu {

void CpuOps::embed(const Batch& batch, const ModelWeights& weights, Array output) {
  const BatchTokens& tokens = StepBatches::of(batch);
  const int64_t dim = config_.hidden_size;
  for_tokens(batch.tokens, {2, 32}, [&](int first, int end, int) {
    for (int t = first; t < end; ++t) {
      float* out = floats_of(output) + t * dim;
      const int64_t row = tokens.id[static_cast<size_t>(t)] - weights.vocab_begin;
      if (row >= 0 && row < weights.embed.rows) {
        unpack_row(weights.embed, row, out);
      } else {
        std::memset(out, 0, static_cast<size_t>(dim) * sizeof(float));
      }
    }
  });
}

void CpuOps::spread(const Batch& batch, Array hidden, Array streams) {
  const auto dim = static_cast<size_t>(config_.hidden_size);
  for (size_t t = 0; t < static_cast<size_t>(batch.tokens); ++t) {
    for (size_t s = 0; s < kStreams; ++s) {
      std::memcpy(floats_of(streams) + (t * kStreams + s) * dim, floats_of(hidden) + t * dim, dim * sizeof(float));
    }
  }
}

void CpuOps::keep_streams(const Batch& batch, Array streams) {
  const BatchTokens& tokens = StepBatches::of(batch);
  const size_t size = static_cast<size_t>(kStreams) * static_cast<size_t>(config_.hidden_size);
  for (size_t t = 0; t < static_cast<size_t>(batch.tokens); ++t) {
    const int position = tokens.position[t];
    if (position % kBlockTokens != kBlockTokens - 1) continue;
    const int block = batches_->window_block(tokens.row[t], position);
    std::memcpy(cache_->streams_tail(block), floats_of(streams) + t * size, size * sizeof(float));
  }
}

void CpuOps::draft_input(const Batch& batch, const MtpWeights& weights, Array embedding, Array streams, Array draft_streams) {
  const BatchTokens& tokens = StepBatches::of(batch);
  const int count = batch.tokens, dim = config_.hidden_size;
  const auto size = static_cast<size_t>(dim);
  // Everything is read before draft_streams is written: from the second pass on it is also the source.
  float* embedded = floats_of(embedding);
  for_tokens(count, {4, 16}, [&](int first, int end, int) {
    for (auto t = static_cast<size_t>(first); t < static_cast<size_t>(end); ++t) {
      rms_norm(embedded + t * size, floats_of(weights.enorm), dim, embedded + t * size);
      const int source = tokens.source[t];
      const float* from = source >= 0 ? floats_of(streams) + static_cast<size_t>(source) * kStreams * size
                                      : cache_->streams_tail(batches_->window_block(tokens.row[t], tokens.position[t]));
      for (size_t s = 0; s < kStreams; ++s) {
        rms_norm(from + s * size, floats_of(weights.hnorm), dim, scratch_.normed + (t * kStreams + s) * size);
      }
    }
  });
  const GemmJob embedding_job[] = {
      product(weights.e_proj, input_of(weights.e_proj, embedded, count, dim), count, scratch_.projected)};
  run_gemms(pool_, kernels_, embedding_job);
  const int rows = count * kStreams;
  const GemmJob stream_job[] = {
      product(weights.h_proj, input_of(weights.h_proj, scratch_.normed, rows, dim), rows, floats_of(draft_streams))};
  run_gemms(pool_, kernels_, stream_job);
  for_tokens(count, {8, 32}, [&](int first, int end, int) {
    for (auto t = static_cast<size_t>(first); t < static_cast<size_t>(end); ++t) {
      for (size_t s = 0; s < kStreams; ++s) {
        float* out = floats_of(draft_streams) + (t * kStreams + s) * size;
        for (size_t i = 0; i < size; ++i) out[i] += scratch_.projected[t * size + i];
      }
    }
  });
}

}  // namespace twelvex::cpu
