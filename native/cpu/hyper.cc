// SPDX-License-Identifier: MIT
// Manifold-constrained hyper-connections: four residual streams, mixed around every sub-layer (spec/checkpoint.md, "mHC").
#include "cpu_ops.h"

namespace twelvex::cpu {

namespace {

constexpr int kMixes = 24;  // pre, post, comb
constexpr int kKept = 20;   // post, comb

float sigmoid(float x) { return 1.0f / (1.0f + std::exp(-x)); }

/// Softmax over each row of the comb logits.
void softmax_rows(float* comb) {
  for (int j = 0; j < kStreams; ++j) {
    float* row = comb + j * kStreams;
    const float top = std::max(std::max(row[0], row[1]), std::max(row[2], row[3]));
    float total = 0;
    for (int k = 0; k < kStreams; ++k) total += row[k] = std::exp(row[k] - top);
    for (int k = 0; k < kStreams; ++k) row[k] /= total;
  }
}

}  // namespace

/// Tokens [first, first + count) of a batch at an mHC border.
struct CpuOps::HyperTile {
  const HyperWeights* weights = nullptr;
  const float* norm = nullptr;
  const float* output = nullptr;
  float* streams = nullptr;
  float* mix = nullptr;
  float* hidden = nullptr;
  int count = 0;

  HyperTile at(int first, int tokens, size_t dim) const {
    HyperTile tile = *this;
    const auto t = static_cast<size_t>(first);
    if (output != nullptr) tile.output += t * dim;
    if (hidden != nullptr) tile.hidden += t * dim;
    tile.streams += t * kStreams * dim;
    tile.mix += t * kKept;
    tile.count = tokens;
    return tile;
  }
};

void CpuOps::leave_tokens(const HyperTile& tile) const {
  const auto dim = static_cast<size_t>(config_.hidden_size);
  for (size_t t = 0; t < static_cast<size_t>(tile.count); ++t) {
    kernels_.expand(tile.mix + t * kKept, tile.output + t * dim, config_.hidden_size, tile.streams + t * kStreams * dim);
  }
}

void CpuOps::enter_tokens(const HyperTile& tile, int worker) const {
  const auto dim = static_cast<size_t>(config_.hidden_size), width = kStreams * dim;
  float* mixes = workers_[static_cast<size_t>(worker)].mixes;
  const float* rows[kMixes];
  for (size_t i = 0; i < kMixes; ++i) rows[i] = floats_of(tile.weights->fn) + i * width;
  kernels_.dot({tile.streams, width, tile.count, static_cast<int>(width), rows, kMixes, mixes, kMixes});

  const float *base = floats_of(tile.weights->base), *scale = floats_of(tile.weights->scale);
  for (size_t t = 0; t < static_cast<size_t>(tile.count); ++t) {
    const float* streams = tile.streams + t * width;
    const float factor = 1.0f / std::sqrt(kernels_.square_sum(streams, static_cast<int>(width)) / static_cast<float>(width) +
                                          config_.rms_norm_eps);
    const float* m = mixes + t * kMixes;
    float pre[kStreams];
    float *post = tile.mix + t * kKept, *comb = post + kStreams;
    for (int i = 0; i < kStreams; ++i) {
      pre[i] = sigmoid(m[i] * factor * scale[0] + base[i]) + config_.hc_eps;
      post[i] = 2.0f * sigmoid(m[4 + i] * factor * scale[1] + base[4 + i]);
    }
    for (int i = 0; i < kStreams * kStreams; ++i) comb[i] = m[8 + i] * factor * scale[2] + base[8 + i];
    softmax_rows(comb);
    for (int i = 0; i < kStreams * kStreams; ++i) comb[i] += config_.hc_eps;
    kernels_.sinkhorn(comb, config_.hc_sinkhorn_iters, config_.hc_eps);
    float* hidden = tile.hidden + t * dim;
    kernels_.collapse(streams, pre, config_.hidden_size, hidden);
    rms_norm(hidden, tile.norm, config_.hidden_size, hidden);
  }
}

void CpuOps::for_hyper_tiles(int tokens, HyperTile whole, bool leave, bool enter) {
  for_tokens(tokens, {1, kHyperTile}, [&](int first, int end, int worker) {
    const HyperTile tile = whole.at(first, end - first, static_cast<size_t>(config_.hidden_size));
    if (leave) leave_tokens(tile);
    if (enter) enter_tokens(tile, worker);
  });
}

void CpuOps::hyper_enter(const Batch& batch, const HyperWeights& weights, Array norm, Array streams, Array mix, Array hidden) {
  for_hyper_tiles(batch.tokens, {&weights, floats_of(norm), nullptr, floats_of(streams), floats_of(mix), floats_of(hidden), 0},
                  false, true);
}

void CpuOps::hyper_leave(const Batch& batch, Array mix, Array output, Array streams) {
  for_hyper_tiles(batch.tokens, {nullptr, nullptr, floats_of(output), floats_of(streams), floats_of(mix), nullptr, 0}, true,
                  false);
}

void CpuOps::hyper_cross(const Batch& batch, const HyperWeights& next, Array norm, Array output, Array streams, Array mix,
                         Array hidden) {
  const HyperTile whole{&next, floats_of(norm), floats_of(output), floats_of(streams), floats_of(mix), floats_of(hidden), 0};
  for_hyper_tiles(batch.tokens, whole, true, true);
}

/// The streams' weighted sum for the head, normalised.
void CpuOps::head_input(const HeadWeights& head, const float* streams, float* out, WorkerScratch& scratch) const {
  const auto width = static_cast<size_t>(kStreams) * static_cast<size_t>(config_.hidden_size);
  const float* rows[kStreams];
  for (size_t i = 0; i < kStreams; ++i) rows[i] = floats_of(head.hyper.fn) + i * width;
  kernels_.dot({streams, width, 1, static_cast<int>(width), rows, kStreams, scratch.mixes, kStreams});
  const float factor =
      1.0f / std::sqrt(kernels_.square_sum(streams, static_cast<int>(width)) / static_cast<float>(width) + config_.rms_norm_eps);
  float weights[kStreams];
  for (int i = 0; i < kStreams; ++i) {
    weights[i] =
        sigmoid(scratch.mixes[i] * factor * floats_of(head.hyper.scale)[0] + floats_of(head.hyper.base)[i]) + config_.hc_eps;
  }
  kernels_.collapse(streams, weights, config_.hidden_size, out);
  rms_norm(out, floats_of(head.norm), config_.hidden_size, out);
}

}  // namespace twelvex::cpu
