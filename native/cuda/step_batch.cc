// SPDX-License-Identifier: MIT
#include "step_batch.h"

#include <algorithm>
#include <cmath>

#include "attention/gather.h"
#include "common/check.h"
#include "elementwise/draft_tokens.h"
#include "elementwise/norm_rope.h"

namespace twelvex::cuda {

namespace {

constexpr int kKinds = 3;
constexpr int kRatio[kKinds] = {0, kCsaRatio, kHcaRatio};  // by LayerKind

/// Pair number at which a wave turns `turns` times within the original context.
double correction(double turns, double theta, int context) {
  constexpr double kTwoPi = 6.283185307179586;
  return kRopeDim * std::log(context / (turns * kTwoPi)) / (2 * std::log(theta));
}

void set_frequencies(const ModelConfig& config, RopeFrequencies& plain, RopeFrequencies& compressed) {
  const double theta = config.compress_rope_theta;
  const double low = std::max(std::floor(correction(config.yarn_beta_fast, theta, config.yarn_original_context)), 0.0);
  const double high = std::min(std::ceil(correction(config.yarn_beta_slow, theta, config.yarn_original_context)), kRopeDim - 1.0);
  for (int i = 0; i < kRopeDim / 2; ++i) {
    const double exponent = 2.0 * i / kRopeDim, base = std::pow(theta, -exponent);
    const double ramp = std::clamp((i - low) / std::max(high - low, 0.001), 0.0, 1.0);
    plain.pair[i] = static_cast<float>(std::pow(config.rope_theta, -exponent));
    compressed.pair[i] = static_cast<float>(base * (1 - ramp) + base / config.yarn_factor * ramp);
  }
}

}  // namespace

StepBatches::StepBatches(const ModelConfig& config, const Limits& limits, int workspace_rows)
    : limits_(limits), topk_(config.index_topk), workspace_rows_(workspace_rows) {
  set_frequencies(config, plain_, compressed_);
}

StepBatches::~StepBatches() {
  for (void* table : tables_) cudaFree(table);
}

void StepBatches::reserve_tokens(StepArena& arena, TokenArrays& a, size_t tokens) {
  const auto rows = static_cast<size_t>(limits_.rows);
  for (auto* list : {&a.id, &a.row, &a.position, &a.cache_position, &a.source, &a.sample, &a.place}) arena.add(*list, tokens);
  arena.add(a.logit_tokens, tokens + rows * (1 + kMaxMtp));
  for (auto* list : {&a.row_first, &a.row_count, &a.row_position}) arena.add(*list, rows);
  for (int k = 0; k < kKinds; ++k) {
    for (auto* list : {&a.gathered_compressed[k], &a.gathered_window[k], &a.gathered_start[k]}) arena.add(*list, rows);
  }
  for (float2** table : {&a.rope_plain, &a.rope_long}) {
    *table = static_cast<float2*>(device_alloc(tokens * 32 * sizeof(float2), "rotary tables"));
    tables_.push_back(*table);
  }
}

void StepBatches::reserve(StepArena& arena) {
  const auto tokens = static_cast<size_t>(limits_.step_tokens), rows = static_cast<size_t>(limits_.rows);
  for (auto* list : {&slot_, &window_base_, &sample_row_, &sample_position_, &sample_logit_}) arena.add(*list, rows);
  for (auto* list : {&window_offset_, &context_offset_}) arena.add(*list, rows + 1);
  arena.add(flags_, rows);
  reserve_tokens(arena, trunk_arrays_, tokens);
  if (limits_.mtp > 0) reserve_tokens(arena, first_arrays_, tokens + rows);
  for (int pass = 2; pass <= limits_.mtp; ++pass) reserve_tokens(arena, later_arrays_[pass - 1], rows);
  for (auto* list : {&group_first_, &group_count_}) arena.add(*list, tokens / kScoreGroup + rows);
}

void StepBatches::reserve_tables(StepArena& arena) {
  const auto tokens = static_cast<size_t>(limits_.step_tokens), rows = static_cast<size_t>(limits_.rows);
  arena.add(window_blocks_, tokens / kBlockTokens + rows * 4);
  arena.add(context_blocks_, rows * (static_cast<size_t>(limits_.context_tokens) / kBlockTokens + 2));
}

void StepBatches::add_token(TokenArrays& a, int row, int32_t id, int position, int shift) const {
  const int t = a.count++;
  a.id.host[t] = id;
  a.row.host[t] = row;
  a.position.host[t] = position;
  a.cache_position.host[t] = position + shift;
  a.source.host[t] = a.sample.host[t] = -1;
  a.place.host[t] = 0;
}

void StepBatches::add_padding(TokenArrays& a, int end) const {
  while (a.count < end) add_token(a, -1, -1, 0, 0);
}

/// Rows of a graph behind the real ones, and shapes that hold for every step it is replayed for.
void StepBatches::finish_padding(TokenArrays& a, DeviceBatch& batch) const {
  const int places = 1 + limits_.mtp;
  for (int r = static_cast<int>(input_->slot.size()); r < padded_; ++r) {
    a.row_first.host[r] = r * places;
    a.row_count.host[r] = a.row_position.host[r] = 0;
  }
  add_padding(a, padded_ * places);
  batch.chunks.clear();
  batch.decode_rows = padded_;
  batch.decode_tokens = a.count;
  // Every entry is kept up to the bound below; beyond it nothing but the model's longest context bounds a sequence.
  const int kept_whole = topk_ * kCsaRatio;
  batch.context = batch.context <= kept_whole ? std::min(kept_whole, limits_.context_tokens) : limits_.context_tokens;
}

/// Logits rows for every token of the rows that have one of `flags`.
void StepBatches::add_all_logits(TokenArrays& a, DeviceBatch& batch, uint8_t flags) const {
  for (size_t r = 0; r < input_->slot.size(); ++r) {
    if ((input_->flags[r] & flags) == 0) continue;
    const int end = a.row_first.host[r] + a.row_count.host[r];
    for (int t = end - input_->count[r]; t < end; ++t) a.logit_tokens.host[batch.logit_rows++] = t;
  }
}

/// Cuts the prefill rows into chunks and places their rows in the workspace, by layer kind.
void StepBatches::plan_chunks(TokenArrays& a, DeviceBatch& batch, int window_first) const {
  const int rows = static_cast<int>(input_->slot.size());
  batch.decode_rows = batch.decode_tokens = batch.context = 0;
  batch.chunks.clear();
  for (int r = 0; r < rows; ++r) batch.context = std::max(batch.context, a.row_position.host[r] + a.row_count.host[r]);
  while (batch.decode_rows < rows && a.row_count.host[batch.decode_rows] <= 1 + limits_.mtp) {
    batch.decode_tokens += a.row_count.host[batch.decode_rows++];
  }
  for (int r = batch.decode_rows; r < rows; ++r) {
    const int count = a.row_count.host[r];
    GatherShape shape[kKinds];
    int most = 0;
    for (int k = 0; k < kKinds; ++k) {
      shape[k] = gather_shape(a.row_position.host[r], count, kRatio[k], window_first);
      most = std::max(most, (batch.chunks.empty() ? 0 : batch.chunks.back().gathered[k]) + shape[k].compressed + shape[k].window);
    }
    if (batch.chunks.empty() || batch.chunks.back().rows == kPrefillChunkRows || most > workspace_rows_) {
      batch.chunks.push_back({r, 0, a.row_first.host[r], 0, {}});
    }
    PrefillChunk& chunk = batch.chunks.back();
    for (int k = 0; k < kKinds; ++k) {
      a.gathered_compressed[k].host[r] = chunk.gathered[k];
      a.gathered_window[k].host[r] = chunk.gathered[k] + shape[k].compressed;
      a.gathered_start[k].host[r] = shape[k].window_start;
      chunk.gathered[k] += shape[k].compressed + shape[k].window;
    }
    ++chunk.rows;
    chunk.tokens += count;
  }
}

/// Tokens of one row that are scored together.
void StepBatches::plan_groups() {
  trunk_.group_first.clear();
  trunk_.group_count.clear();
  for (int r = 0; r < padded_; ++r) {  // a graph: a group a row
    trunk_.group_first.push_back(trunk_arrays_.row_first.host[r]);
    trunk_.group_count.push_back(trunk_arrays_.row_count.host[r]);
  }
  for (size_t r = 0; padded_ == 0 && r < input_->slot.size(); ++r) {
    for (int i = 0; i < input_->count[r]; i += kScoreGroup) {
      trunk_.group_first.push_back(trunk_arrays_.row_first.host[r] + i);
      trunk_.group_count.push_back(std::min(kScoreGroup, input_->count[r] - i));
    }
  }
  std::copy(trunk_.group_first.begin(), trunk_.group_first.end(), group_first_.host);
  std::copy(trunk_.group_count.begin(), trunk_.group_count.end(), group_count_.host);
  trunk_.groups = {group_first_.device, group_count_.device, static_cast<int>(trunk_.group_first.size())};
}

void StepBatches::fill_view(const TokenArrays& a, DeviceBatch& batch) const {
  BatchView& v = batch.view;
  v.tokens = a.count;
  v.rows = padded_ > 0 ? padded_ : static_cast<int>(input_->slot.size());
  v.window_first = batch.pass == 0 ? 0 : 1;
  v.token_id = a.id.device;
  v.token_row = a.row.device;
  v.position = a.position.device;
  v.cache_position = a.cache_position.device;
  v.rope_plain = a.rope_plain;
  v.rope_long = a.rope_long;
  v.row_slot = slot_.device;
  v.row_first_token = a.row_first.device;
  v.row_count = a.row_count.device;
  v.row_position = a.row_position.device;
  v.row_flags = flags_.device;
  v.window_base = window_base_.device;
  v.window_offset = window_offset_.device;
  v.window_blocks = window_blocks_.device;
  v.context_offset = context_offset_.device;
  v.context_blocks = context_blocks_.device;
  for (int k = 0; k < kKinds; ++k) {
    batch.gathered[k].gathered_compressed = a.gathered_compressed[k].device;
    batch.gathered[k].gathered_window = a.gathered_window[k].device;
    batch.gathered[k].gathered_start = a.gathered_start[k].device;
  }
  batch.source = a.source.device;
  batch.logit_tokens = a.logit_tokens.device;
}

void StepBatches::begin_trunk() {
  TokenArrays& a = trunk_arrays_;
  a.count = 0;
  trunk_.pass = trunk_.logit_rows = 0;
  samples_.clear();
  sample_of_row_.assign(input_->slot.size(), -1);
  size_t next = 0;
  for (size_t r = 0; r < input_->slot.size(); ++r) {
    a.row_first.host[r] = a.count;
    a.row_count.host[r] = input_->count[r];
    a.row_position.host[r] = input_->position[r];
    for (int i = 0; i < input_->count[r]; ++i) {
      add_token(a, static_cast<int>(r), input_->tokens[next++], input_->position[r] + i, 0);
    }
    if ((input_->flags[r] & kRowSample) == 0) continue;
    const int first = a.count - 1 - input_->drafts[r];
    sample_of_row_[r] = static_cast<int32_t>(samples_.size());
    samples_.push_back({static_cast<int32_t>(r), first, trunk_.logit_rows, input_->drafts[r], a.position.host[first]});
    for (int t = first; t < a.count; ++t) a.logit_tokens.host[trunk_.logit_rows++] = t;
    if (padded_ == 0) continue;
    add_padding(a, static_cast<int>(r + 1) * (1 + limits_.mtp));
    while (trunk_.logit_rows < a.count) a.logit_tokens.host[trunk_.logit_rows++] = -1;
  }
  trunk_.sampled = trunk_.logit_rows;
  add_all_logits(a, trunk_, kRowAllLogits | kRowAllLogprobs);
  plan_chunks(a, trunk_, 0);
  if (padded_ > 0) {
    finish_padding(a, trunk_);
    while (trunk_.logit_rows < a.count) a.logit_tokens.host[trunk_.logit_rows++] = -1;
    trunk_.sampled = trunk_.logit_rows;
  }
  plan_groups();
  fill_view(a, trunk_);
}

/// Pass 1: every trunk token's successor. Behind a rejected draft, or where nothing is known, any valid token does: what it
/// leads to is written again before it is read.
void StepBatches::begin_first_draft() {
  TokenArrays& a = first_arrays_;
  a.count = 0;
  first_.pass = 1;
  const TokenArrays& trunk = trunk_arrays_;
  for (size_t r = 0; r < input_->slot.size(); ++r) {
    const int row = static_cast<int>(r), begin = trunk.row_first.host[r], end = begin + input_->count[r];
    const bool resumes = (input_->flags[r] & kRowResume) != 0 && input_->position[r] > 0;
    a.row_first.host[r] = a.count;
    a.row_count.host[r] = input_->count[r] + resumes;
    a.row_position.host[r] = input_->position[r] + 1 - resumes;
    if (resumes) add_token(a, row, trunk.id.host[begin], input_->position[r] - 1, 1);
    for (int t = begin; t < end; ++t) {
      const int32_t behind = input_->next_token[r] >= 0 ? input_->next_token[r] : trunk.id.host[t];
      const int32_t known = t + 1 < end ? trunk.id.host[t + 1] : behind;
      add_token(a, row, known, trunk.position.host[t], 1);
      const int at = a.count - 1, s = sample_of_row_[r];
      a.source.host[at] = t;
      if (s >= 0 && t >= samples_[static_cast<size_t>(s)].first_token) {
        a.sample.host[at] = s;
        a.place.host[at] = t - samples_[static_cast<size_t>(s)].first_token;
      }
    }
    if (padded_ > 0) add_padding(a, static_cast<int>(r + 1) * (1 + limits_.mtp));
  }
  // A padding sample accepts nothing, so that its logits row is token -1.
  for (int s = static_cast<int>(samples_.size()); s < padded_; ++s) {
    sample_row_.host[s] = -1;
    sample_position_.host[s] = sample_logit_.host[s] = 0;
  }
  for (size_t s = 0; s < samples_.size(); ++s) {
    const SampleRow& sample = samples_[s];
    const auto r = static_cast<size_t>(sample.row);
    const int from_end = trunk.row_first.host[r] + input_->count[r] - sample.first_token;
    sample_row_.host[s] = sample.row;
    sample_position_.host[s] = sample.position;
    sample_logit_.host[s] = a.row_first.host[r] + a.row_count.host[r] - from_end;
  }
  first_.logit_rows = first_.sampled = sample_count();
  add_all_logits(a, first_, kRowAllLogits);
  plan_chunks(a, first_, 1);
  if (padded_ > 0) finish_padding(a, first_);
  fill_view(a, first_);
}

size_t StepBatches::begin(const StepInput& input, const StepArena& arena, int padded) {
  padded_ = padded;
  input_copy_ = input;
  input_ = &input_copy_;
  const auto copy = [](const std::vector<int32_t>& from, StepArray<int32_t>& to) {
    TWELVEX_NEED_LE(from.size(), to.capacity);
    std::copy(from.begin(), from.end(), to.host);
  };
  copy(input.slot, slot_);
  copy(input.window_base, window_base_);
  copy(input.window_offset, window_offset_);
  copy(input.context_offset, context_offset_);
  copy(input.window_blocks, window_blocks_);
  copy(input.context_blocks, context_blocks_);
  std::copy(input.flags.begin(), input.flags.end(), flags_.host);
  std::fill(flags_.host + input.flags.size(), flags_.host + flags_.capacity, uint8_t{0});
  begin_trunk();
  if (limits_.mtp > 0) begin_first_draft();
  return arena.end_of(context_blocks_, input.context_blocks.size());
}

Batch StepBatches::finish(DeviceBatch& batch, const TokenArrays& a, const cudaStream_t* queue) const {
  RopeTableParams rope;
  rope.position = a.position.device;
  rope.tokens = a.count;
  rope.plain = plain_;
  rope.compressed = compressed_;
  rope.rope_plain = a.rope_plain;
  rope.rope_long = a.rope_long;
  if (queue) run_rope_table(rope, *queue);
  Batch out;
  out.tokens = a.count;
  out.rows = batch.view.rows;
  out.pass = batch.pass;
  out.device = &batch;
  return out;
}

Batch StepBatches::trunk(const cudaStream_t* queue) { return finish(trunk_, trunk_arrays_, queue); }

Batch StepBatches::draft(int pass, const cudaStream_t* queue, const SampleResults& results) {
  const int samples = sample_count();
  if (pass == 1) {
    FirstDraftParams p;
    p.tokens = first_arrays_.count;
    p.samples = samples;
    p.drafts = limits_.mtp;
    p.accepted_count = results.accepted_count;
    p.accepted = results.accepted;
    p.sample = first_arrays_.sample.device;
    p.place = first_arrays_.place.device;
    p.sample_logit = sample_logit_.device;
    p.token_id = first_arrays_.id.device;
    p.logit_tokens = first_arrays_.logit_tokens.device;
    if (queue) run_first_draft(p, *queue);
    return finish(first_, first_arrays_, queue);
  }
  TokenArrays& a = later_arrays_[pass - 1];
  DeviceBatch& batch = later_[pass - 1];
  a.count = samples;
  batch.pass = pass;
  batch.logit_rows = batch.sampled = batch.decode_tokens = samples;
  batch.decode_rows = samples;
  batch.context = first_.context + pass - 1;
  fill_view(a, batch);
  LaterDraftParams p;
  p.pass = pass;
  p.samples = samples;
  p.accepted_count = results.accepted_count;
  p.draft_tokens = results.drafts + static_cast<size_t>(pass - 2) * static_cast<size_t>(results.draft_stride);
  p.sample_row = sample_row_.device;
  p.sample_position = sample_position_.device;
  p.first_logit_tokens = first_arrays_.logit_tokens.device;
  p.token_id = a.id.device;
  p.token_row = a.row.device;
  p.position = a.position.device;
  p.cache_position = a.cache_position.device;
  p.source = a.source.device;
  p.logit_tokens = a.logit_tokens.device;
  if (queue) run_later_draft(p, *queue);
  return finish(batch, a, queue);
}

}  // namespace twelvex::cuda
