// SPDX-License-Identifier: MIT
// The lightning indexer of csa layers: which compressed entries a token attends to (spec/checkpoint.md, "Indexer").
#include <numeric>

#include "cpu_ops.h"
#include "runtime/shard.h"

namespace twelvex::cpu {

/// One call of select.
struct CpuOps::Selection {
  const BatchTokens* tokens = nullptr;
  int layer = 0;
  int32_t* chosen = nullptr;  // [T, index_topk]
};

void CpuOps::project_indexer(const BatchTokens& tokens, const IndexerWeights& weights, const float* hidden, const float* latent) {
  const ShardRange own = shard_range(tokens.tokens(), options_.shape);
  const int count = static_cast<int>(own.size()), heads = config_.index_heads;
  const float* low = latent + own.begin * config_.q_lora_rank;
  const GemmJob jobs[] = {
      product(weights.wq_b, input_of(weights.wq_b, low, count, config_.q_lora_rank), count, scratch_.index_query),
      product(weights.weights_proj, hidden + own.begin * config_.hidden_size, count, scratch_.index_weights)};
  run_gemms(pool_, kernels_, jobs);
  for_tokens(count, {4, 16}, [&](int first, int end, int) {
    for (int t = first; t < end; ++t) {
      for (int h = 0; h < heads; ++h) {
        float* head =
            scratch_.index_query + (static_cast<size_t>(t) * static_cast<size_t>(heads) + static_cast<size_t>(h)) * kIndexDim;
        rotate(tokens.compressed[static_cast<size_t>(own.begin + t)], head + kIndexDim - kRopeDim);
      }
    }
  });
}

/// Scores every entry the token sees and keeps the best index_topk, ties to the lower entry, in ascending order.
void CpuOps::select_token(const Selection& s, int token, WorkerScratch& scratch) const {
  const BatchTokens& tokens = *s.tokens;
  int32_t* selection = s.chosen + static_cast<int64_t>(token) * config_.index_topk;
  const auto heads = static_cast<size_t>(config_.index_heads), t = static_cast<size_t>(token);
  const int entries = (tokens.position[t] + 1) / kCsaRatio, topk = config_.index_topk;
  const int kept = std::min(entries, topk);
  std::fill(selection + kept, selection + topk, -1);
  std::iota(selection, selection + kept, 0);
  if (entries <= topk) return;
  const size_t own = t - static_cast<size_t>(shard_range(tokens.tokens(), options_.shape).begin);
  const float *query = scratch_.index_query + own * heads * kIndexDim, *weights = scratch_.index_weights + own * heads;
  const float scale = 1.0f / std::sqrt(static_cast<float>(kIndexDim)), head_scale = 1.0f / std::sqrt(static_cast<float>(heads));
  constexpr int kPerBlock = kBlockTokens / kCsaRatio;
  for (int first = 0; first < entries; first += kPerBlock) {
    const int count = std::min(kPerBlock, entries - first);
    const RowBlock block = cache_->context(s.layer, batches_->context_block(tokens.row[t], first / kPerBlock), true);
    for (int i = 0; i < count; ++i) {
      scratch.row_pointers[i] =
          row_values(kernels_, {cache_->format(), block, i}, scratch.rows + static_cast<size_t>(i) * kIndexDim);
    }
    kernels_.dot({query, kIndexDim, config_.index_heads, kIndexDim, scratch.row_pointers, count, scratch.scores, kPerBlock});
    float* totals = scratch.index_scores + first;
    std::fill(totals, totals + count, 0.0f);
    for (size_t h = 0; h < heads; ++h) {
      const float weight = weights[h] * head_scale;
      for (int i = 0; i < count; ++i)
        totals[i] += std::max(scratch.scores[h * kPerBlock + static_cast<size_t>(i)], 0.0f) * scale * weight;
    }
  }
  int32_t* order = scratch.index_order;
  std::iota(order, order + entries, 0);
  const float* totals = scratch.index_scores;
  std::nth_element(order, order + topk, order + entries,
                   [totals](int32_t a, int32_t b) { return totals[a] > totals[b] || (totals[a] == totals[b] && a < b); });
  std::sort(order, order + topk);
  std::copy(order, order + topk, selection);
}

/// Ranks choose for a part of the tokens each; everybody gets all choices.
void CpuOps::exchange_selection(int tokens, int32_t* selection) const {
  const auto& [rank, ranks] = options_.shape;
  if (ranks == 1) return;
  const std::vector<void*>& all = options_.group->enter(rank, selection);
  for (int other = 0; other < ranks; ++other) {
    if (other == rank) continue;
    const ShardRange part = shard_range(tokens, {other, ranks});
    const int64_t topk = config_.index_topk;
    const auto* theirs = static_cast<const int32_t*>(all[static_cast<size_t>(other)]);
    std::copy(theirs + part.begin * topk, theirs + part.end * topk, selection + part.begin * topk);
  }
  options_.group->leave();
}

void CpuOps::select(const Batch& batch, int layer, const IndexerWeights& weights, Array hidden, Array latent, Array selection) {
  const BatchTokens& tokens = StepBatches::of(batch);
  const auto fits = [&](int32_t position) { return (position + 1) / kCsaRatio <= config_.index_topk; };
  // Where every entry is kept, nothing needs a score.
  if (!std::all_of(tokens.position.begin(), tokens.position.end(), fits)) {
    project_indexer(tokens, weights, floats_of(hidden), floats_of(latent));
  }
  auto* chosen = static_cast<int32_t*>(selection.data);
  const ShardRange own = shard_range(batch.tokens, options_.shape);
  for_tokens(static_cast<int>(own.size()), {1, 8}, [&](int first, int end, int worker) {
    for (int64_t t = own.begin + first; t < own.begin + end; ++t) {
      select_token({&tokens, layer, chosen}, static_cast<int>(t), workers_[static_cast<size_t>(worker)]);
    }
  });
  exchange_selection(batch.tokens, chosen);
}

}  // namespace twelvex::cpu
