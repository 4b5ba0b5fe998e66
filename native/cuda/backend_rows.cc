// SPDX-License-Identifier: MIT
// What attention works on: products of a step's hidden state and latents, cache rows, compressed entries.
#include <utility>

#include "attention/decode_rows.h"
#include "backend.h"
#include "comm/paths.h"
#include "common/device.h"
#include "compressor/compressor.h"
#include "elementwise/norm_rope.h"

namespace twelvex::cuda {

int CudaOps::product_arch() const { return device_info().arch; }

GemmParams CudaOps::product(const Linear& weights, int rows, int decode_rows, int ldx) const {
  GemmParams gemm;
  gemm.format = weights.format;
  gemm.rows = rows;
  gemm.cols = static_cast<int>(weights.cols);
  gemm.ldx = ldx;
  gemm.quantise = options_.numerics == Numerics::kServed && weights.format != WeightFormat::kBF16;
  gemm.arch = product_arch();
  gemm.decode_rows = decode_rows;
  gemm.quantised = scratch_.quantised;
  gemm.num_sms = device_info().multiprocessors;
  gemm.stream = queue_;
  return gemm;
}

void CudaOps::add_segment(GemmParams& gemm, const Linear& weights, const void* x, void* y, int ldy, bool f32) {
  GemmSegment& segment = gemm.segments[gemm.num_segments++];
  segment.weights = static_cast<const uint8_t*>(weights.data);
  segment.scales = static_cast<const uint8_t*>(weights.scale);
  segment.x = static_cast<const __nv_bfloat16*>(x);
  segment.y = y;
  segment.rows = static_cast<int>(weights.rows);
  segment.ldy = ldy;
  segment.f32 = f32;
}

/// A step of decode rows takes as long as reading weights and starting kernels. So project_query_kv multiplies at once what meets
/// `hidden` and what meets the latents, and stores the layer's rows: store_window, compress and select find that part done.
bool CudaOps::works_ahead(const DeviceBatch& b) const {
  return b.decode_tokens == b.view.tokens && !(comm_ && shares_choices(b.view.tokens));
}

/// Whether tokens of a csa layer see more entries than are kept; else nothing needs a score.
bool CudaOps::scores_entries(const DeviceBatch& b) const { return b.context / kCsaRatio > config_.index_topk; }

void CudaOps::project_query_kv(const Batch& batch, int layer, const AttentionWeights& weights, Array hidden, Array latent,
                               Array query, Array kv) {
  if (replaying_) return;
  const DeviceBatch& b = StepBatches::of(batch);
  GemmParams down = product(weights.wq_a, batch.tokens, b.decode_tokens, config_.hidden_size);
  down.quantise = false;  // in served numerics too (native/README.md)
  add_segment(down, weights.wq_a, hidden.data, latent.data, config_.q_lora_rank);
  add_segment(down, weights.wkv, hidden.data, kv.data, kHeadDim);
  DecodeRowsParams rows;
  if (works_ahead(b) && weights.kind != LayerKind::kSwa) {
    run_gemm_beside(down, entry_products(b, layer, weights, hidden, rows));
  } else {
    run_gemm(down);
  }
  LatentKvParams norm;
  norm.tokens = batch.tokens;
  norm.latent_dim = config_.q_lora_rank;
  norm.eps = config_.rms_norm_eps;
  norm.latent = bf16_of(latent);
  norm.kv = bf16_of(kv);
  norm.q_norm = f32_of(weights.q_norm);
  norm.kv_norm = f32_of(weights.kv_norm);
  norm.rope = b.rope(weights.kind);
  const bool index = weights.kind == LayerKind::kCsa && works_ahead(b) && scores_entries(b);
  GemmParams up = product(weights.wq_b, batch.tokens, b.decode_tokens, config_.q_lora_rank);
  if (works_ahead(b)) {
    rows.norm = norm;
    rows.quantise_latent = up.quantise && (!index || weights.indexer.wq_b.format == up.format);
    up.quantise &= !rows.quantise_latent;
    rows.batch = b.view;
    rows.window = window_pages(layer);
    rows.comb = std::exchange(late_comb_, {});
    run_decode_rows(rows, queue_);
  } else {
    run_latent_kv(norm, queue_);
  }
  if (weights.heads > 0) add_segment(up, weights.wq_b, latent.data, query.data, weights.heads * kHeadDim);
  if (index) {
    const Linear& wq_b = weights.indexer.wq_b;
    if (up.num_segments == 0 || wq_b.format != up.format) {
      if (up.num_segments > 0) run_gemm(up);
      up = product(wq_b, batch.tokens, b.decode_tokens, config_.q_lora_rank);
    }
    add_segment(up, wq_b, latent.data, scratch_.index_query, config_.index_heads * kIndexDim);
  }
  if (up.num_segments > 0) run_gemm(up);
  // What works ahead reads queries as they are, but for the indexer's e4m3 ones.
  QueryParams finish;
  finish.tokens = batch.tokens;
  finish.heads = works_ahead(b) ? 0 : weights.heads;
  finish.index_heads = index && scores_in_fp8() ? config_.index_heads : 0;
  finish.eps = config_.rms_norm_eps;
  finish.query = bf16_of(query);
  finish.index_query = scratch_.index_query;
  finish.index_cells = true;
  finish.rope = norm.rope;
  run_finish_queries(finish, queue_);
}

/// What project_query_kv multiplies ahead of compress and of select with `hidden`; `rows` gets what is to be done with it.
GemmParams CudaOps::entry_products(const DeviceBatch& b, int layer, const AttentionWeights& weights, Array hidden,
                                   DecodeRowsParams& rows) {
  const auto add = [&](GemmParams& gemm, const CompressorWeights& w, float* kv, float* gate) {
    CompressorParams& p = rows.compressors[rows.num_compressors++] = compressor(b, layer, w);
    p.kv = kv;
    p.gate = gate;
    add_segment(gemm, w.wkv, hidden.data, kv, p.width(), true);
    add_segment(gemm, w.wgate, hidden.data, gate, p.width(), true);
  };
  GemmParams gemm = product(weights.compressor.wkv, b.view.tokens, 0, config_.hidden_size);
  add(gemm, weights.compressor, scratch_.kv, scratch_.gate);
  if (weights.kind == LayerKind::kCsa) {
    add(gemm, weights.indexer.compressor, scratch_.index_kv, scratch_.index_gate);
    if (scores_entries(b)) {
      add_segment(gemm, weights.indexer.weights_proj, hidden.data, scratch_.index_weights, config_.index_heads);
    }
  }
  return gemm;
}

void CudaOps::store_window(const Batch& batch, int layer, Array kv) {
  const DeviceBatch& b = StepBatches::of(batch);
  if (replaying_ || works_ahead(b)) return;
  run_store_window({.batch = b.view, .window = window_pages(layer), .kv = bf16_of(kv)}, queue_);
}

/// Without what was projected.
CompressorParams CudaOps::compressor(const DeviceBatch& b, int layer, const CompressorWeights& weights) const {
  const auto i = static_cast<size_t>(layer);
  const LayerCacheBytes& bytes = layout_.layers[i];
  const bool index = weights.dim == kIndexDim, csa = weights.ratio == kCsaRatio;
  CompressorParams p;
  p.batch = b.view;
  p.entries = context_pages(layer, index);
  p.ratio = weights.ratio;
  p.dim = weights.dim;
  p.eps = config_.rms_norm_eps;
  p.frequencies = batches_->compressed_frequencies();
  p.ape = f32_of(weights.ape);
  p.norm = f32_of(weights.norm);
  p.ring = slots_ + slot_at_[i] + (index ? bytes.slot_index_ring : 0);
  p.slot_stride = bytes.slot;
  p.ring_rows = csa ? kCsaRing : kHcaRing;
  // The indexer's tail lies behind the main one of four positions.
  const size_t main_tail = static_cast<size_t>(kCsaRatio) * 2 * 2 * kHeadDim * sizeof(float);
  p.tail = csa ? window_ + window_at_[i] + bytes.window_rows + (index ? main_tail : 0) : nullptr;
  p.tail_stride = bytes.window_block;
  return p;
}

void CudaOps::compress(const Batch& batch, int layer, const CompressorWeights& weights, Array hidden) {
  const DeviceBatch& b = StepBatches::of(batch);
  if (replaying_ || works_ahead(b)) return;
  CompressorParams p = compressor(b, layer, weights);
  p.kv = scratch_.kv;
  p.gate = scratch_.gate;
  GemmParams gemm = product(weights.wkv, batch.tokens, 0, config_.hidden_size);
  add_segment(gemm, weights.wkv, hidden.data, scratch_.kv, p.width(), true);
  add_segment(gemm, weights.wgate, hidden.data, scratch_.gate, p.width(), true);
  run_gemm(gemm);
  run_compressor(p, queue_);
}

}  // namespace twelvex::cuda
