// SPDX-License-Identifier: MIT
// The CPU backend: Ops in float32, every operation finished when it returns. The methods are grouped by family, one file
// each; what a family keeps between calls is scratch only, and its size is fixed by `reserve`.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>

#include "cache_store.h"
#include "heap.h"
#include "kernels.h"
#include "linear.h"
#include "runtime/backend.h"
#include "step_batch.h"
#include "thread_pool.h"

namespace twelvex::cpu {

/// Scratch of one worker thread.
struct WorkerScratch {
  float* rows = nullptr;                 // [2 * kAttendChunk, 512] dequantised cache rows
  const float** row_pointers = nullptr;  // [2 * kAttendChunk]
  float* scores = nullptr;               // [max(heads, index heads), kAttendChunk]
  float* running = nullptr;              // [3, heads] softmax maximum, sum, rescale
  float* entry = nullptr;                // [512]
  float* mixes = nullptr;                // [kHyperTile, 24]
  float* index_scores = nullptr;         // [context / 4]
  int32_t* index_order = nullptr;        // [context / 4]
  float* logits = nullptr;               // [V]
  int32_t* candidates = nullptr;         // [V]
};

/// Scratch of the rank. Tc: tokens of the largest batch.
struct RankScratch {
  float* quantised = nullptr;         // served numerics: an input of FP8 linears
  float* kv = nullptr;                // [Tc, 1024] compressor projections
  float* gate = nullptr;              // [Tc, 1024]
  float* index_query = nullptr;       // [Tc, index heads * 128]
  float* index_weights = nullptr;     // [Tc, index heads]
  float* low_rank = nullptr;          // [Tc, G * r] wo_a outputs
  float* router = nullptr;            // [Tc, E]
  float* gathered = nullptr;          // [Tc * K, D] tokens by expert
  float* expert_act = nullptr;        // [Tc * K, I]
  float* shared_gate = nullptr;       // [Tc, I]
  float* shared_up = nullptr;         // [Tc, I]
  int32_t* pair_token = nullptr;      // [Tc * K]
  float* pair_weight = nullptr;       // [Tc * K]
  float* normed = nullptr;            // [4 * Tc, D] MTP streams; [N, D] head inputs
  float* projected = nullptr;         // [Tc, D]
  float* part = nullptr;              // [Tc, D] second part of a sum
  std::vector<int32_t> expert_begin;  // [E + 1]
  std::vector<GemmJob> jobs;
  std::vector<std::pair<int32_t, int32_t>> emissions;  // row of the step, window
};

/// Streams of several tokens that go through one product with the mHC matrix together.
inline constexpr int kHyperTile = 8;
/// Cache rows that attention takes at a time: 128 KiB of float rows, which a second-level cache holds.
inline constexpr int kAttendChunk = 64;

class CpuOps : public Ops {
 public:
  explicit CpuOps(const BackendOptions& options, const Kernels& kernels = best_kernels());

  // cpu_ops.cc
  Linear linear(const MatrixView& view) override;
  Array vector(const MatrixView& view) override;
  Array matrix_f32(const MatrixView& view) override;
  Array hyper_matrix(const MatrixView& view) override { return matrix_f32(view); }
  Array token_table(std::span<const int32_t> table) override;
  Experts experts(std::span<const ExpertView> views) override;
  Memory memory() override;
  Activations reserve(const Limits& limits) override;
  void allocate_cache(const CacheLayout& layout, const CachePlan& plan) override;
  Batch begin_step(const StepInput& input) override;
  Batch draft_batch(int pass) override;
  void finish_step(StepOutput& output) override;
  void all_reduce(const Batch& batch, Array array) override;

  // embed.cc
  void embed(const Batch& batch, const ModelWeights& weights, Array output) override;
  void spread(const Batch& batch, Array hidden, Array streams) override;
  void keep_streams(const Batch& batch, Array streams) override;
  void draft_input(const Batch& batch, const MtpWeights& weights, Array embedding, Array streams, Array draft_streams) override;

  // hyper.cc
  void hyper_enter(const Batch& batch, const HyperWeights& weights, Array norm, Array streams, Array mix, Array hidden) override;
  void hyper_leave(const Batch& batch, Array mix, Array output, Array streams) override;
  void hyper_cross(const Batch& batch, const HyperWeights& next, Array norm, Array output, Array streams, Array mix,
                   Array hidden) override;

  // attention.cc
  void project_query_kv(const Batch& batch, int layer, const AttentionWeights& weights, Array hidden, Array latent, Array query,
                        Array kv) override;
  void store_window(const Batch& batch, int layer, Array kv) override;
  void attend(const Batch& batch, int layer, const AttentionWeights& weights, Array query, Array selection,
              Array attended) override;
  void project_output(const Batch& batch, const AttentionWeights& weights, Array attended, Array output) override;

  // compressor.cc, indexer.cc
  void compress(const Batch& batch, int layer, const CompressorWeights& weights, Array hidden) override;
  void select(const Batch& batch, int layer, const IndexerWeights& weights, Array hidden, Array latent, Array selection) override;

  // moe.cc
  void route(const Batch& batch, const MoeWeights& weights, Array hidden, Array routing) override;
  void run_experts(const Batch& batch, const MoeWeights& weights, Array hidden, Array routing, Array output) override;

  // logits.cc
  void logits(const Batch& batch, const HeadWeights& head, const Linear& lm_head, Array streams, Array logits) override;
  void sample(const Batch& batch, Array logits) override;

 protected:  // tests look at a step from within
  struct Compression;
  struct Selection;
  struct Choice;
  struct DownPart;
  struct Attend;
  struct HyperTile;
  struct HeadPass;
  struct LogitRows;
  struct Span {
    int least, most;
  };

  Array floats(size_t count);
  void reserve_rank_scratch(size_t tokens, size_t logit_rows);
  void reserve_worker_scratch(const Limits& limits);

  /// The input of a product with `weights`: `x` itself, or with served numerics its quantised copy in scratch.
  const float* input_of(const Linear& weights, const float* x, int rows, int64_t cols);
  GemmJob product(const Linear& weights, const float* x, int rows, float* out) const;
  /// Where a sum's parts go: the first that is not empty to `output`, another to scratch.
  Parts<float*> part_outputs(const Parts<Linear>& parts, float* output) const;
  /// Adds them; without any, the sum is zero.
  void add_parts(const Parts<Linear>& parts, int tokens, float* output);
  /// out = norm(x) * weight over `dim` values.
  void rms_norm(const float* x, const float* weight, int dim, float* out) const;
  /// Calls body(first, end, worker) for spans of `least` to `most` tokens, as short as keeps all threads busy. `least` is
  /// what is worth waking a thread for: about two microseconds of work.
  template <class Body>
  void for_tokens(int tokens, Span span, const Body& body);

  void leave_tokens(const HyperTile& tile) const;
  void enter_tokens(const HyperTile& tile, int worker) const;
  void for_hyper_tiles(int tokens, HyperTile whole, bool leave, bool enter);

  void attend_heads(const Attend& work, WorkerScratch& scratch) const;
  std::span<const float* const> gather_rows(const Attend& work, int first, WorkerScratch& scratch) const;

  void project_compressor(const Compression& c, const float* hidden);
  void restore_ring(const Compression& c, int row) const;
  void emit_entry(const Compression& c, int row, int window, WorkerScratch& scratch) const;
  void keep_positions(const Compression& c, int token) const;

  void project_indexer(const BatchTokens& tokens, const IndexerWeights& weights, const float* hidden, const float* latent);
  void select_token(const Selection& s, int token, WorkerScratch& scratch) const;
  void exchange_selection(int tokens, int32_t* selection) const;

  void choose_experts(const MoeWeights& weights, int32_t token_id, float* scores, Choice choice) const;
  void group_by_expert(int tokens, Choice choices, const float* hidden);
  void run_gate_up(const MoeWeights& weights, int tokens, const float* hidden);
  void add_down_jobs(const DownPart& part, int experts, int tokens, int64_t width);
  void run_down(const MoeWeights& weights, int tokens, float* output);

  void head_input(const HeadWeights& head, const float* streams, float* out, WorkerScratch& scratch) const;
  int64_t first_logit_column(int64_t own_columns) const;
  void gather_logits(int rows, int64_t own_columns, float* logits) const;
  void begin_result();
  void sample_row(size_t index, const float* logits, const WorkerScratch& scratch);
  void compute_logits(const BatchTokens& tokens, const HeadPass& pass, LogitRows rows);
  void keep_slice(int pass, LogitRows slice, const float* logits);
  void prompt_logprobs(int row, LogitRows part, size_t first_entry, const float* logits);

  const BackendOptions options_;
  const ModelConfig& config_;
  const Kernels& kernels_;
  const bool served_;
  const Rope rope_;
  ThreadPool pool_;
  Heap heap_;
  std::unique_ptr<CacheStore> cache_;
  std::unique_ptr<StepBatches> batches_;
  Limits limits_;
  RankScratch scratch_;
  std::vector<WorkerScratch> workers_;
  StepOutput result_;
  std::chrono::steady_clock::time_point started_;
};

template <class Body>
void CpuOps::for_tokens(int tokens, Span span, const Body& body) {
  const int parts = pool_.threads() * 2;
  const int size = std::clamp((tokens + parts - 1) / parts, span.least, span.most);
  pool_.run((tokens + size - 1) / size, [&](int item, int worker) {
    const int first = item * size;
    body(first, std::min(tokens, first + size), worker);
  });
}

inline float* floats_of(Array array) { return static_cast<float*>(array.data); }

}  // namespace twelvex::cpu
