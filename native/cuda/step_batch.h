// SPDX-License-Identifier: MIT
// The batches of a step (runtime/ops.h, Batch) as the device sees them. The plan is copied once; what depends on sampling
// (ids, positions of drafts) is filled in by kernels, so the host does not wait before the end of the step.
#pragma once

#include <vector>

#include "common/rope.cuh"
#include "indexer/indexer.h"
#include "layout/batch_view.h"
#include "runtime/ops.h"
#include "step_arena.h"

namespace twelvex::cuda {

inline constexpr int kPrefillChunkRows = 4;  // prefill rows that share one gather workspace

/// What sampling leaves for the draft passes, on the device. S sampling rows, K = Limits::mtp.
struct SampleResults {
  int32_t* accepted_count = nullptr;  // [S], 1 .. 1 + drafts
  int32_t* accepted = nullptr;        // [S, 1 + K], -1 padded
  int32_t* drafts = nullptr;          // [K, draft_stride]: drafts of one pass follow each other
  int draft_stride = 0;
};

/// Prefill rows that share the workspace, and their tokens.
struct PrefillChunk {
  int first_row = 0, rows = 0;
  int first_token = 0, tokens = 0;
  int gathered[3] = {};  // workspace rows by layer kind
};

/// One batch; Batch::device points at it.
struct DeviceBatch {
  BatchView view;
  int pass = 0;
  int decode_rows = 0, decode_tokens = 0;  // leading rows of at most 1 + K tokens: split-KV attention
  std::vector<PrefillChunk> chunks;        // the other rows
  int context = 0;                         // largest cache position + 1, or its bound in a graph
  KvSource gathered[3];                    // workspace places by layer kind (gathered_* only)
  ScoreGroups groups;                      // csa: groups of the trunk's tokens
  std::vector<int32_t> group_first, group_count;  // host copy
  const int32_t* source = nullptr;         // draft passes: token whose streams are read; -1: the window block's tail
  const int32_t* logit_tokens = nullptr;   // [N] token of every logits row: sampled ones first, then diagnostic rows
  int logit_rows = 0;                      // N
  int sampled = 0;                         // logits rows of sampling rows

  /// Rotary turns of the batch's tokens in a layer.
  const float2* rope(LayerKind kind) const { return kind == LayerKind::kSwa ? view.rope_plain : view.rope_long; }
  /// First token of a group; the batch's end behind the last.
  int token_of_group(int64_t group) const {
    return group < groups.groups ? group_first[static_cast<size_t>(group)] : view.tokens;
  }
};

/// A sampling row, for the sampler.
struct SampleRow {
  int32_t row, first_token, first_logit, drafts, position;  // position of first_token
};

class StepBatches {
 public:
  /// `workspace_rows`: capacity of the gather workspace.
  StepBatches(const ModelConfig& config, const Limits& limits, int workspace_rows);

  ~StepBatches();
  StepBatches(const StepBatches&) = delete;
  StepBatches& operator=(const StepBatches&) = delete;

  /// Adds this class's arrays; call before StepArena::allocate. The block tables come last.
  void reserve(StepArena& arena);
  void reserve_tables(StepArena& arena);

  /// Fills the host arrays and returns the bytes to upload. `padded` > 0: a decode step in the layout of a graph of that many
  /// rows: 1 + K places a row, unused ones and unused rows are padding.
  size_t begin(const StepInput& input, const StepArena& arena, int padded);
  /// Behind the upload: rotary tables of the trunk. Null queue: a replayed graph does it.
  Batch trunk(const cudaStream_t* queue);
  /// Queues the kernels that finish draft pass `pass`.
  Batch draft(int pass, const cudaStream_t* queue, const SampleResults& samples);

  static const DeviceBatch& of(const Batch& batch) { return *static_cast<const DeviceBatch*>(batch.device); }
  const DeviceBatch& trunk_batch() const { return trunk_; }
  const StepInput& input() const { return *input_; }
  const std::vector<SampleRow>& samples() const { return samples_; }
  /// Sampling rows with the padding of a graph.
  int sample_count() const { return padded_ > 0 ? padded_ : static_cast<int>(samples_.size()); }
  const RopeFrequencies& compressed_frequencies() const { return compressed_; }

 private:
  struct TokenArrays {
    StepArray<int32_t> id, row, position, cache_position, source, logit_tokens, sample, place;
    StepArray<int32_t> row_first, row_count, row_position;
    StepArray<int32_t> gathered_compressed[3], gathered_window[3], gathered_start[3];
    float2 *rope_plain = nullptr, *rope_long = nullptr;
    int count = 0;
  };

  void reserve_tokens(StepArena& arena, TokenArrays& arrays, size_t tokens);
  void begin_trunk();
  void begin_first_draft();
  void add_padding(TokenArrays& arrays, int end) const;
  void finish_padding(TokenArrays& arrays, DeviceBatch& batch) const;
  void add_token(TokenArrays& arrays, int row, int32_t id, int position, int shift) const;
  void add_all_logits(TokenArrays& arrays, DeviceBatch& batch, uint8_t flags) const;
  void plan_chunks(TokenArrays& arrays, DeviceBatch& batch, int window_first) const;
  void plan_groups();
  void fill_view(const TokenArrays& arrays, DeviceBatch& batch) const;
  Batch finish(DeviceBatch& batch, const TokenArrays& arrays, const cudaStream_t* queue) const;

  const Limits limits_;
  const int topk_, workspace_rows_;
  RopeFrequencies plain_, compressed_;
  int padded_ = 0;           // rows of a graph, 0: none
  const StepInput* input_ = nullptr;
  StepInput input_copy_;
  std::vector<SampleRow> samples_;
  std::vector<int32_t> sample_of_row_;
  TokenArrays trunk_arrays_, first_arrays_, later_arrays_[kMaxMtp];
  DeviceBatch trunk_, first_, later_[kMaxMtp];
  StepArray<int32_t> slot_, window_base_, window_offset_, context_offset_, group_first_, group_count_;
  StepArray<int32_t> sample_row_, sample_position_, sample_logit_;
  StepArray<uint8_t> flags_;
  std::vector<void*> tables_;  // rotary tables, owned
  StepArray<int32_t> window_blocks_, context_blocks_;
};

}  // namespace twelvex::cuda
