// SPDX-License-Identifier: MIT
// The operations a backend implements; the only thing `forward.cc` calls. One Ops per tensor-parallel rank.
//
// Shapes: T tokens of the batch, R rows, S sampling rows, N sampled positions, D hidden, H heads of this rank, Q query
// latent, V vocabulary, E experts, K experts per token. Buffers are the backend's: `Array` is an opaque handle in its
// memory and its element type is the backend's activation type (float32 on the CPU, bfloat16 on CUDA) unless said.
// A shard may be empty (rows or cols 0): the operation then contributes zeros.
// Every operation may throw Error; none prints or exits.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "cache_layout.h"
#include "model_config.h"
#include "step.h"

namespace twelvex {

struct Array {
  void* data = nullptr;
  size_t bytes = 0;
};

// ---------------------------------------------------------------- weights

enum class WeightFormat : uint8_t {
  kF32,
  kBF16,
  kFp8Block128,  // e4m3, one e8m0 scale per 128 x 128 tile
  kFp4Group32,   // e2m1 pairs (low nibble = even column), one e8m0 scale per row and 32 columns
};

/// A rank's rectangle of a [rows, cols] checkpoint matrix, in host memory (the mapped file or dummy data). Rectangles of
/// quantised tensors start on whole scale tiles (a multiple of 128 rows/cols for fp8, 32 cols for fp4).
struct MatrixView {
  WeightFormat format = WeightFormat::kF32;
  int64_t rows = 0, cols = 0;
  const uint8_t* data = nullptr;
  size_t row_bytes = 0;          // stride of `data`
  const uint8_t* scale = nullptr;
  size_t scale_row_bytes = 0;    // stride of `scale` (per 128 rows for fp8, per row for fp4)
};

/// Prepared weight matrix [rows (out), cols (in)]; layout private to the backend.
struct Linear {
  WeightFormat format = WeightFormat::kF32;
  int64_t rows = 0, cols = 0;
  void* data = nullptr;
  void* scale = nullptr;
};

/// What ranks sum, a single rank computes in as many parts as two ranks would: a part is a sum of its own, rounded to the
/// activation type, and parts are added as all_reduce adds them. So one rank gives the bits of two, and the text that a user
/// gets does not depend on the number of devices. Of several ranks each holds one part. A part may be empty (cols 0).
inline constexpr size_t kParts = 2;
template <class T>
using Parts = std::array<T, kParts>;

/// The first part that is not empty; an empty one when none is.
inline const Linear& first_part(const Parts<Linear>& parts) { return parts[0].cols > 0 ? parts[0] : parts[1]; }
inline int parts_held(const Parts<Linear>& parts) { return (parts[0].cols > 0) + (parts[1].cols > 0); }

struct ExpertView {
  MatrixView w1, w3;     // gate [I, D], up [I, D] (I: this rank's share)
  Parts<MatrixView> w2;  // down [D, I of the part]
};

/// All routed experts of one layer on this rank.
struct Experts {
  int count = 0;
  Linear gate_up;      // stacked [E, 2I, D]; rows w1 then w3
  Parts<Linear> down;  // stacked [E, D, I of the part]
  void* extra = nullptr;
};

struct HyperWeights {    // mHC of one sub-layer; hc_head has 4 rows instead of 24 and 1 scale instead of 3
  Array fn;              // f32 [24, 4D]
  Array base;            // f32 [24]
  Array scale;           // f32 [3]
};

struct CompressorWeights {
  int ratio = 0;         // 4 or 128
  int dim = 0;           // 512 main, 128 indexer
  Linear wkv, wgate;     // bf16 [2 dim, D] for ratio 4, [dim, D] for ratio 128
  Array ape;             // f32 [ratio, 2 dim | dim]
  Array norm;            // f32 [dim]
};

struct IndexerWeights {
  Linear wq_b;           // [index_heads * 128, Q]
  Linear weights_proj;   // bf16 [index_heads, D]
  CompressorWeights compressor;
};

struct AttentionWeights {
  LayerKind kind = LayerKind::kSwa;
  Linear wq_a, wq_b, wkv, wo_a;  // wq_b [H * 512, Q]; wo_a [G * r, 512 * H / G] of this rank's groups
  Parts<Linear> wo_b;            // [D, G * r of the part]
  Array q_norm, kv_norm;         // f32
  Array sinks;                   // f32 [H]
  int heads = 0, groups = 0;     // of this rank
  CompressorWeights compressor;  // csa, hca
  IndexerWeights indexer;        // csa
};

struct MoeWeights {
  Linear gate;           // bf16 [E, D]
  Array bias;            // f32 [E]; scored layers
  Array tid2eid;         // int32 [V, K]; hash layers (data null otherwise)
  Experts experts;
  Linear shared_gate, shared_up;
  Parts<Linear> shared_down;
};

struct LayerWeights {
  int index = 0;         // cache layer; the MTP block is number L
  HyperWeights attn_hyper, ffn_hyper;
  Array attn_norm, ffn_norm;
  AttentionWeights attn;
  MoeWeights moe;
};

struct HeadWeights {
  HyperWeights hyper;    // fn f32 [4, 4D], base [4], scale [1]
  Array norm;            // f32 [D]
};

struct MtpWeights {
  Array enorm, hnorm;
  Linear e_proj, h_proj;
  LayerWeights layer;
  HeadWeights head;
};

struct ModelWeights {
  Linear embed;          // bf16, this rank's vocabulary rows
  Linear lm_head;        // bf16, this rank's vocabulary rows
  int64_t vocab_begin = 0;  // first vocabulary row of this rank
  HeadWeights head;
  std::vector<LayerWeights> layers;
  MtpWeights mtp;        // layer.index == 0 and unused when the checkpoint or the options have no MTP
};

// ---------------------------------------------------------------- batches and activations

/// A set of tokens that goes through layers together. `device` is the backend's view: token ids, positions, row of
/// every token, block tables. Launch shapes may depend only on `tokens` and `rows` (CUDA graphs replay them).
///   pass 0: the trunk, all tokens of the step.
///   pass 1: first draft pass. One token per trunk token i: its successor's id (known, verified or just sampled) with
///           the streams of i; rotary position = position of i, cache row = position of i + 1 (so that a window block
///           depends on its own tokens only). Rows with kRowResume have one token more, in front, whose streams come
///           from the tail of the window block before.
///   pass k > 1: one token per sampling row: draft k - 1 with the draft streams of the row's last accepted token.
struct Batch {
  int tokens = 0;
  int rows = 0;
  int pass = 0;
  void* device = nullptr;
};

/// Activation buffers, allocated once for Limits::step_tokens tokens (+ rows for pass 1).
struct Activations {
  Array streams;        // [T, 4, D]
  Array draft_streams;  // [T + R, 4, D]
  Array mix;            // f32 [T, 4 + 16]: post and comb of the current sub-layer
  Array hidden;         // [T, D] normalised input of a sub-layer
  Array latent;         // [T, Q] normalised query latent, shared by wq_b and the indexer
  Array query;          // [T, H, 512]
  Array kv;             // [T, 512]
  Array selection;      // int32 [T, index_topk]: chosen csa entries, -1 padded
  Array attended;       // [T, H, 512]
  Array output;         // [T, D] a sub-layer's output before and after the all-reduce
  Array routing;        // int32 ids [T, K] then f32 weights [T, K]
  Array logits;         // f32 [max(N, Limits::logit_slice), V]
};

struct RankShape {
  int rank = 0, ranks = 1;
};

/// Fixed at load; nothing is allocated in a step.
struct Limits {
  int step_tokens = 0;      // most tokens in a step
  int rows = 0;             // most rows in a step
  int context_tokens = 0;   // longest sequence
  int mtp = 0;              // drafts per step, 0 .. kMaxMtp
  int logit_slice = 0;      // positions of kRowAllLogits and kRowAllLogprobs rows whose logits are there at once; 0: no such rows
};

struct CachePlan {
  int slots = 0;
  int window_blocks = 0;
  int context_blocks = 0;
};

/// A decode step: so many rows, the first token at this position or behind it.
struct DecodeShape {
  int rows = 0;
  int position = 0;
};

struct Memory {
  size_t free_bytes = 0, total_bytes = 0;
};

class Ops {
 public:
  virtual ~Ops() = default;

  // Loading. Called from the rank's thread, before the first step.
  virtual Linear linear(const MatrixView& view) = 0;
  virtual Array vector(const MatrixView& view) = 0;  // kF32 or kBF16, 1 row; stored as f32
  virtual Array matrix_f32(const MatrixView& view) = 0;
  virtual Array hyper_matrix(const MatrixView& view) = 0;  // fn of a layer's mHC, f32
  virtual Array token_table(std::span<const int32_t> table) = 0;
  virtual Experts experts(std::span<const ExpertView> views) = 0;
  virtual Memory memory() = 0;
  virtual Activations reserve(const Limits& limits) = 0;
  virtual void allocate_cache(const CacheLayout& layout, const CachePlan& plan) = 0;
  /// Decode steps for which the backend prepares something at first use (a CUDA graph), each given by its fewest rows and its
  /// first position; the same on every rank.
  virtual std::vector<DecodeShape> decode_shapes() const { return {}; }

  // A step. `begin_step` copies the plan; operations are queued; `finish_step` waits and fills the result.
  virtual Batch begin_step(const StepInput& input) = 0;
  virtual Batch draft_batch(int pass) = 0;
  virtual void finish_step(StepOutput& output) = 0;

  // Embedding of the batch's tokens into `output` (this rank's vocabulary rows, zeros elsewhere; all_reduce follows),
  // and four equal copies of it.
  virtual void embed(const Batch&, const ModelWeights&, Array output) = 0;
  virtual void spread(const Batch&, Array hidden, Array streams) = 0;

  // mHC. enter: mix, then hidden = norm(pre-weighted sum). leave: streams = post * output + comb^T * streams.
  // cross = leave one sub-layer and enter the next, one read and one write of the streams where fused.
  virtual void hyper_enter(const Batch&, const HyperWeights&, Array norm, Array streams, Array mix, Array hidden) = 0;
  virtual void hyper_leave(const Batch&, Array mix, Array output, Array streams) = 0;
  virtual void hyper_cross(const Batch& batch, const HyperWeights& next, Array norm, Array output, Array streams, Array mix,
                           Array hidden) {
    hyper_leave(batch, mix, output, streams);
    hyper_enter(batch, next, norm, streams, mix, hidden);
  }

  /// hyper_cross to a layer's experts, and route: one launch where fused.
  virtual void cross_to_experts(const Batch& batch, const LayerWeights& layer, Array output, Array streams, Array mix,
                                Array hidden, Array routing) {
    hyper_cross(batch, layer.ffn_hyper, layer.ffn_norm, output, streams, mix, hidden);
    route(batch, layer.moe, hidden, routing);
  }

  // Attention. Order within a layer: project, store rows, compress (entries become visible to the token that completes them),
  // select, attend. `layer` names the cache layer. Weights and inputs of all of them are known with the first: a backend may do
  // parts of the later ones there.
  virtual void project_query_kv(const Batch&, int layer, const AttentionWeights&, Array hidden, Array latent, Array query,
                                Array kv) = 0;
  virtual void store_window(const Batch&, int layer, Array kv) = 0;
  virtual void compress(const Batch&, int layer, const CompressorWeights&, Array hidden) = 0;  // main or indexer, by dim
  virtual void begin_gather(const Batch&, int layer, LayerKind) {}  // may run beside select()
  virtual void select(const Batch&, int layer, const IndexerWeights&, Array hidden, Array latent, Array selection) = 0;
  virtual void attend(const Batch&, int layer, const AttentionWeights&, Array query, Array selection, Array attended) = 0;
  virtual void project_output(const Batch&, const AttentionWeights&, Array attended, Array output) = 0;

  // MoE: routed and shared experts of this rank summed into `output`, part by part.
  virtual void route(const Batch&, const MoeWeights&, Array hidden, Array routing) = 0;
  virtual void run_experts(const Batch&, const MoeWeights&, Array hidden, Array routing, Array output) = 0;

  // Sums `array` [T, D] over ranks, bit-equal on every rank. Follows embed, project_output and run_experts, which may have begun
  // it for parts that they had finished; parts may be under way until spread, a crossing, hyper_leave or draft_input reads them.
  virtual void all_reduce(const Batch&, Array array) = 0;

  // Trunk: writes the streams of block-end positions into their window blocks' tails (for kRowResume).
  virtual void keep_streams(const Batch&, Array streams) = 0;
  // Leaves the logits of the batch's N sampled positions (pass 0: all 1 + drafts of every sampling row; later passes: one per
  // sampling row), gathered over ranks, in `logits`. Before that, slice by slice in the same buffer: those of every token of
  // rows with kRowAllLogits or (pass 0) kRowAllLogprobs, which go to the result at once.
  virtual void logits(const Batch&, const HeadWeights&, const Linear& lm_head, Array streams, Array logits) = 0;
  // Pass 0: verify drafts and sample. The token at each position is drawn from the target distribution with a random
  // number keyed by (seed, position) alone; a draft is accepted while it equals that token. So output does not depend on
  // the drafts. Later passes: argmax becomes draft `pass`.
  virtual void sample(const Batch&, Array logits) = 0;
  // MTP input: e_proj(enorm(embedding)) + h_proj(hnorm(stream)) for each stream. Pass 1 reads `streams`, later passes
  // the previous pass's `draft_streams`; writes `draft_streams`.
  virtual void draft_input(const Batch&, const MtpWeights&, Array embedding, Array streams, Array draft_streams) = 0;
};

}  // namespace twelvex
