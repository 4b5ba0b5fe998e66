// SPDX-License-Identifier: MIT
#include "validate.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "error.h"

namespace twelvex {
namespace {

constexpr uint8_t kKnownFlags = kRowSample | kRowResume | kRowAllLogprobs | kRowAllLogits;
constexpr int kMaxTopLogprobs = 20;

[[noreturn]] void fail(const std::string& message) { throw Error(ErrorCode::kInvalidPlan, message); }

std::string at_row(int row) { return "row " + std::to_string(row) + ": "; }
std::string at_sample(int sample) { return "sampling row " + std::to_string(sample) + ": "; }

void check_size(const char* name, size_t got, size_t expected) {
  if (got == expected) return;
  fail(std::string(name) + " has " + std::to_string(got) + " entries, expected " + std::to_string(expected));
}

/// `value` in [begin, end).
void check_range(const std::string& where, const char* name, int64_t value, int64_t begin, int64_t end) {
  if (value >= begin && value < end) return;
  fail(where + name + " " + std::to_string(value) + " is not in [" + std::to_string(begin) + ", " + std::to_string(end) + ")");
}

void check_offsets(const char* name, const std::vector<int32_t>& offset, size_t rows, size_t entries) {
  check_size(name, offset.size(), rows + 1);
  if (offset.front() != 0) fail(std::string(name) + " starts at " + std::to_string(offset.front()) + ", expected 0");
  for (size_t i = 0; i < rows; ++i) {
    if (offset[i] > offset[i + 1]) fail(at_row(static_cast<int>(i)) + name + " decreases");
  }
  if (static_cast<size_t>(offset.back()) != entries) {
    fail(std::string(name) + " ends at " + std::to_string(offset.back()) + " but there are " + std::to_string(entries) +
         " entries");
  }
}

size_t count_sampling(const StepInput& input) {
  return static_cast<size_t>(
      std::count_if(input.flags.begin(), input.flags.end(), [](uint8_t flags) { return (flags & kRowSample) != 0; }));
}

struct Interval {
  float low, high;
  bool low_open = false, high_open = false;
};

/// NaN is in no interval.
void check_number(const std::string& where, const char* name, float value, Interval range) {
  const bool above = range.low_open ? value > range.low : value >= range.low;
  const bool below = range.high_open ? value < range.high : value <= range.high;
  if (above && below) return;
  fail(where + name + " " + std::to_string(value) + " is not in " + (range.low_open ? "(" : "[") + std::to_string(range.low) +
       ", " + std::to_string(range.high) + (range.high_open ? ")" : "]"));
}

}  // namespace

PlanValidator::PlanValidator(const PlanBounds& bounds)
    : bounds_(bounds),
      slot_(static_cast<size_t>(bounds.cache.slots), 0),
      token_(static_cast<size_t>(bounds.vocab_size), 0) {
  for (auto* marks : {&window_, &context_}) {
    const size_t blocks = static_cast<size_t>(marks == &window_ ? bounds.cache.window_blocks : bounds.cache.context_blocks);
    marks->used.assign(blocks, 0);
    marks->reader.assign(blocks, 0);
    marks->written.assign(blocks, 0);
  }
}

void PlanValidator::check(const StepInput& input) {
  ++step_;
  check_shapes(input);
  check_rows(input);
  check_blocks(input);
  check_sampling(input);
  check_penalties(input);
  check_masks(input);
}

void PlanValidator::check_shapes(const StepInput& input) const {
  const size_t rows = input.slot.size();
  if (rows == 0) fail("a step needs at least one row");
  if (rows > static_cast<size_t>(bounds_.limits.rows)) {
    fail(std::to_string(rows) + " rows, the model was loaded for " + std::to_string(bounds_.limits.rows));
  }
  check_size("position", input.position.size(), rows);
  check_size("count", input.count.size(), rows);
  check_size("drafts", input.drafts.size(), rows);
  check_size("next_token", input.next_token.size(), rows);
  check_size("flags", input.flags.size(), rows);
  check_size("window_base", input.window_base.size(), rows);
  check_offsets("window_offset", input.window_offset, rows, input.window_blocks.size());
  check_offsets("context_offset", input.context_offset, rows, input.context_blocks.size());
  const size_t samples = count_sampling(input);
  check_size("sampling", input.sampling.size(), samples);
  check_offsets("penalty_offset", input.penalty_offset, samples, input.penalty_tokens.size());
  check_size("penalty_counts", input.penalty_counts.size(), input.penalty_tokens.size());
  check_offsets("bias_offset", input.bias_offset, samples, input.bias_tokens.size());
  check_size("bias_values", input.bias_values.size(), input.bias_tokens.size());
  check_size("mask_row", input.mask_row.size(), samples);
}

void PlanValidator::check_rows(const StepInput& input) {
  const Limits& limits = bounds_.limits;
  int64_t tokens = 0;
  for (size_t r = 0; r < input.slot.size(); ++r) {
    const std::string where = at_row(static_cast<int>(r));
    const int64_t position = input.position[r], count = input.count[r], drafts = input.drafts[r];
    const uint8_t flags = input.flags[r];
    check_range(where, "slot", input.slot[r], 0, bounds_.cache.slots);
    uint64_t& slot = slot_[static_cast<size_t>(input.slot[r])];
    if (slot == step_) fail(where + "slot " + std::to_string(input.slot[r]) + " is used by another row of this step");
    slot = step_;
    check_range(where, "position", position, 0, limits.context_tokens);
    check_range(where, "count", count, 1, static_cast<int64_t>(limits.context_tokens) - position + 1);
    check_range(where, "drafts", drafts, 0, std::min<int64_t>(limits.mtp + 1, count));
    check_range(where, "next_token", input.next_token[r], -1, bounds_.vocab_size);
    check_range(where, "flags", flags, 0, kKnownFlags + 1);
    const bool samples = (flags & kRowSample) != 0;
    if (drafts > 0 && !samples) fail(where + "has drafts to verify but does not sample");
    if (samples && input.next_token[r] >= 0) fail(where + "samples, so next_token must be -1");
    if ((flags & kRowResume) != 0 && (position == 0 || position % kBlockTokens != 0)) {
      fail(where + "resumes at position " + std::to_string(position) + ", not a block border behind a prefix");
    }
    const bool all = (flags & (kRowAllLogits | kRowAllLogprobs)) != 0;
    if (all && limits.logit_slice == 0) {
      fail(where + "asks for every token's logits or logprobs; load with a logitSlice for that");
    }
    tokens += count;
  }
  if (tokens > limits.step_tokens) {
    fail(std::to_string(tokens) + " tokens, the model was loaded for " + std::to_string(limits.step_tokens));
  }
  check_size("tokens", input.tokens.size(), static_cast<size_t>(tokens));
  for (size_t t = 0; t < input.tokens.size(); ++t) {
    if (input.tokens[t] >= 0 && input.tokens[t] < bounds_.vocab_size) continue;
    check_range("", ("tokens[" + std::to_string(t) + "]").c_str(), input.tokens[t], 0, bounds_.vocab_size);
  }
}

void PlanValidator::check_blocks(const StepInput& input) {
  for (size_t r = 0; r < input.slot.size(); ++r) {
    const int row = static_cast<int>(r);
    const int64_t position = input.position[r], last = position + input.count[r] - 1;
    const int64_t base = std::max<int64_t>(0, position - (kWindow - 1)) / kBlockTokens;
    if (input.window_base[r] != base) {
      fail(at_row(row) + "window_base " + std::to_string(input.window_base[r]) + ", position " + std::to_string(position) +
           " needs " + std::to_string(base));
    }
    const int64_t border = position / kBlockTokens;
    check_table(row,
                {.name = "window", .ids = input.window_blocks, .offset = input.window_offset, .first_block = base,
                 .last_block = (last + bounds_.limits.mtp) / kBlockTokens, .first_written = border},
                bounds_.cache.window_blocks, window_);
    check_table(row,
                {.name = "context", .ids = input.context_blocks, .offset = input.context_offset, .first_block = 0,
                 .last_block = last / kBlockTokens, .first_written = border},
                bounds_.cache.context_blocks, context_);
  }
}

void PlanValidator::check_table(int row, const BlockTable& table, int blocks, Marks& marks) {
  const std::string where = at_row(row) + table.name + " ";
  const int64_t begin = table.offset[static_cast<size_t>(row)], end = table.offset[static_cast<size_t>(row) + 1];
  const int64_t needed = table.last_block - table.first_block + 1;
  if (end - begin != needed) {
    fail(where + "table has " + std::to_string(end - begin) + " blocks, needs " + std::to_string(needed) + ": logical blocks " +
         std::to_string(table.first_block) + " to " + std::to_string(table.last_block));
  }
  ++stamp_;
  for (int64_t i = 0; i < needed; ++i) {
    const int32_t id = table.ids[static_cast<size_t>(begin + i)];
    check_range(where, "block", id, 0, blocks);
    const size_t b = static_cast<size_t>(id);
    const bool writes = table.first_block + i >= table.first_written;
    if (marks.used[b] == stamp_) fail(where + "block " + std::to_string(id) + " appears twice");
    if (marks.written[b] == step_ || (writes && marks.reader[b] == step_)) {
      fail(where + "block " + std::to_string(id) + " is written by one row and used by another in this step");
    }
    marks.used[b] = stamp_;
    marks.reader[b] = step_;
    if (writes) marks.written[b] = step_;
  }
}

void PlanValidator::check_sampling(const StepInput& input) const {
  constexpr float kMost = 1e30f;
  for (size_t s = 0; s < input.sampling.size(); ++s) {
    const std::string where = at_sample(static_cast<int>(s));
    const SamplingParams& p = input.sampling[s];
    check_number(where, "temperature", p.temperature, {.low = 0, .high = kMost});
    check_number(where, "top_p", p.top_p, {.low = 0, .high = 1, .low_open = true});
    check_range(where, "top_k", p.top_k, 0, INT32_MAX);
    check_number(where, "min_p", p.min_p, {.low = 0, .high = 1, .high_open = true});
    check_number(where, "repetition_penalty", p.repetition_penalty, {.low = 0, .high = kMost, .low_open = true});
    check_number(where, "presence_penalty", p.presence_penalty, {.low = -kMost, .high = kMost});
    check_number(where, "frequency_penalty", p.frequency_penalty, {.low = -kMost, .high = kMost});
    check_range(where, "logprobs", p.logprobs, -1, std::min(kMaxTopLogprobs, bounds_.vocab_size) + 1);
  }
}

void PlanValidator::check_penalties(const StepInput& input) {
  for (size_t s = 0; s < input.sampling.size(); ++s) {
    const std::string where = at_sample(static_cast<int>(s));
    ++stamp_;
    for (auto i = static_cast<size_t>(input.penalty_offset[s]); i < static_cast<size_t>(input.penalty_offset[s + 1]); ++i) {
      const int32_t token = input.penalty_tokens[i];
      check_range(where, "penalty token", token, 0, bounds_.vocab_size);
      check_range(where, "penalty count", input.penalty_counts[i], 0, INT32_MAX);
      uint64_t& seen = token_[static_cast<size_t>(token)];
      if (seen == stamp_) fail(where + "penalty token " + std::to_string(token) + " appears twice");
      seen = stamp_;
    }
    for (auto i = static_cast<size_t>(input.bias_offset[s]); i < static_cast<size_t>(input.bias_offset[s + 1]); ++i) {
      check_range(where, "bias token", input.bias_tokens[i], 0, bounds_.vocab_size);
      const float value = input.bias_values[i];
      if (std::isnan(value) || value == INFINITY) fail(where + "bias " + std::to_string(value) + " is not below infinity");
    }
  }
}

void PlanValidator::check_masks(const StepInput& input) const {
  const size_t words = (static_cast<size_t>(bounds_.vocab_size) + 31) / 32;
  const uint32_t last_word = bounds_.vocab_size % 32 == 0 ? ~0u : (1u << (bounds_.vocab_size % 32)) - 1;
  if (input.masks.size() % words != 0) {
    fail("masks have " + std::to_string(input.masks.size()) + " words, not a multiple of " + std::to_string(words));
  }
  const int64_t mask_rows = static_cast<int64_t>(input.masks.size() / words);
  size_t sample = 0;
  for (size_t r = 0; r < input.slot.size(); ++r) {
    if ((input.flags[r] & kRowSample) == 0) continue;
    const std::string where = at_sample(static_cast<int>(sample));
    const int64_t first = input.mask_row[sample++], needed = 1 + input.drafts[r];
    if (first == -1) continue;
    check_range(where, "mask_row", first, 0, mask_rows - needed + 1);
    for (int64_t m = first; m < first + needed; ++m) {
      const uint32_t* mask = input.masks.data() + static_cast<size_t>(m) * words;
      const bool some = std::any_of(mask, mask + words - 1, [](uint32_t word) { return word != 0; });
      if (!some && (mask[words - 1] & last_word) == 0) fail(where + "mask " + std::to_string(m) + " allows no token");
    }
  }
}

}  // namespace twelvex
