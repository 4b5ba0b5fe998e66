// SPDX-License-Identifier: MIT
// Logits, sampling with verification of drafts, log-probabilities.
#include <limits>

#include "cpu_ops.h"
#include "sampler.h"

namespace twelvex::cpu {

namespace {

constexpr int kMaxTop = 20;

/// Part of a flat list with `width` values an entry.
template <class T>
std::span<T> entry(std::vector<T>& list, size_t index, size_t width) {
  return std::span<T>(list).subspan(index * width, width);
}

/// Values [offset[i], offset[i + 1]) of a list.
template <class T>
std::span<const T> section(const std::vector<T>& list, const std::vector<int32_t>& offset, size_t i) {
  const auto begin = static_cast<size_t>(offset[i]);
  return std::span<const T>(list).subspan(begin, static_cast<size_t>(offset[i + 1]) - begin);
}

}  // namespace

/// One use of the head.
struct CpuOps::HeadPass {
  const HeadWeights& head;
  const Linear& lm_head;
  const float* streams;  // [T, 4, D]
  float* logits;         // [rows, V]
};

/// Some of a batch's logits rows, or of a row's tokens.
struct CpuOps::LogitRows {
  int first = 0, count = 0;
};

void CpuOps::compute_logits(const BatchTokens& tokens, const HeadPass& pass, LogitRows rows) {
  const auto dim = static_cast<size_t>(config_.hidden_size);
  const int32_t* token = tokens.logit_tokens.data() + rows.first;
  for_tokens(rows.count, {2, 16}, [&](int first, int end, int worker) {
    for (auto i = static_cast<size_t>(first); i < static_cast<size_t>(end); ++i) {
      const float* from = pass.streams + static_cast<size_t>(token[i]) * kStreams * dim;
      head_input(pass.head, from, scratch_.normed + i * dim, workers_[static_cast<size_t>(worker)]);
    }
  });
  int64_t first_column = 0;
  if (options_.shape.ranks > 1) first_column = first_logit_column(pass.lm_head.rows);
  GemmJob job[] = {product(pass.lm_head, scratch_.normed, rows.count, pass.logits + first_column)};
  job[0].out_stride = static_cast<size_t>(config_.vocab_size);
  run_gemms(pool_, kernels_, job);
  if (options_.shape.ranks > 1) gather_logits(rows.count, pass.lm_head.rows, pass.logits);
}

void CpuOps::logits(const Batch& batch, const HeadWeights& head, const Linear& lm_head, Array streams, Array logits) {
  const BatchTokens& tokens = StepBatches::of(batch);
  const HeadPass pass{head, lm_head, floats_of(streams), floats_of(logits)};
  const int sampled = static_cast<int>(tokens.sampled), rows = static_cast<int>(tokens.logit_tokens.size());
  for (int first = sampled; first < rows; first += limits_.logit_slice) {
    const LogitRows slice{first, std::min(limits_.logit_slice, rows - first)};
    compute_logits(tokens, pass, slice);
    keep_slice(batch.pass, {first - sampled, slice.count}, pass.logits);
  }
  compute_logits(tokens, pass, {0, sampled});
}

/// Ranks own consecutive vocabulary rows.
int64_t CpuOps::first_logit_column(int64_t own_columns) const {
  const std::vector<void*>& all = options_.group->enter(options_.shape.rank, &own_columns);
  int64_t first = 0;
  for (int rank = 0; rank < options_.shape.rank; ++rank) first += *static_cast<const int64_t*>(all[static_cast<size_t>(rank)]);
  options_.group->leave();
  return first;
}

/// Copies the other ranks' columns into this rank's logits.
void CpuOps::gather_logits(int rows, int64_t own_columns, float* logits) const {
  struct Part {
    const float* logits;
    int64_t columns;
  };
  Part own{logits, own_columns};
  const std::vector<void*>& all = options_.group->enter(options_.shape.rank, &own);
  int64_t column = 0;
  for (int rank = 0; rank < options_.shape.ranks; ++rank) {
    const Part& part = *static_cast<const Part*>(all[static_cast<size_t>(rank)]);
    for (int64_t row = 0; row < rows && rank != options_.shape.rank; ++row) {
      const int64_t at = row * config_.vocab_size + column;
      std::copy_n(part.logits + at, part.columns, logits + at);
    }
    column += part.columns;
  }
  options_.group->leave();
}

/// Draws the row's tokens until one differs from its draft, with log-probabilities where asked for.
void CpuOps::sample_row(size_t index, const float* logits, const WorkerScratch& scratch) {
  const StepInput& input = batches_->input();
  SampleRow& row = batches_->samples()[index];
  const auto vocab = static_cast<size_t>(config_.vocab_size), places = static_cast<size_t>(1 + limits_.mtp);
  const auto width = static_cast<size_t>(result_.top_width);
  const int32_t* drafts = input.tokens.data() + row.first_token + 1;
  DrawRequest request;
  request.params = &input.sampling[index];
  request.seen_tokens = section(input.penalty_tokens, input.penalty_offset, index);
  request.seen_counts = section(input.penalty_counts, input.penalty_offset, index);
  request.bias_tokens = section(input.bias_tokens, input.bias_offset, index);
  request.bias_values = section(input.bias_values, input.bias_offset, index);
  for (row.accepted = 0; row.accepted <= row.drafts;) {
    const auto place = static_cast<size_t>(row.accepted);
    const std::span<const float> raw(logits + (static_cast<size_t>(row.first_logit) + place) * vocab, vocab);
    request.accepted_drafts = {drafts, place};
    request.position = batches_->trunk().position[static_cast<size_t>(row.first_token) + place] + 1;
    if (input.mask_row[index] >= 0) {
      request.mask = input.masks.data() + (static_cast<size_t>(input.mask_row[index]) + place) * ((vocab + 31) / 32);
    }
    const int32_t token = draw_token(kernels_, raw, request, {scratch.logits, scratch.candidates});
    row.tokens[row.accepted++] = token;
    const size_t at = index * places + place;
    result_.accepted[at] = token;
    if (request.params->logprobs >= 0) {
      const float normaliser = log_normaliser(kernels_, raw);
      result_.logprobs[at] = raw[static_cast<size_t>(token)] - normaliser;
      top_logprobs(raw, normaliser, entry(result_.top_tokens, at, width), entry(result_.top_logprobs, at, width));
    }
    if (place < static_cast<size_t>(row.drafts) && token != drafts[place]) break;
  }
  result_.accepted_count[index] = row.accepted;
}

/// Sizes the result for the step's sampling rows and diagnostic rows.
void CpuOps::begin_result() {
  const StepInput& input = batches_->input();
  const size_t rows = batches_->samples().size(), places = rows * static_cast<size_t>(1 + limits_.mtp);
  constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
  result_.top_width = 0;
  for (const SamplingParams& params : input.sampling) result_.top_width = std::max(result_.top_width, params.logprobs);
  size_t prompt = 0;
  for (size_t r = 0; r < input.flags.size(); ++r) {
    if ((input.flags[r] & kRowAllLogprobs) == 0) continue;
    prompt += static_cast<size_t>(input.count[r]);
    // A part of a prompt that does not sample yet has no parameters that say how many alternatives are wanted.
    if ((input.flags[r] & kRowSample) == 0) result_.top_width = kMaxTop;
  }
  const auto width = static_cast<size_t>(result_.top_width);
  result_.accepted_count.assign(rows, 0);
  result_.accepted.assign(places, -1);
  result_.drafts.assign(rows * static_cast<size_t>(limits_.mtp), -1);
  result_.logprobs.assign(places, kNaN);
  result_.top_tokens.assign(places * width, -1);
  result_.top_logprobs.assign(places * width, kNaN);
  result_.prompt_logprobs.assign(prompt, kNaN);
  result_.prompt_top_tokens.assign(prompt * width, -1);
  result_.prompt_top_logprobs.assign(prompt * width, kNaN);
  result_.logits.clear();
  result_.mtp_logits.clear();
}

/// Log-probability of the token behind each of a part of a row's tokens, whose logits these are.
void CpuOps::prompt_logprobs(int row, LogitRows part, size_t first_entry, const float* logits) {
  const StepInput& input = batches_->input();
  const auto vocab = static_cast<size_t>(config_.vocab_size), width = static_cast<size_t>(result_.top_width),
             r = static_cast<size_t>(row);
  const auto begin = static_cast<size_t>(batches_->trunk().row_begin[r]), count = static_cast<size_t>(input.count[r]);
  for_tokens(part.count, {1, 8}, [&](int first, int end, int) {
    for (auto i = static_cast<size_t>(first); i < static_cast<size_t>(end); ++i) {
      const std::span<const float> raw(logits + i * vocab, vocab);
      const float normaliser = log_normaliser(kernels_, raw);
      const size_t at = first_entry + i, token = static_cast<size_t>(part.first) + i;
      const int32_t next = token + 1 == count ? input.next_token[r] : input.tokens[begin + token + 1];
      if (next >= 0) result_.prompt_logprobs[at] = raw[static_cast<size_t>(next)] - normaliser;
      top_logprobs(raw, normaliser, entry(result_.prompt_top_tokens, at, width), entry(result_.prompt_top_logprobs, at, width));
    }
  });
}

/// Takes what was asked for from a slice of the tokens of rows with kRowAllLogits or (pass 0) kRowAllLogprobs.
void CpuOps::keep_slice(int pass, LogitRows slice, const float* logits) {
  const StepInput& input = batches_->input();
  std::vector<float>& kept = pass == 0 ? result_.logits : result_.mtp_logits;
  const auto vocab = static_cast<size_t>(config_.vocab_size);
  int row_at = 0;         // of the row's first token among these tokens
  size_t first_entry = 0;  // of its prompt log-probabilities
  for (size_t r = 0; r < input.flags.size(); ++r) {
    const bool all = (input.flags[r] & kRowAllLogits) != 0, prompt = pass == 0 && (input.flags[r] & kRowAllLogprobs) != 0;
    if (!all && !prompt) continue;
    const int count = input.count[r];
    const int begin = std::max(slice.first, row_at), end = std::min(slice.first + slice.count, row_at + count);
    if (begin < end) {
      const float* from = logits + static_cast<size_t>(begin - slice.first) * vocab;
      const LogitRows part{begin - row_at, end - begin};
      if (all) kept.insert(kept.end(), from, from + static_cast<size_t>(part.count) * vocab);
      if (prompt) prompt_logprobs(static_cast<int>(r), part, first_entry + static_cast<size_t>(part.first), from);
    }
    row_at += count;
    if (prompt) first_entry += static_cast<size_t>(count);
  }
}

void CpuOps::sample(const Batch& batch, Array logits) {
  std::vector<SampleRow>& rows = batches_->samples();
  const auto vocab = static_cast<size_t>(config_.vocab_size);
  if (batch.pass == 0) {
    pool_.run(static_cast<int>(rows.size()), [&](int item, int worker) {
      sample_row(static_cast<size_t>(item), floats_of(logits), workers_[static_cast<size_t>(worker)]);
    });
    return;
  }
  const auto pass = static_cast<size_t>(batch.pass);
  for (size_t s = 0; s < rows.size(); ++s) {
    const int32_t token = largest_token(kernels_, {floats_of(logits) + s * vocab, vocab});
    rows[s].next_drafts[pass - 1] = token;
    result_.drafts[s * static_cast<size_t>(limits_.mtp) + pass - 1] = token;
  }
}

}  // namespace twelvex::cpu
