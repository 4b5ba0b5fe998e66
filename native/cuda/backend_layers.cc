// SPDX-License-Identifier: MIT
// Everything of a layer but attention: embeddings, mHC, experts, all-reduce, and the input of the draft block.
#include <algorithm>
#include <utility>

#include "backend.h"
#include "common/check.h"
#include "common/device.h"
#include "elementwise/norm_rope.h"
#include "elementwise/rows.h"
#include "hyper/hyper.h"
#include "hyper/hyper_cluster.h"
#include "moe/route.h"
#include "moe/route_cluster.h"
#include "runtime/shard.h"

namespace twelvex::cuda {

void CudaOps::embed(const Batch& batch, const ModelWeights& weights, Array output) {
  if (replaying_) return;
  EmbedParams p;
  p.token_id = StepBatches::of(batch).view.token_id;
  p.tokens = batch.tokens;
  p.dim = config_.hidden_size;
  p.vocab_begin = weights.vocab_begin;
  p.vocab_rows = weights.embed.rows;
  p.embedding = static_cast<const uint8_t*>(weights.embed.data);
  p.output = bf16_of(output);
  run_embed(p, queue_);
}

void CudaOps::spread(const Batch& batch, Array hidden, Array streams) {
  if (replaying_) return;
  when_reduced(batch, [&](int first, int rows) {
    const size_t at = static_cast<size_t>(first) * static_cast<size_t>(config_.hidden_size);
    run_spread({.tokens = rows, .dim = config_.hidden_size, .hidden = bf16_of(hidden) + at,
                .streams = bf16_of(streams) + at * kStreams},
               queue_);
  });
}

// ---------------------------------------------------------------- mHC

bool CudaOps::quantises_hidden(const Batch& batch) const {
  return options_.numerics == Numerics::kServed && batch.tokens <= kStreamTokens;
}

bool CudaOps::hyper(const Batch& batch, const HyperWeights* enter, const void* norm, const void* output, Array streams, Array mix,
                    void* hidden, const CrossingRouterParams* router) {
  if (replaying_) return false;
  HyperParams p;
  p.tokens = batch.tokens;
  p.dim = config_.hidden_size;
  p.clusters = device_info().clusters;
  p.norm_eps = config_.rms_norm_eps;
  p.hc_eps = config_.hc_eps;
  p.sinkhorn_iters = config_.hc_sinkhorn_iters;
  p.leave = output != nullptr;
  p.enter = enter != nullptr;
  p.late_comb = batch.tokens <= kFewTokens;
  if (enter) {
    p.fn = f32_of(enter->fn);
    p.base = f32_of(enter->base);
    p.scale = f32_of(enter->scale);
  }
  p.norm = static_cast<const float*>(norm);
  p.partial = scratch_.hyper;
  p.ready = scratch_.hidden_ready;
  const CombineParams parts = std::exchange(uncombined_, {});
  if (p.leave) p.parts = parts;
  float* const kept = static_cast<float*>(mix.data);
  p.comb_ready = p.leave && p.late_comb && late_comb_.mix == nullptr;
  late_comb_ = p.enter && p.late_comb ? LateComb{kept, p.sinkhorn_iters, p.hc_eps} : LateComb{};
  const bool routes = router != nullptr && takes_cluster(p);
  const auto run = [&](int first, int rows) {
    const auto row = static_cast<size_t>(first), at = row * static_cast<size_t>(p.dim);
    p.tokens = rows;
    p.streams = bf16_of(streams) + at * kStreams;
    if (p.leave) p.output = static_cast<const __nv_bfloat16*>(output) + at;
    p.mix = kept + row * kHyperKept;
    if (p.enter) p.hidden = static_cast<__nv_bfloat16*>(hidden) + at;
    if (p.enter && quantises_hidden(batch)) p.hidden_quantised = scratch_.hidden_quantised;
    routes ? run_hyper_and_route(p, *router, queue_) : run_hyper(p, queue_);
  };
  p.leave ? when_reduced(batch, run) : run(0, batch.tokens);
  return routes;
}

void CudaOps::hyper_enter(const Batch& batch, const HyperWeights& weights, Array norm, Array streams, Array mix, Array hidden) {
  hyper(batch, &weights, norm.data, nullptr, streams, mix, hidden.data);
}

void CudaOps::hyper_leave(const Batch& batch, Array mix, Array output, Array streams) {
  hyper(batch, nullptr, nullptr, output.data, streams, mix, nullptr);
}

void CudaOps::hyper_cross(const Batch& batch, const HyperWeights& next, Array norm, Array output, Array streams, Array mix,
                          Array hidden) {
  hyper(batch, &next, norm.data, output.data, streams, mix, hidden.data);
}

// ---------------------------------------------------------------- experts

GateParams CudaOps::gate_params(const MoeWeights& weights, Array hidden) const {
  return {static_cast<const uint8_t*>(weights.gate.data), bf16_of(hidden), config_.hidden_size, device_info().clusters};
}

RouteParams CudaOps::route_params(const Batch& batch, const MoeWeights& weights, Array routing) const {
  const BatchView& view = StepBatches::of(batch).view;
  RouteParams p;
  p.tokens = batch.tokens;
  p.experts = config_.num_experts;
  p.picks = config_.experts_per_token;
  p.scale = config_.routed_scaling_factor;
  p.logits = scratch_.moe.logits;
  p.bias = f32_of(weights.bias);
  p.table = static_cast<const int32_t*>(weights.tid2eid.data);
  p.token_id = view.token_id;
  p.token_row = view.token_row;
  p.ids = static_cast<int32_t*>(routing.data);
  p.weights = reinterpret_cast<float*>(p.ids + p.tokens * p.picks);
  p.stream = queue_;
  return p;
}

void CudaOps::cross_to_experts(const Batch& batch, const LayerWeights& layer, Array output, Array streams, Array mix,
                               Array hidden, Array routing) {
  if (replaying_) return;
  const MoeParams experts = expert_params(batch, layer.moe, routing);
  const GateParams gate = gate_params(layer.moe, hidden);
  const CrossingRouterParams router = {gate.weights, route_params(batch, layer.moe, routing), dispatch_of(experts)};
  const bool fit = experts.dispatched && routes_in_crossing(gate, router.route, router.dispatch);
  routed_early_ = hyper(batch, &layer.ffn_hyper, layer.ffn_norm.data, output.data, streams, mix, hidden.data,
                        fit ? &router : nullptr);
  if (!routed_early_) route(batch, layer.moe, hidden, routing);
}

void CudaOps::route(const Batch& batch, const MoeWeights& weights, Array hidden, Array routing) {
  if (replaying_) return;
  const MoeParams experts = expert_params(batch, weights, routing);
  const RouteParams p = route_params(batch, weights, routing);
  const GateParams gate = gate_params(weights, hidden);
  if (experts.dispatched && takes_cluster(gate, p)) return run_route_cluster(gate, p, dispatch_of(experts));
  GemmParams gemm = product(weights.gate, batch.tokens, 0, config_.hidden_size);
  gemm.quantised = scratch_.moe.quantised;  // the other copy shares memory with the logits
  add_segment(gemm, weights.gate, hidden.data, scratch_.moe.logits, config_.num_experts, true);
  run_gemm(gemm);
  route_experts(p, experts);
}

MoeParams CudaOps::expert_params(const Batch& batch, const MoeWeights& weights, Array routing) const {
  auto* ids = static_cast<int32_t*>(routing.data);
  const size_t slots = static_cast<size_t>(batch.tokens) * static_cast<size_t>(config_.experts_per_token);
  MoeParams p;
  p.tokens = batch.tokens;
  p.picks = config_.experts_per_token;
  p.limit = config_.swiglu_limit;
  p.quantise = options_.numerics == Numerics::kServed;
  p.arch = product_arch();
  p.decode_tokens = StepBatches::of(batch).decode_tokens;
  p.weights = &weights;
  p.ids = ids;
  p.routing = reinterpret_cast<float*>(ids + slots);
  p.workspace = scratch_.moe;
  p.num_sms = device_info().multiprocessors;
  p.stream = queue_;
  p.dispatched = route_dispatches(p);
  return p;
}

void CudaOps::run_experts(const Batch& batch, const MoeWeights& weights, Array hidden, Array routing, Array output) {
  if (replaying_) return;
  MoeParams p = expert_params(batch, weights, routing);
  p.hidden = bf16_of(hidden);
  if (quantises_hidden(batch)) p.hidden_quantised = scratch_.hidden_quantised;
  if (std::exchange(routed_early_, false)) {
    p.hidden_ready = scratch_.hidden_ready;
    p.ready_count = kHyperClusterBlocks;
  }
  p.output = bf16_of(output);
  begin_experts(p);
  if (!comm_ && p.dispatched) {  // mHC, which alone reads the output, combines it
    uncombined_ = uncombined_experts(p);
    return;
  }
  const int piece = reduced_piece(batch);
  for (int first = 0; first < batch.tokens; first += piece) {
    const int rows = std::min(piece, batch.tokens - first);
    finish_experts(p, first, rows);
    if (piece < batch.tokens) begin_reductions(batch, first, rows);
  }
}

// ---------------------------------------------------------------- sums over ranks

int CudaOps::reduced_piece(const Batch& batch) const {
  return comm_ && overlap_reductions_ ? reduction_piece(batch.tokens) : batch.tokens;
}

void CudaOps::begin_reductions(const Batch& batch, int first, int rows) {
  const int piece = reduced_piece(batch), end = first + rows;
  const auto dim = static_cast<int64_t>(config_.hidden_size);
  for (; first < end; first += piece) {
    pieces_->begin(static_cast<size_t>(first / piece), output_peers_, first * dim, std::min(piece, end - first) * dim, queue_);
  }
  reducing_ = true;
}

void CudaOps::all_reduce(const Batch& batch, Array array) {
  if (!comm_ || batch.tokens == 0) return;
  // The forward pass reduces one array only, the sub-layer outputs, whose addresses the ranks have exchanged.
  TWELVEX_NEED(array.data == output_peers_.at[options_.shape.rank], true);
  if (reduced_piece(batch) < batch.tokens) {
    if (!reducing_) begin_reductions(batch, 0, batch.tokens);  // run_experts has begun it, piece by piece
    ++reductions_overlapped_;
    return;
  }
  ++reductions_inline_;
  if (replaying_) return;
  comm_->all_reduce(output_peers_, static_cast<int64_t>(batch.tokens) * config_.hidden_size, queue_);
}

void CudaOps::when_reduced(const Batch& batch, const std::function<void(int, int)>& use) {
  if (!reducing_) return use(0, batch.tokens);
  const int piece = reduced_piece(batch);
  for (int first = 0; first < batch.tokens; first += piece) {
    pieces_->wait(static_cast<size_t>(first / piece), queue_);
    use(first, std::min(piece, batch.tokens - first));
  }
  reducing_ = false;
}

// ---------------------------------------------------------------- drafts

void CudaOps::keep_streams(const Batch& batch, Array streams) {
  if (replaying_) return;
  KeepStreamsParams p;
  p.batch = StepBatches::of(batch).view;
  p.dim = config_.hidden_size;
  p.streams = bf16_of(streams);
  p.tail = window_ + streams_tail_at_;
  p.stride = layout_.streams_tail;
  run_keep_streams(p, queue_);
}

void CudaOps::draft_input(const Batch& batch, const MtpWeights& weights, Array embedding, Array streams, Array draft_streams) {
  if (replaying_) return;
  const DeviceBatch& b = StepBatches::of(batch);
  const int dim = config_.hidden_size;
  GatherStreamsParams gather;
  gather.batch = b.view;
  gather.dim = dim;
  gather.source = b.source;
  gather.streams = bf16_of(streams);
  gather.tail = window_ + streams_tail_at_;
  gather.stride = layout_.streams_tail;
  gather.out = scratch_.draft_rows;
  when_reduced(batch, [](int, int) {});
  run_gather_streams(gather, queue_);
  NormRowsParams norm;
  norm.rows = batch.tokens * kStreams;
  norm.dim = dim;
  norm.eps = config_.rms_norm_eps;
  norm.in = norm.out = scratch_.draft_rows;
  norm.norm = f32_of(weights.hnorm);
  run_norm_rows(norm, queue_);
  norm.rows = batch.tokens;
  norm.in = bf16_of(embedding);
  norm.out = scratch_.draft_embed;
  norm.norm = f32_of(weights.enorm);
  run_norm_rows(norm, queue_);

  GemmParams of_streams = product(weights.h_proj, batch.tokens * kStreams, b.decode_tokens * kStreams, dim);
  add_segment(of_streams, weights.h_proj, scratch_.draft_rows, draft_streams.data, dim);
  run_gemm(of_streams);
  GemmParams of_embedding = product(weights.e_proj, batch.tokens, b.decode_tokens, dim);
  add_segment(of_embedding, weights.e_proj, scratch_.draft_embed, scratch_.draft_proj, dim);
  run_gemm(of_embedding);
  run_add_to_streams({.tokens = batch.tokens, .dim = dim, .hidden = scratch_.draft_proj, .streams = bf16_of(draft_streams)},
                     queue_);
}

}  // namespace twelvex::cuda
