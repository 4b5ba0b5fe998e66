// SPDX-License-Identifier: MIT
// Attention over the window and the compressed entries, with its projections (spec/checkpoint.md, "Attention").
#include <cstring>

#include "cpu_ops.h"

namespace twelvex::cpu {

namespace {

const Rotation& rotation(const BatchTokens& tokens, LayerKind kind, size_t token) {
  return kind == LayerKind::kSwa ? tokens.plain[token] : tokens.compressed[token];
}

/// Into how many parts the heads of a token are cut, so that a few tokens load all threads alike. Four heads share a pass
/// over a row; fewer are taken only where a thread would have nothing to do.
int head_parts(int tokens, int heads, int threads) {
  int parts = 1;
  while (tokens * parts < 4 * threads && heads / (2 * parts) >= 4) parts *= 2;
  while (tokens * parts < threads && 2 * parts <= heads) parts *= 2;
  return threads > 1 ? parts : 1;
}

}  // namespace

void CpuOps::project_query_kv(const Batch& batch, int, const AttentionWeights& weights, Array hidden, Array latent, Array query,
                              Array kv) {
  const BatchTokens& tokens = StepBatches::of(batch);
  const int count = batch.tokens, rank = config_.q_lora_rank;
  // Served numerics leave it as it is (native/README.md).
  const float* in = floats_of(hidden);
  const GemmJob down[] = {product(weights.wq_a, in, count, floats_of(latent)), product(weights.wkv, in, count, floats_of(kv))};
  run_gemms(pool_, kernels_, down);
  for_tokens(count, {4, 16}, [&](int first, int end, int) {
    for (auto t = static_cast<size_t>(first); t < static_cast<size_t>(end); ++t) {
      float* low = floats_of(latent) + t * static_cast<size_t>(rank);
      rms_norm(low, floats_of(weights.q_norm), rank, low);
      float* key = floats_of(kv) + t * kHeadDim;
      rms_norm(key, floats_of(weights.kv_norm), kHeadDim, key);
      rotate(rotation(tokens, weights.kind, t), key + kNopeDim);
    }
  });
  const GemmJob up[] = {product(weights.wq_b, input_of(weights.wq_b, floats_of(latent), count, rank), count, floats_of(query))};
  run_gemms(pool_, kernels_, up);
  for_tokens(count, {4, 16}, [&](int first, int end, int) {
    for (auto t = static_cast<size_t>(first); t < static_cast<size_t>(end); ++t) {
      for (size_t h = 0; h < static_cast<size_t>(weights.heads); ++h) {
        float* head = floats_of(query) + (t * static_cast<size_t>(weights.heads) + h) * kHeadDim;
        const float factor = 1.0f / std::sqrt(kernels_.square_sum(head, kHeadDim) / kHeadDim + config_.rms_norm_eps);
        for (int i = 0; i < kHeadDim; ++i) head[i] *= factor;
        rotate(rotation(tokens, weights.kind, t), head + kNopeDim);
      }
    }
  });
}

void CpuOps::store_window(const Batch& batch, int layer, Array kv) {
  const BatchTokens& tokens = StepBatches::of(batch);
  for_tokens(batch.tokens, {16, 32}, [&](int first, int end, int) {
    for (auto t = static_cast<size_t>(first); t < static_cast<size_t>(end); ++t) {
      const int at = tokens.cache_row[t];
      const RowBlock block = cache_->window(layer, batches_->window_block(tokens.row[t], at));
      store_row({cache_->format(), block, at % kWindow}, floats_of(kv) + t * kHeadDim);
    }
  });
}

/// One call of attend.
struct CpuOps::Attend {
  const BatchTokens* tokens = nullptr;
  int layer = 0;
  LayerKind kind = LayerKind::kSwa;
  const float* query = nullptr;  // [T, H, 512]
  const float* sinks = nullptr;
  const int32_t* selection = nullptr;  // [T, index_topk]
  int topk = 0;
  int heads = 0;
  float* attended = nullptr;

  // Of these, one work item: heads [first_head, first_head + head_count) of a token.
  size_t token = 0;
  int first_head = 0;
  int head_count = 0;

  int window_begin() const { return std::max(tokens->first_cache_row, tokens->cache_row[token] - kWindow + 1); }
  int window_rows() const { return tokens->cache_row[token] + 1 - window_begin(); }
  /// Compressed entries that the token sees.
  int entries() const {
    const int seen = tokens->position[token] + 1;
    if (kind == LayerKind::kSwa) return 0;
    return kind == LayerKind::kHca ? seen / kHcaRatio : std::min(topk, seen / kCsaRatio);
  }
};

/// The token's candidate rows from `first` on, at most a chunk: the window, oldest first, then the entries. Neighbouring
/// chunks may be held at a time. Behind the last row, its pointer is repeated to the chunk's end.
std::span<const float* const> CpuOps::gather_rows(const Attend& work, int first, WorkerScratch& scratch) const {
  const int row = work.tokens->row[work.token], window = work.window_rows(), begin = work.window_begin();
  const int per_block = work.kind == LayerKind::kCsa ? kBlockTokens / kCsaRatio : 1;
  const int32_t* chosen = work.selection + work.token * static_cast<size_t>(work.topk);
  const int count = std::min(kAttendChunk, window + work.entries() - first), half = first % (2 * kAttendChunk);
  const float** pointers = scratch.row_pointers + half;
  for (int i = 0; i < count; ++i) {
    const int candidate = first + i;
    float* space = scratch.rows + static_cast<size_t>(half + i) * kHeadDim;
    if (candidate < window) {
      const int at = begin + candidate;
      const RowBlock block = cache_->window(work.layer, batches_->window_block(row, at));
      pointers[i] = row_values(kernels_, {cache_->format(), block, at % kWindow}, space);
    } else {
      const int entry = work.kind == LayerKind::kCsa ? chosen[candidate - window] : candidate - window;
      const RowBlock block = cache_->context(work.layer, batches_->context_block(row, entry / per_block), false);
      pointers[i] = row_values(kernels_, {cache_->format(), block, entry % per_block}, space);
    }
  }
  if (count > 0) std::fill(pointers + count, pointers + kAttendChunk, pointers[count - 1]);
  return {pointers, static_cast<size_t>(std::max(count, 0))};
}

/// Softmax in one pass over chunks of candidates, with the sink as the first score, which has no value.
void CpuOps::attend_heads(const Attend& work, WorkerScratch& scratch) const {
  const int heads = work.head_count;
  const float scale = 1.0f / std::sqrt(static_cast<float>(kHeadDim));
  const size_t at = (work.token * static_cast<size_t>(work.heads) + static_cast<size_t>(work.first_head)) * kHeadDim;
  float *out = work.attended + at, *top = scratch.running, *total = top + heads, *rescale = total + heads;
  std::memset(out, 0, static_cast<size_t>(heads) * kHeadDim * sizeof(float));
  for (int h = 0; h < heads; ++h) {
    top[h] = work.sinks[work.first_head + h];
    total[h] = 1.0f;
  }
  std::span<const float* const> rows = gather_rows(work, 0, scratch);
  for (int first = kAttendChunk; !rows.empty(); first += kAttendChunk) {
    const std::span<const float* const> next = gather_rows(work, first, scratch);
    const int count = static_cast<int>(rows.size());
    kernels_.dot({work.query + at, kHeadDim, heads, kHeadDim, rows.data(), count, scratch.scores, kAttendChunk});
    for (int h = 0; h < heads; ++h) {
      float* scores = scratch.scores + h * kAttendChunk;
      const float higher = std::max(top[h], kernels_.largest(scores, count) * scale);
      rescale[h] = std::exp(top[h] - higher);
      total[h] = total[h] * rescale[h] + kernels_.exp_sum(scores, count, scale, higher);
      top[h] = higher;
    }
    kernels_.mix(
        {scratch.scores, kAttendChunk, rescale, heads, rows.data(), count, out, next.empty() ? rows.data() : next.data()});
    rows = next;
  }
  for (int h = 0; h < heads; ++h) {
    float* head = out + h * kHeadDim;
    for (int i = 0; i < kHeadDim; ++i) head[i] /= total[h];
    rotate_back(rotation(*work.tokens, work.kind, work.token), head + kNopeDim);
  }
}

void CpuOps::attend(const Batch& batch, int layer, const AttentionWeights& weights, Array query, Array selection,
                    Array attended) {
  Attend work;
  work.tokens = &StepBatches::of(batch);
  work.layer = layer;
  work.kind = weights.kind;
  work.query = floats_of(query);
  work.sinks = floats_of(weights.sinks);
  work.selection = static_cast<const int32_t*>(selection.data);
  work.topk = config_.index_topk;
  work.heads = weights.heads;
  work.attended = floats_of(attended);
  if (work.kind == LayerKind::kCsa) ++result_.gathers_inline;
  if (work.heads == 0) return;
  const int parts = head_parts(batch.tokens, work.heads, pool_.threads());
  pool_.run(batch.tokens * parts, [&](int item, int worker) {
    const int part = item % parts;
    Attend own = work;
    own.token = static_cast<size_t>(item / parts);
    own.first_head = work.heads * part / parts;
    own.head_count = work.heads * (part + 1) / parts - own.first_head;
    attend_heads(own, workers_[static_cast<size_t>(worker)]);
  });
}

void CpuOps::project_output(const Batch& batch, const AttentionWeights& weights, Array attended, Array output) {
  const int count = batch.tokens, groups = weights.groups;
  const int64_t width = static_cast<int64_t>(weights.heads) * kHeadDim, rank = config_.o_lora_rank;
  scratch_.jobs.clear();
  if (groups > 0) {
    const float* in = input_of(weights.wo_a, floats_of(attended), count, width);
    for (int g = 0; g < groups; ++g) {
      GemmJob job = product(weights.wo_a, in + g * weights.wo_a.cols, count, scratch_.low_rank + g * rank);
      job.x_stride = static_cast<size_t>(width);
      job.out_stride = static_cast<size_t>(groups * rank);
      job.panels = static_cast<const uint8_t*>(job.panels) + static_cast<size_t>(g * rank / kPanel) * panel_bytes(weights.wo_a);
      job.panel_count = static_cast<int>(rank / kPanel);
      job.columns = rank;
      scratch_.jobs.push_back(job);
    }
    run_gemms(pool_, kernels_, scratch_.jobs);
  }
  const float* in = input_of(first_part(weights.wo_b), scratch_.low_rank, count, groups * rank);
  const Parts<float*> out = part_outputs(weights.wo_b, floats_of(output));
  scratch_.jobs.clear();
  for (size_t i = 0; i < kParts; in += weights.wo_b[i++].cols) {
    if (weights.wo_b[i].cols == 0) continue;
    scratch_.jobs.push_back(product(weights.wo_b[i], in, count, out[i]));
    scratch_.jobs.back().x_stride = static_cast<size_t>(groups * rank);
  }
  run_gemms(pool_, kernels_, scratch_.jobs);
  add_parts(weights.wo_b, count, floats_of(output));
}

}  // namespace twelvex::cpu
