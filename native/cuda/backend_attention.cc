// SPDX-License-Identifier: MIT
// Attention: gather, selection, attention itself, its output. Its rows: backend_rows.cc.
#include <algorithm>
#include <cmath>

#include "attention/gather.h"
#include "attention/sparse_decode.h"
#include "attention/sparse_prefill.h"
#include "backend.h"
#include "common/check.h"
#include "common/device.h"
#include "elementwise/norm_rope.h"
#include "elementwise/rows.h"
#include "gemm/fp8_gemm.h"
#include "hyper/hyper.h"
#include "runtime/shard.h"

namespace twelvex::cuda {

namespace {

int ratio_of(LayerKind kind) { return kind == LayerKind::kSwa ? 0 : kind == LayerKind::kCsa ? kCsaRatio : kHcaRatio; }

/// Gathering costs about 1 us per 1,000 rows, reading fp8 pages in the attention kernel about 0.11 us more a token than reading
/// the workspace (H100, bench/results): the workspace pays from this many tokens per gathered row on.
bool workspace_pays(int tokens, int rows) { return static_cast<int64_t>(tokens) * 100 >= rows; }

}  // namespace

// ---------------------------------------------------------------- gather

KvSource CudaOps::kv_source(const DeviceBatch& batch, int layer, LayerKind kind) const {
  KvSource kv = batch.gathered[static_cast<size_t>(kind)];
  kv.window = window_pages(layer);
  if (kind != LayerKind::kSwa) kv.compressed = context_pages(layer, false);
  return kv;
}

bool CudaOps::gathers(const PrefillChunk& chunk, LayerKind kind) const {
  return layout_.format == RowFormat::kFp8 && workspace_pays(chunk.tokens, chunk.gathered[static_cast<size_t>(kind)]);
}

void CudaOps::gather(const DeviceBatch& batch, const PrefillChunk& chunk, int layer, LayerKind kind, cudaStream_t queue) {
  GatherParams p;
  p.batch = batch.view;
  p.kv = kv_source(batch, layer, kind);
  p.workspace = scratch_.workspace;
  p.first_row = chunk.first_row;
  p.rows = chunk.rows;
  p.ratio = ratio_of(kind);
  run_gather(p, queue);
}

/// With one chunk of prefill rows the workspace has a single user in the layer, so the gather of a csa layer may run while the
/// indexer decides which of the gathered rows count. It starts behind the rows that this layer has just stored.
void CudaOps::begin_gather(const Batch& batch, int layer, LayerKind kind) {
  if (replaying_) return;
  const DeviceBatch& b = StepBatches::of(batch);
  gather_begun_ = kind == LayerKind::kCsa && b.chunks.size() == 1 && gathers(b.chunks.front(), kind);
  if (!gather_begun_) return;
  check(cudaEventRecord(rows_stored_, queue_), "cudaEventRecord");
  check(cudaStreamWaitEvent(gather_queue_, rows_stored_), "cudaStreamWaitEvent");
  gather(b, b.chunks.front(), layer, kind, gather_queue_);
  check(cudaEventRecord(gathered_, gather_queue_), "cudaEventRecord");
}

// ---------------------------------------------------------------- indexer

bool CudaOps::scores_in_fp8() const {
  return index_scores_in_fp8(options_.numerics == Numerics::kServed, layout_.format, product_arch());
}

/// Index queries and head weights of tokens [first, first + tokens).
void CudaOps::project_indexer(const DeviceBatch& b, const IndexerWeights& weights, Array hidden, Array latent, int first,
                              int tokens) {
  const int heads = config_.index_heads;
  const auto at = static_cast<size_t>(first), width = static_cast<size_t>(heads);
  const int decode = std::clamp(b.decode_tokens - first, 0, tokens);
  GemmParams query = product(weights.wq_b, tokens, decode, config_.q_lora_rank);
  add_segment(query, weights.wq_b, bf16_of(latent) + at * static_cast<size_t>(config_.q_lora_rank),
              scratch_.index_query + at * width * kIndexDim, heads * kIndexDim);
  run_gemm(query);
  GemmParams head_weights = product(weights.weights_proj, tokens, decode, config_.hidden_size);
  add_segment(head_weights, weights.weights_proj, bf16_of(hidden) + at * static_cast<size_t>(config_.hidden_size),
              scratch_.index_weights + at * width, heads);
  run_gemm(head_weights);
  QueryParams rotated;
  rotated.tokens = tokens;
  rotated.index_heads = heads;
  rotated.index_query = scratch_.index_query + at * width * kIndexDim;
  rotated.index_cells = scores_in_fp8();
  rotated.rope = b.view.rope_long + at * (kRopeDim / 2);
  run_finish_queries(rotated, queue_);
}

/// Scores and selects groups [first, last), as many at a time as the score buffer holds. A group reaches to where the next
/// begins: in a graph its count varies from step to step, its place does not.
void CudaOps::select_groups(const DeviceBatch& b, IndexScoreParams p, TopkParams top, int first, int last) {
  const int fit = score_chunk_tokens(kScoreFloats, top.stride);
  while (first < last) {
    const int token = b.token_of_group(first);
    int next = first + 1;
    while (next < last && b.token_of_group(next + 1) - token <= fit) ++next;
    const int end = b.token_of_group(next);
    p.groups = {b.groups.first + first, b.groups.count + first, next - first};
    p.first_token = top.first_token = token;
    p.tokens = top.tokens = end - token;
    const bool awaits = p.tokens <= kAwaitedTokens && few_score_blocks(p) > 0;
    p.awaited = top.awaited = awaits ? scratch_.awaited_scores : nullptr;
    run_index_scores(p, queue_);
    run_topk(top, queue_);
    first = next;
  }
}

void CudaOps::select(const Batch& batch, int layer, const IndexerWeights& weights, Array hidden, Array latent, Array selection) {
  if (replaying_) return;
  const DeviceBatch& b = StepBatches::of(batch);
  const int entries = b.context / kCsaRatio;
  TopkParams top;
  top.batch = b.view;
  top.topk = config_.index_topk;
  top.scores = scratch_.scores;
  top.stride = (entries + 31) / 32 * 32;
  top.selection = static_cast<int32_t*>(selection.data);
  if (!scores_entries(b)) {  // every entry is kept
    if (works_ahead(b)) return;  // attention knows
    top.tokens = batch.tokens;
    run_topk(top, queue_);
    return;
  }
  IndexScoreParams p;
  p.batch = b.view;
  p.entries = context_pages(layer, true);
  p.heads = config_.index_heads;
  p.query_fp8 = scores_in_fp8();
  p.topk = config_.index_topk;
  p.entry_limit = entries;
  p.query = scratch_.index_query;
  p.raw_query = works_ahead(b) && !p.query_fp8;
  p.weights = scratch_.index_weights;
  p.scale = 1.0f / std::sqrt(static_cast<float>(kIndexDim * config_.index_heads));
  p.scores = scratch_.scores;
  p.stride = top.stride;
  p.multiprocessors = device_info().multiprocessors;
  // Ranks choose for a part of the groups each, and everybody gets all choices; of few tokens every rank chooses all.
  const bool shared = comm_ && shares_choices(batch.tokens);
  const ShardRange own = shard_range(b.groups.groups, shared ? options_.shape : RankShape{});
  const int first = b.token_of_group(own.begin), tokens = b.token_of_group(own.end) - first;
  if (tokens > 0) {
    if (!works_ahead(b)) project_indexer(b, weights, hidden, latent, first, tokens);
    select_groups(b, p, top, static_cast<int>(own.begin), static_cast<int>(own.end));
  }
  if (!shared) return;
  AllGatherParams gather;
  gather.array = selection_peers_;
  gather.rows = 1;
  gather.row_bytes = static_cast<int64_t>(batch.tokens) * config_.index_topk * 4;
  gather.offset = static_cast<int64_t>(first) * config_.index_topk * 4;
  gather.bytes = static_cast<int64_t>(tokens) * config_.index_topk * 4;
  comm_->all_gather(gather, queue_);
}

// ---------------------------------------------------------------- attention

void CudaOps::attend(const Batch& batch, int layer, const AttentionWeights& weights, Array query, Array selection,
                     Array attended) {
  if (replaying_) return;
  const DeviceBatch& b = StepBatches::of(batch);
  const LayerKind kind = weights.kind;
  if (b.decode_tokens > 0) {
    SparseDecodeParams p;
    p.batch = b.view;
    p.kv = kv_source(b, layer, kind);
    p.kind = kind;
    p.heads = weights.heads;
    p.topk = config_.index_topk;
    p.plan = plan_sparse_decode(kind, config_.index_topk, b.context, b.decode_tokens, weights.heads,
                                device_info().multiprocessors);
    p.query = bf16_of(query);
    p.selection = static_cast<const int32_t*>(selection.data);
    p.all_kept = works_ahead(b) && !scores_entries(b);
    p.sinks = f32_of(weights.sinks);
    p.rope = b.rope(kind);
    p.partial = scratch_.decode_partial;
    p.state = scratch_.decode_state;
    p.attended = bf16_of(attended);
    p.quantise = weights.groups > 0 && first_output_product(batch, weights).quantise;
    p.tokens = b.decode_tokens;
    p.rows_ready = works_ahead(b);
    p.query_ready = p.rows_ready && kind == LayerKind::kCsa && scores_entries(b);  // select lies between
    p.raw_query = works_ahead(b);
    p.eps = config_.rms_norm_eps;
    run_sparse_decode(p, queue_);
  }
  SparsePrefillParams p;
  p.batch = b.view;
  p.kind = kind;
  p.heads = weights.heads;
  p.part_heads = static_cast<int>(largest_part_heads(config_, options_.shape));
  p.topk = config_.index_topk;
  p.query = bf16_of(query);
  p.selection = static_cast<const int32_t*>(selection.data);
  p.sinks = f32_of(weights.sinks);
  p.rope = b.rope(kind);
  p.attended = bf16_of(attended);
  p.cells = weights.groups > 0 && takes_fp8(first_output_product(batch, weights));
  for (const PrefillChunk& chunk : b.chunks) {
    p.kv = kv_source(b, layer, kind);
    if (gather_begun_) {
      check(cudaStreamWaitEvent(queue_, gathered_), "cudaStreamWaitEvent");
      p.kv.workspace = scratch_.workspace;
      ++overlapped_;
    } else if (gathers(chunk, kind)) {
      gather(b, chunk, layer, kind, queue_);
      p.kv.workspace = scratch_.workspace;
      if (kind == LayerKind::kCsa && &chunk == &b.chunks.front()) ++inline_;  // once a layer
    }
    p.first_token = chunk.first_token;
    p.tokens = chunk.tokens;
    run_sparse_prefill(p, queue_);
  }
  gather_begun_ = false;
}

/// wo_a, without its groups.
GemmParams CudaOps::first_output_product(const Batch& batch, const AttentionWeights& weights) const {
  GemmParams down = product(weights.wo_a, batch.tokens, StepBatches::of(batch).decode_tokens, weights.heads * kHeadDim);
  down.x_rows = batch.tokens;
  down.x_cols = weights.heads * kHeadDim;
  return down;
}

void CudaOps::project_output(const Batch& batch, const AttentionWeights& weights, Array attended, Array output) {
  if (replaying_) return;
  if (weights.groups == 0) {
    const size_t bytes = static_cast<size_t>(batch.tokens) * static_cast<size_t>(config_.hidden_size) * 2;
    check(cudaMemsetAsync(output.data, 0, bytes, queue_), "cudaMemsetAsync");
    return;
  }
  // Every group's heads meet their own rows of wo_a: one launch, a segment a group.
  const int heads = weights.heads / weights.groups * kHeadDim, rank = config_.o_lora_rank;
  GemmParams down = first_output_product(batch, weights);
  if (StepBatches::of(batch).decode_tokens == batch.tokens) down.quantise = false;  // attention has done so
  down.x_fp8 = takes_fp8(down);  // attention wrote them
  const Linear& wo_a = weights.wo_a;
  const auto flush = [&] {
    run_gemm(down);
    down.num_segments = 0;
  };
  for (int g = 0; g < weights.groups; ++g) {
    Linear group = wo_a;
    group.rows = rank;
    const int64_t row = static_cast<int64_t>(g) * rank;
    group.data = static_cast<uint8_t*>(wo_a.data) + weight_bytes(wo_a.format, row, wo_a.cols);
    if (wo_a.scale) group.scale = static_cast<uint8_t*>(wo_a.scale) + scale_bytes(wo_a.format, row, wo_a.cols);
    add_segment(down, group, bf16_of(attended) + static_cast<size_t>(g) * static_cast<size_t>(heads),
                scratch_.low_rank + static_cast<size_t>(g) * static_cast<size_t>(rank), weights.groups * rank);
    if (down.num_segments == kMaxSegments && g + 1 < weights.groups) flush();
  }
  flush();
  project_parts(batch, weights.wo_b, output);
}

/// wo_b. Every part is a sum of its own; parts of equal width are one launch.
void CudaOps::project_parts(const Batch& batch, const Parts<Linear>& wo_b, Array output) {
  const int decode = StepBatches::of(batch).decode_tokens, dim = config_.hidden_size;
  const auto width = static_cast<int>(wo_b[0].cols + wo_b[1].cols);
  const __nv_bfloat16* x = scratch_.low_rank;
  GemmParams up;
  for (const Linear& part : wo_b) {
    if (part.cols == 0) continue;
    if (up.num_segments > 0 && part.cols != up.cols) {
      run_gemm(up);
      up.num_segments = 0;
    }
    const bool second = x != scratch_.low_rank;
    if (up.num_segments == 0) up = product(part, batch.tokens, decode, width);
    add_segment(up, part, x, second ? scratch_.part : bf16_of(output), dim);
    x += part.cols;
  }
  if (up.num_segments == 2) up.x_cols = width;
  run_gemm(up);
  if (parts_held(wo_b) < 2) return;
  if (batch.tokens <= kFewTokens) {  // mHC, which alone reads the output, adds them
    uncombined_ = {.tokens = batch.tokens, .cols = dim, .shared = {bf16_of(output), scratch_.part}};
    return;
  }
  run_add_rows({.tokens = batch.tokens, .dim = dim, .part = scratch_.part, .sum = bf16_of(output)}, queue_);
}

}  // namespace twelvex::cuda
