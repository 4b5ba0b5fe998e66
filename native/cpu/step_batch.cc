// SPDX-License-Identifier: MIT
#include "step_batch.h"

#include <algorithm>

namespace twelvex::cpu {

StepBatches::StepBatches(const ModelConfig& config, const Limits& limits) : limits_(limits), rope_(config) {
  const auto tokens = static_cast<size_t>(limits.step_tokens), rows = static_cast<size_t>(limits.rows);
  reserve(trunk_, tokens);
  reserve(first_, tokens + rows);
  reserve(later_, rows);
  samples_.reserve(rows);
  sample_of_row_.reserve(rows);
}

void StepBatches::reserve(BatchTokens& batch, size_t tokens) {
  for (auto* list : {&batch.id, &batch.position, &batch.cache_row, &batch.row, &batch.source}) list->reserve(tokens);
  batch.row_begin.reserve(static_cast<size_t>(limits_.rows) + 1);
  batch.logit_tokens.reserve(tokens + static_cast<size_t>(limits_.rows) * (1 + kMaxMtp));
  batch.plain.reserve(tokens);
  batch.compressed.reserve(tokens);
}

void StepBatches::clear(BatchTokens& batch, int pass) {
  batch.pass = pass;
  batch.first_cache_row = pass == 0 ? 0 : 1;
  batch.sampled = 0;
  for (auto* list :
       {&batch.id, &batch.position, &batch.cache_row, &batch.row, &batch.source, &batch.row_begin, &batch.logit_tokens}) {
    list->clear();
  }
  batch.plain.clear();
  batch.compressed.clear();
}

void StepBatches::add_token(BatchTokens& batch, int row, int32_t id, int position) {
  batch.id.push_back(id);
  batch.position.push_back(position);
  batch.cache_row.push_back(position + batch.first_cache_row);
  batch.row.push_back(row);
  batch.plain.push_back(rope_.at(position, false));
  if (batch.pass == 0) batch.compressed.push_back(rope_.at(position, true));
}

Batch StepBatches::finish(BatchTokens& batch) {
  Batch out;
  out.tokens = batch.tokens();
  out.rows = static_cast<int>(input_.slot.size());
  out.pass = batch.pass;
  out.device = &batch;
  return out;
}

/// Logits rows for every token of the rows that have one of `flags`.
void StepBatches::add_diagnostic_logits(BatchTokens& batch, uint8_t flags) {
  for (size_t r = 0; r < input_.slot.size(); ++r) {
    if ((input_.flags[r] & flags) == 0) continue;
    // The first draft pass has one token more in front of rows that resume.
    const int32_t end = batch.row_begin[r + 1];
    for (int32_t t = end - input_.count[r]; t < end; ++t) batch.logit_tokens.push_back(t);
  }
}

Batch StepBatches::begin(const StepInput& input) {
  input_ = input;
  clear(trunk_, 0);
  samples_.clear();
  sample_of_row_.assign(input_.slot.size(), -1);
  size_t next = 0;
  for (size_t r = 0; r < input_.slot.size(); ++r) {
    const int row = static_cast<int>(r);
    trunk_.row_begin.push_back(trunk_.tokens());
    for (int i = 0; i < input_.count[r]; ++i) add_token(trunk_, row, input_.tokens[next++], input_.position[r] + i);
    if ((input_.flags[r] & kRowSample) == 0) continue;
    SampleRow sample;
    sample.row = row;
    sample.drafts = input_.drafts[r];
    sample.first_token = trunk_.tokens() - 1 - sample.drafts;
    sample.first_logit = static_cast<int>(trunk_.logit_tokens.size());
    for (int t = sample.first_token; t < trunk_.tokens(); ++t) trunk_.logit_tokens.push_back(t);
    sample_of_row_[r] = static_cast<int32_t>(samples_.size());
    samples_.push_back(sample);
  }
  trunk_.row_begin.push_back(trunk_.tokens());
  trunk_.sampled = static_cast<int>(trunk_.logit_tokens.size());
  add_diagnostic_logits(trunk_, kRowAllLogits | kRowAllLogprobs);
  return finish(trunk_);
}

/// Trailing tokens of a row that were drafts and not drawn.
int StepBatches::rejected(int row) const {
  const int32_t sample = sample_of_row_[static_cast<size_t>(row)];
  return sample < 0 ? 0 : samples_[static_cast<size_t>(sample)].drafts + 1 - samples_[static_cast<size_t>(sample)].accepted;
}

bool StepBatches::diagnosed(int row) const { return (input_.flags[static_cast<size_t>(row)] & kRowAllLogits) != 0; }

/// The token behind a trunk token: drawn, verified or known. Behind a rejected draft, or where nothing is known, any valid
/// token does: what it leads to is written again before it is read.
int32_t StepBatches::successor(int row, int trunk_token) const {
  const auto r = static_cast<size_t>(row);
  if (sample_of_row_[r] >= 0) {
    const SampleRow& sample = samples_[static_cast<size_t>(sample_of_row_[r])];
    const int place = trunk_token - sample.first_token;
    if (place >= 0 && place < sample.accepted) return sample.tokens[place];
  }
  if (trunk_token + 1 < trunk_.row_begin[r + 1]) return input_.tokens[static_cast<size_t>(trunk_token) + 1];
  return input_.next_token[r] >= 0 ? input_.next_token[r] : input_.tokens[static_cast<size_t>(trunk_token)];
}

/// Rejected drafts are left out, unless their logits are asked for: the next step computes these positions anew.
void StepBatches::first_draft_tokens() {
  for (size_t r = 0; r < input_.slot.size(); ++r) {
    const int row = static_cast<int>(r);
    first_.row_begin.push_back(first_.tokens());
    if ((input_.flags[r] & kRowResume) != 0 && input_.position[r] > 0) {
      add_token(first_, row, input_.tokens[static_cast<size_t>(trunk_.row_begin[r])], input_.position[r] - 1);
      first_.source.push_back(-1);
    }
    const int end = trunk_.row_begin[r + 1] - (diagnosed(row) ? 0 : rejected(row));
    for (int t = trunk_.row_begin[r]; t < end; ++t) {
      add_token(first_, row, successor(row, t), trunk_.position[static_cast<size_t>(t)]);
      first_.source.push_back(t);
    }
  }
  first_.row_begin.push_back(first_.tokens());
  for (const SampleRow& sample : samples_) {
    const int behind = diagnosed(sample.row) ? rejected(sample.row) : 0;
    first_.logit_tokens.push_back(first_.row_begin[static_cast<size_t>(sample.row) + 1] - 1 - behind);
  }
  first_.sampled = static_cast<int>(samples_.size());
  add_diagnostic_logits(first_, kRowAllLogits);
}

void StepBatches::later_draft_tokens(int pass) {
  for (size_t s = 0; s < samples_.size(); ++s) {
    const SampleRow& sample = samples_[s];
    const int last = trunk_.position[static_cast<size_t>(sample.first_token)] + sample.accepted - 1;
    add_token(later_, sample.row, sample.next_drafts[pass - 2], last + pass - 1);
    later_.source.push_back(pass == 2 ? first_.logit_tokens[s] : static_cast<int32_t>(s));
    later_.logit_tokens.push_back(static_cast<int32_t>(s));
  }
  later_.sampled = static_cast<int>(samples_.size());
}

Batch StepBatches::draft(int pass) {
  BatchTokens& batch = pass == 1 ? first_ : later_;
  clear(batch, pass);
  pass == 1 ? first_draft_tokens() : later_draft_tokens(pass);
  return finish(batch);
}

int StepBatches::window_block(int row, int window_row) const {
  const auto r = static_cast<size_t>(row);
  const int at = input_.window_offset[r] + window_row / kBlockTokens - input_.window_base[r];
  return input_.window_blocks[static_cast<size_t>(at)];
}

int StepBatches::context_block(int row, int block) const {
  return input_.context_blocks[static_cast<size_t>(input_.context_offset[static_cast<size_t>(row)] + block)];
}

}  // namespace twelvex::cpu
