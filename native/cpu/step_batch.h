// SPDX-License-Identifier: MIT
// What the operations know about the tokens of a step: the trunk's batch and the draft passes' (Batch in runtime/ops.h).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "rope.h"
#include "runtime/ops.h"

namespace twelvex::cpu {

/// One batch, token by token. T tokens, R rows of the step, N logits rows.
struct BatchTokens {
  int pass = 0;
  int first_cache_row = 0;            // lowest window row of a sequence: 1 in the MTP cache, which has no row 0
  std::vector<int32_t> id;            // [T]
  std::vector<int32_t> position;      // [T] rotary
  std::vector<int32_t> cache_row;     // [T] window row: position, or position + 1 in the MTP cache
  std::vector<int32_t> row;           // [T] row of the step
  std::vector<int32_t> row_begin;     // [R + 1] trunk and first draft pass
  std::vector<int32_t> source;        // [T] draft passes: token whose streams are read; -1: the window block's tail
  std::vector<Rotation> plain;        // [T]
  std::vector<Rotation> compressed;   // [T]; trunk only
  std::vector<int32_t> logit_tokens;  // [N] token of every logits row: sampled ones first, then those of diagnostic rows
  int sampled = 0;                    // logits rows of sampling rows

  int tokens() const { return static_cast<int>(id.size()); }
};

/// A sampling row of the step.
struct SampleRow {
  int row = 0;
  int first_token = 0;  // trunk token of its first sampled position
  int first_logit = 0;  // trunk logits row of that
  int drafts = 0;
  int accepted = 0;  // tokens drawn, 1 .. 1 + drafts
  int32_t tokens[1 + kMaxMtp] = {};
  int32_t next_drafts[kMaxMtp] = {};
};

class StepBatches {
 public:
  StepBatches(const ModelConfig& config, const Limits& limits);

  /// Copies the plan and makes the trunk's batch.
  Batch begin(const StepInput& input);
  /// Makes the batch of draft pass `pass`, from what sampling has put into `samples`.
  Batch draft(int pass);

  static const BatchTokens& of(const Batch& batch) { return *static_cast<const BatchTokens*>(batch.device); }

  const StepInput& input() const { return input_; }
  std::vector<SampleRow>& samples() { return samples_; }
  const BatchTokens& trunk() const { return trunk_; }

  /// Physical window block of a window row (position) of a row of the step; context block number `block` of it.
  int window_block(int row, int window_row) const;
  int context_block(int row, int block) const;

 private:
  void reserve(BatchTokens& batch, size_t tokens);
  void clear(BatchTokens& batch, int pass);
  void add_token(BatchTokens& batch, int row, int32_t id, int position);
  void add_diagnostic_logits(BatchTokens& batch, uint8_t flags);
  void first_draft_tokens();
  void later_draft_tokens(int pass);
  int rejected(int row) const;
  bool diagnosed(int row) const;
  int32_t successor(int row, int trunk_token) const;
  Batch finish(BatchTokens& batch);

  const Limits limits_;
  Rope rope_;
  StepInput input_;
  std::vector<SampleRow> samples_;
  std::vector<int32_t> sample_of_row_;  // [R] or -1
  BatchTokens trunk_, first_, later_;
};

}  // namespace twelvex::cpu
