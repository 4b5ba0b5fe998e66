// SPDX-License-Identifier: MIT
// The CUDA backend: one rank's operations, queued on its own stream. Files: backend.cc (loading, memory),
// backend_step.cc (plan in, results out), backend_rows.cc (projections, cache rows), backend_attention.cc, backend_layers.cc
// (mHC, experts, embeddings, drafts).
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <functional>
#include <memory>
#include <vector>

#include "attention/decode_rows.h"
#include "comm/communicator.h"
#include "comm/piece_reduction.h"
#include "gemm/gemm.h"
#include "moe/crossing_router.h"
#include "moe/experts.h"
#include "runtime/backend.h"
#include "sampling/sampling.h"
#include "step_arena.h"
#include "step_batch.h"
#include "step_graph.h"
#include "weights.h"

namespace twelvex::cuda {

/// Device buffers beside the activations. Those of attention, experts and draft input share memory: never alive together.
struct Scratch {
  __nv_bfloat16* quantised = nullptr;   // quantised copy of a product's input
  float *kv = nullptr, *gate = nullptr; // [T, 1024] compressor projections
  float *index_kv = nullptr, *index_gate = nullptr;  // [T, 256] those of the indexer, when both are there at once
  __nv_bfloat16* index_query = nullptr; // [T, index heads, 128]
  __nv_bfloat16* index_weights = nullptr;  // [T, index heads]
  __nv_bfloat16* low_rank = nullptr;    // [T, G r]
  __nv_bfloat16* part = nullptr;        // [T, D] second part of a sum that one rank computes alone
  float* decode_partial = nullptr;
  float2* decode_state = nullptr;
  MoeWorkspace moe;
  __nv_bfloat16* draft_rows = nullptr;  // [(T + R) 4, D] normalised streams
  __nv_bfloat16* draft_embed = nullptr; // [T + R, D]
  __nv_bfloat16* draft_proj = nullptr;  // [T + R, D]
  // Not shared.
  float* scores = nullptr;              // kScoreFloats
  uint32_t* awaited_scores = nullptr;   // [kAwaitedTokens, kAwaitedEntries] nothing is there but between two launches
  float* hyper = nullptr;
  __nv_bfloat16* hidden_quantised = nullptr;  // [kStreamTokens, D] the hidden state of few tokens, as the experts take it
  uint32_t* hidden_ready = nullptr;     // [1] counts who has written one token's hidden state, until the experts may read it
  uint8_t* workspace = nullptr;         // gathered KV rows
  int workspace_rows = 0;
  __nv_bfloat16* head_rows = nullptr;   // [N, D]
  float* adjusted = nullptr;            // [S, 1 + K, V]
};

inline constexpr int kStreamTokens = 8;  // products of so many take as long as their weights
inline constexpr int64_t kScoreFloats = int64_t{16} << 20;  // 64 MiB of indexer scores at a time

/// The memory of an array, as kernels take it.
inline __nv_bfloat16* bf16_of(Array array) { return static_cast<__nv_bfloat16*>(array.data); }
inline const float* f32_of(Array array) { return static_cast<const float*>(array.data); }

class CudaOps : public Ops {
 public:
  explicit CudaOps(const BackendOptions& options);
  ~CudaOps() override;

  Linear linear(const MatrixView& view) override { return weights_->linear(view); }
  Array vector(const MatrixView& view) override { return weights_->vector(view); }
  Array matrix_f32(const MatrixView& view) override { return weights_->matrix_f32(view); }
  Array hyper_matrix(const MatrixView& view) override { return weights_->hyper_matrix(view); }
  Array token_table(std::span<const int32_t> table) override { return weights_->token_table(table); }
  Experts experts(std::span<const ExpertView> views) override { return weights_->experts(views); }
  Memory memory() override;
  /// Also allocates everything else that a step needs but the cache.
  Activations reserve(const Limits& limits) override;
  void allocate_cache(const CacheLayout& layout, const CachePlan& plan) override;
  /// One for every graph that a step can meet.
  std::vector<DecodeShape> decode_shapes() const override;

  cudaStream_t queue() const { return queue_; }

  Batch begin_step(const StepInput& input) override;
  Batch draft_batch(int pass) override;
  void finish_step(StepOutput& output) override;

  void embed(const Batch&, const ModelWeights&, Array output) override;
  void spread(const Batch&, Array hidden, Array streams) override;
  void hyper_enter(const Batch&, const HyperWeights&, Array norm, Array streams, Array mix, Array hidden) override;
  void hyper_leave(const Batch&, Array mix, Array output, Array streams) override;
  void hyper_cross(const Batch&, const HyperWeights& next, Array norm, Array output, Array streams, Array mix,
                   Array hidden) override;
  void cross_to_experts(const Batch&, const LayerWeights& layer, Array output, Array streams, Array mix, Array hidden,
                        Array routing) override;
  void project_query_kv(const Batch&, int layer, const AttentionWeights&, Array hidden, Array latent, Array query,
                        Array kv) override;
  void store_window(const Batch&, int layer, Array kv) override;
  void compress(const Batch&, int layer, const CompressorWeights&, Array hidden) override;
  void begin_gather(const Batch&, int layer, LayerKind kind) override;
  void select(const Batch&, int layer, const IndexerWeights&, Array hidden, Array latent, Array selection) override;
  void attend(const Batch&, int layer, const AttentionWeights&, Array query, Array selection, Array attended) override;
  void project_output(const Batch&, const AttentionWeights&, Array attended, Array output) override;
  void route(const Batch&, const MoeWeights&, Array hidden, Array routing) override;
  void run_experts(const Batch&, const MoeWeights&, Array hidden, Array routing, Array output) override;
  void all_reduce(const Batch&, Array array) override;
  void keep_streams(const Batch&, Array streams) override;
  void logits(const Batch&, const HeadWeights&, const Linear& lm_head, Array streams, Array logits) override;
  void sample(const Batch&, Array logits) override;
  void draft_input(const Batch&, const MtpWeights&, Array embedding, Array streams, Array draft_streams) override;

 protected:  // tests look at a step from within
  /// What goes to and comes from the sampler, besides the tokens.
  struct SamplingArrays {
    StepArray<SampleRowInfo> info;
    StepArray<int32_t> prompt_row, prompt_token;               // kRowAllLogprobs tokens: row within their slice, successor
    StepArray<int32_t> penalty_tokens, penalty_counts, bias_tokens;
    StepArray<float> bias_values;
    StepArray<uint32_t> masks;
    StepArray<int32_t> accepted_count, accepted, drafts;       // results
    StepArray<float> logprobs, top_logprobs, prompt_logprobs, prompt_top_logprobs;
    StepArray<int32_t> top_tokens, prompt_top_tokens;
    int32_t *drawn = nullptr, *logprob_row = nullptr, *logprob_token = nullptr;  // device only
    int prompt_count = 0, width = 0;
  };

  /// One use of the head: what it reads and the logits it writes.
  struct HeadPass {
    const HeadWeights& head;
    const Linear& lm_head;
    Array streams, logits;
  };

  template <class T>
  T* allocate(size_t count, const char* purpose) {
    return static_cast<T*>(allocate_bytes(count * sizeof(T), purpose));
  }
  void* allocate_bytes(size_t bytes, const char* purpose);
  Array array(size_t count, size_t element, const char* purpose);
  void release_cache();
  void reserve_scratch();
  void reserve_sampling();
  void begin_sampling(const StepInput& input);
  void list_prompt_tokens(const StepInput& input);
  void sample_trunk(const DeviceBatch& batch, const float* logits);
  void compute_logits(const DeviceBatch& batch, const HeadPass& pass, int first, int rows);
  void keep_slice(const DeviceBatch& batch, const float* logits, int first, int rows);
  void prompt_logprobs(const float* logits, int first, int count);
  int max_logit_rows() const;
  /// Whether steps of so many rows with their places are captured.
  bool fits_graph(int padded) const;

  /// Decides where products run (gemm.h).
  virtual int product_arch() const;
  bool scores_in_fp8() const;
  /// One product (or several of equal format and width) of `rows` rows, the first `decode_rows` of them of decode. Quantises
  /// activations where the numerics ask for it.
  GemmParams product(const Linear& weights, int rows, int decode_rows, int ldx) const;
  GemmParams first_output_product(const Batch& batch, const AttentionWeights& weights) const;
  void project_parts(const Batch& batch, const Parts<Linear>& wo_b, Array output);
  static void add_segment(GemmParams& gemm, const Linear& weights, const void* x, void* y, int ldy, bool f32 = false);

  bool works_ahead(const DeviceBatch& b) const;
  bool scores_entries(const DeviceBatch& b) const;
  GemmParams entry_products(const DeviceBatch& b, int layer, const AttentionWeights& weights, Array hidden,
                            DecodeRowsParams& rows);
  CompressorParams compressor(const DeviceBatch& b, int layer, const CompressorWeights& weights) const;
  void project_indexer(const DeviceBatch& b, const IndexerWeights& weights, Array hidden, Array latent, int first, int tokens);
  void select_groups(const DeviceBatch& b, IndexScoreParams score, TopkParams top, int first, int last);
  KvSource kv_source(const DeviceBatch& batch, int layer, LayerKind kind) const;
  RowPages window_pages(int layer) const;
  RowPages context_pages(int layer, bool index) const;
  void gather(const DeviceBatch& batch, const PrefillChunk& chunk, int layer, LayerKind kind, cudaStream_t queue);
  bool gathers(const PrefillChunk& chunk, LayerKind kind) const;
  /// Of few tokens mHC does: else every warp of the products would quantise its part for itself.
  bool quantises_hidden(const Batch& batch) const;
  /// Without input and output.
  MoeParams expert_params(const Batch& batch, const MoeWeights& weights, Array routing) const;
  /// Rows of the pieces in which a sub-layer's output is summed over ranks; all of them when the sum runs in line.
  int reduced_piece(const Batch& batch) const;
  /// Starts to sum the pieces of rows [first, first + rows); `first` is where one begins.
  void begin_reductions(const Batch& batch, int first, int rows);
  /// Calls `use` (first row, rows) for all of a sub-layer's output, or for each piece of it behind the piece's sum.
  void when_reduced(const Batch& batch, const std::function<void(int, int)>& use);
  /// True: the token was routed, too.
  bool hyper(const Batch& batch, const HyperWeights* enter, const void* norm, const void* output, Array streams, Array mix,
             void* hidden, const CrossingRouterParams* router = nullptr);
  GateParams gate_params(const MoeWeights& weights, Array hidden) const;
  RouteParams route_params(const Batch& batch, const MoeWeights& weights, Array routing) const;

  const BackendOptions options_;
  const ModelConfig& config_;
  Limits limits_;
  cudaStream_t queue_ = nullptr, gather_queue_ = nullptr;
  cudaEvent_t rows_stored_ = nullptr, gathered_ = nullptr;
  std::unique_ptr<WeightStore> weights_;
  std::vector<void*> owned_;
  Scratch scratch_;
  StepArena arena_, sampling_arena_;
  std::unique_ptr<StepBatches> batches_;
  SamplingArrays sampling_;
  CacheLayout layout_;
  uint8_t *window_ = nullptr, *context_ = nullptr, *slots_ = nullptr;
  std::vector<size_t> window_at_, context_at_, slot_at_;  // of every layer within its block or slot
  size_t streams_tail_at_ = 0;
  std::unique_ptr<Communicator> comm_;  // several ranks
  int listener_ = -1;           // of the group, ends this rank's waits on the device
  std::unique_ptr<PieceReduction> pieces_;
  bool overlap_reductions_ = true;  // tests and measurements compare without
  bool reducing_ = false;           // the output of this sub-layer, in pieces
  PeerPointers output_peers_, logits_peers_, selection_peers_;
  StepGraphs graphs_;
  bool in_graph_ = false;       // this step is captured or replayed
  bool replaying_ = false;      // its operations are in the graph already
  CombineParams uncombined_;    // of few tokens on one rank, until mHC reads it: the output is not written, or in two parts
  bool routed_early_ = false;   // while crossing: the experts, next, find their input ready before that launch ends
  LateComb late_comb_;          // of the sub-layer that mHC has entered, until comb is made
  bool gather_begun_ = false;   // the next attend of a csa layer joins the gather queue
  int overlapped_ = 0, inline_ = 0;                          // gathers of this step
  int reductions_overlapped_ = 0, reductions_inline_ = 0;
  std::vector<float> all_logits_, all_mtp_logits_;  // of rows with kRowAllLogits
};

}  // namespace twelvex::cuda
