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

void CpuOps::logits(const Batch& batch, const HeadWeights& head, const Linear& lm_head, Array streams, Array logits) {
  const BatchTokens& tokens = StepBatches::of(batch);
  const int rows = static_cast<int>(tokens.logit_tokens.size());
  const auto dim = static_cast<size_t>(config_.hidden_size);
  for_tokens(rows, {2, 16}, [&](int first, int end, int worker) {
    for (auto i = static_cast<size_t>(first); i < static_cast<size_t>(end); ++i) {
      const float* from = floats_of(streams) + static_cast<size_t>(tokens.logit_tokens[i]) * kStreams * dim;
      head_input(head, from, scratch_.normed + i * dim, workers_[static_cast<size_t>(worker)]);
    }
  });
  int64_t first_column = 0;
  if (options_.shape.ranks > 1) first_column = first_logit_column(lm_head.rows);
  GemmJob job[] = {product(lm_head, scratch_.normed, rows, floats_of(logits) + first_column)};
  job[0].out_stride = static_cast<size_t>(config_.vocab_size);
  run_gemms(pool_, kernels_, job);
  if (options_.shape.ranks > 1) gather_logits(rows, lm_head.rows, floats_of(logits));
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

/// Log-probability of the token behind every token of the rows that ask for it.
void CpuOps::prompt_logprobs(const float* logits) {
  const StepInput& input = batches_->input();
  const BatchTokens& trunk = batches_->trunk();
  const auto vocab = static_cast<size_t>(config_.vocab_size), width = static_cast<size_t>(result_.top_width);
  size_t logit_row = static_cast<size_t>(trunk.sampled), first_entry = 0;
  for (size_t r = 0; r < input.flags.size(); ++r) {
    if ((input.flags[r] & (kRowAllLogits | kRowAllLogprobs)) == 0) continue;
    const int count = input.count[r];
    if ((input.flags[r] & kRowAllLogprobs) != 0) {
      for_tokens(count, {1, 8}, [&](int first, int end, int) {
        for (auto i = static_cast<size_t>(first); i < static_cast<size_t>(end); ++i) {
          const std::span<const float> raw(logits + (logit_row + i) * vocab, vocab);
          const float normaliser = log_normaliser(kernels_, raw);
          const size_t at = first_entry + i, token = static_cast<size_t>(trunk.row_begin[r]) + i;
          const bool last = i + 1 == static_cast<size_t>(count);
          const int32_t next = last ? input.next_token[r] : input.tokens[token + 1];
          if (next >= 0) result_.prompt_logprobs[at] = raw[static_cast<size_t>(next)] - normaliser;
          top_logprobs(raw, normaliser, entry(result_.prompt_top_tokens, at, width),
                       entry(result_.prompt_top_logprobs, at, width));
        }
      });
      first_entry += static_cast<size_t>(count);
    }
    logit_row += static_cast<size_t>(count);
  }
}

/// Appends the logits of the rows with kRowAllLogits. The batch's diagnostic logits start behind its sampled ones; the
/// trunk's also cover the rows with kRowAllLogprobs.
void CpuOps::keep_diagnostic_logits(const BatchTokens& tokens, const float* logits, std::vector<float>& out) const {
  const StepInput& input = batches_->input();
  const uint8_t covered = tokens.pass == 0 ? kRowAllLogits | kRowAllLogprobs : kRowAllLogits;
  const auto vocab = static_cast<size_t>(config_.vocab_size);
  auto row = static_cast<size_t>(tokens.sampled);
  for (size_t r = 0; r < input.flags.size(); ++r) {
    if ((input.flags[r] & covered) == 0) continue;
    const auto count = static_cast<size_t>(input.count[r]);
    if ((input.flags[r] & kRowAllLogits) != 0) out.insert(out.end(), logits + row * vocab, logits + (row + count) * vocab);
    row += count;
  }
}

void CpuOps::sample(const Batch& batch, Array logits) {
  const BatchTokens& tokens = StepBatches::of(batch);
  std::vector<SampleRow>& rows = batches_->samples();
  const auto vocab = static_cast<size_t>(config_.vocab_size);
  if (batch.pass == 0) {
    begin_result();
    pool_.run(static_cast<int>(rows.size()), [&](int item, int worker) {
      sample_row(static_cast<size_t>(item), floats_of(logits), workers_[static_cast<size_t>(worker)]);
    });
    prompt_logprobs(floats_of(logits));
    keep_diagnostic_logits(tokens, floats_of(logits), result_.logits);
    return;
  }
  const auto pass = static_cast<size_t>(batch.pass);
  for (size_t s = 0; s < rows.size(); ++s) {
    const int32_t token = largest_token(kernels_, {floats_of(logits) + s * vocab, vocab});
    rows[s].next_drafts[pass - 1] = token;
    result_.drafts[s * static_cast<size_t>(limits_.mtp) + pass - 1] = token;
  }
  if (pass == 1) keep_diagnostic_logits(tokens, floats_of(logits), result_.mtp_logits);
}

}  // namespace twelvex::cpu
