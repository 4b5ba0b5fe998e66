// SPDX-License-Identifier: MIT
#include "forward.h"

namespace twelvex {
namespace {

/// A sub-layer's normalised input is in `hidden`; its output, summed over ranks, is left in `output`.
void attention(Ops& ops, const Batch& batch, const LayerWeights& layer, const Activations& a) {
  const AttentionWeights& w = layer.attn;
  ops.project_query_kv(batch, layer.index, w, a.hidden, a.latent, a.query, a.kv);
  ops.store_window(batch, layer.index, a.kv);
  if (w.kind != LayerKind::kSwa) ops.compress(batch, layer.index, w.compressor, a.hidden);
  ops.begin_gather(batch, layer.index, w.kind);
  if (w.kind == LayerKind::kCsa) {
    ops.compress(batch, layer.index, w.indexer.compressor, a.hidden);
    ops.select(batch, layer.index, w.indexer, a.hidden, a.latent, a.selection);
  }
  ops.attend(batch, layer.index, w, a.query, a.selection, a.attended);
  ops.project_output(batch, w, a.attended, a.output);
  ops.all_reduce(batch, a.output);
}

/// Behind cross_to_experts, whose choice is in `routing`.
void experts(Ops& ops, const Batch& batch, const LayerWeights& layer, const Activations& a) {
  ops.run_experts(batch, layer.moe, a.hidden, a.routing, a.output);
  ops.all_reduce(batch, a.output);
}

/// Every layer in turn: enter attention, cross to the experts, cross to the next layer, leave the last.
void run_layers(Ops& ops, const Batch& batch, std::span<const LayerWeights> layers, Array streams, const Activations& a) {
  const LayerWeights& first = layers.front();
  ops.hyper_enter(batch, first.attn_hyper, first.attn_norm, streams, a.mix, a.hidden);
  for (size_t i = 0; i < layers.size(); ++i) {
    const LayerWeights& layer = layers[i];
    attention(ops, batch, layer, a);
    ops.cross_to_experts(batch, layer, a.output, streams, a.mix, a.hidden, a.routing);
    experts(ops, batch, layer, a);
    if (i + 1 < layers.size()) {
      const LayerWeights& next = layers[i + 1];
      ops.hyper_cross(batch, next.attn_hyper, next.attn_norm, a.output, streams, a.mix, a.hidden);
    }
  }
  ops.hyper_leave(batch, a.mix, a.output, streams);
}

/// Token embeddings, each vocabulary row owned by one rank, in `output`.
void embed(Ops& ops, const Batch& batch, const ModelWeights& weights, const Activations& a) {
  ops.embed(batch, weights, a.output);
  ops.all_reduce(batch, a.output);
}

void trunk(const ForwardContext& c, const Batch& batch) {
  const Activations& a = c.activations;
  embed(c.ops, batch, c.weights, a);
  c.ops.spread(batch, a.output, a.streams);
  run_layers(c.ops, batch, c.weights.layers, a.streams, a);
  if (c.mtp > 0) c.ops.keep_streams(batch, a.streams);
  c.ops.logits(batch, c.weights.head, c.weights.lm_head, a.streams, a.logits);
  c.ops.sample(batch, a.logits);
}

/// One pass of the MTP block. The first reads the trunk's streams, later ones their own; head matrix and embedding are
/// the trunk's, the hyper head and its norm the block's own.
void draft(const ForwardContext& c, const Batch& batch) {
  const Activations& a = c.activations;
  const MtpWeights& mtp = c.weights.mtp;
  embed(c.ops, batch, c.weights, a);
  c.ops.draft_input(batch, mtp, a.output, batch.pass == 1 ? a.streams : a.draft_streams, a.draft_streams);
  run_layers(c.ops, batch, {&mtp.layer, 1}, a.draft_streams, a);
  c.ops.logits(batch, mtp.head, c.weights.lm_head, a.draft_streams, a.logits);
  c.ops.sample(batch, a.logits);
}

}  // namespace

void forward_step(const ForwardContext& context, const StepInput& input, StepOutput& output) {
  trunk(context, context.ops.begin_step(input));
  for (int pass = 1; pass <= context.mtp; ++pass) {
    const Batch batch = context.ops.draft_batch(pass);
    if (batch.tokens == 0) break;  // nothing samples: only the first pass fills the draft cache
    draft(context, batch);
  }
  context.ops.finish_step(output);
}

}  // namespace twelvex
