// SPDX-License-Identifier: MIT
// The CPU backend against float32 ground truth (test/oracle/tiny, computed by an independent implementation).
#include <algorithm>

#include "check.h"
#include "cpu/session.h"
#include "tiny_truth.h"

namespace {

using namespace twelvex;
using namespace twelvex::check;

/// With four index heads all of which may be cut off by the relu, indexer scores are often exactly 0, and the ground truth
/// breaks ties at the border of its top 16 in no order that can be repeated. Positions from the first such tie on differ.
struct Prompt {
  const char* name;
  size_t first_tie;
};
constexpr Prompt kPrompts[] = {{"0", 70}, {"1", 68}};

SessionOptions options_with_mtp() {
  SessionOptions options;
  options.load.mtp = 2;
  options.load.threads = 2;
  options.load.step_tokens = 512;
  options.load.logit_slice = 100;
  options.context_tokens = 512;
  return options;
}

double largest_difference(const std::vector<float>& a, const std::vector<float>& b, size_t count) {
  double worst = 0;
  for (size_t i = 0; i < count; ++i) worst = std::max(worst, std::abs(static_cast<double>(a[i]) - b[i]));
  return worst;
}

/// Runs the prompt in chunks; returns trunk logits, then MTP logits, of all tokens.
std::pair<std::vector<float>, std::vector<float>> run_chunks(Session& session, const std::vector<int32_t>& tokens, int chunk) {
  std::pair<std::vector<float>, std::vector<float>> all;
  const int count = static_cast<int>(tokens.size());
  for (int at = 0; at < count; at += chunk) {
    const int end = std::min(count, at + chunk);
    const auto flags = static_cast<uint8_t>(kRowAllLogits | (end == count ? kRowSample : 0));
    const StepOutput out = session.step({test::row_of(tokens, at, end - at, flags)});
    all.first.insert(all.first.end(), out.logits.begin(), out.logits.end());
    all.second.insert(all.second.end(), out.mtp_logits.begin(), out.mtp_logits.end());
  }
  return all;
}

TEST("logits and draft logits equal the ground truth, whatever the chunks") {
  Session session(kTiny, options_with_mtp());
  for (const Prompt& prompt : kPrompts) {
    const std::string name = prompt.name;
    const auto tokens = expected<int32_t>(name + ".tokens");
    const auto logits = expected<float>(name + ".logits");
    const auto mtp_logits = expected<float>(name + ".mtp_logits");
    const size_t compared = prompt.first_tie * static_cast<size_t>(session.config().vocab_size);
    for (int chunk : {300, 129, 128, 64, 7, 1}) {
      const auto [trunk, draft] = run_chunks(session, tokens, chunk);
      REQUIRE(trunk.size() == logits.size());
      CHECK_NEAR(largest_difference(trunk, logits, compared), 0, kTolerance);
      CHECK_NEAR(largest_difference(draft, mtp_logits, compared), 0, kTolerance);
    }
  }
}

TEST("a token's logits are the same bits in one prefill, in chunks and alone") {
  Session session(kTiny, options_with_mtp());
  const auto tokens = expected<int32_t>("0.tokens");
  const auto whole = run_chunks(session, tokens, 300);
  for (int chunk : {129, 13, 3, 1}) CHECK(run_chunks(session, tokens, chunk) == whole);
}

/// A step of four rows: all logits, prompt log-probabilities, neither, and both with a sampled token.
StepOutput mixed_step(int logit_slice) {
  SessionOptions options = options_with_mtp();
  options.load.logit_slice = logit_slice;
  options.sequences = 4;
  Session session(kTiny, options);
  const auto tokens = expected<int32_t>("0.tokens");
  const uint8_t flags[] = {kRowAllLogits, kRowAllLogprobs, 0, kRowAllLogits | kRowAllLogprobs | kRowSample};
  std::vector<test::StepRow> rows(4);
  for (int r = 0; r < 4; ++r) {
    const int begin = 10 * r, count = 30 + 7 * r;
    rows[static_cast<size_t>(r)].sequence = r;
    rows[static_cast<size_t>(r)].tokens.assign(tokens.begin() + begin, tokens.begin() + begin + count);
    rows[static_cast<size_t>(r)].flags = flags[r];
    if ((flags[r] & kRowSample) == 0) rows[static_cast<size_t>(r)].next_token = tokens[static_cast<size_t>(begin + count)];
    rows[static_cast<size_t>(r)].sampling.logprobs = 5;
  }
  return session.step(rows);
}

TEST("logits and log-probabilities of whole rows do not depend on how many are computed at once") {
  const StepOutput whole = mixed_step(512);
  REQUIRE(whole.logits.size() == (30 + 51) * 256 && whole.prompt_logprobs.size() == 37 + 51);
  CHECK(std::isnan(whole.prompt_logprobs.back()));
  for (const int slice : {1, 7, 30, 31, 100}) {
    const StepOutput sliced = mixed_step(slice);
    CHECK(sliced.logits == whole.logits);
    CHECK(sliced.mtp_logits == whole.mtp_logits);
    CHECK(std::equal(whole.prompt_logprobs.begin(), whole.prompt_logprobs.end() - 1, sliced.prompt_logprobs.begin()));
    CHECK(sliced.prompt_top_tokens == whole.prompt_top_tokens);
    CHECK(sliced.prompt_top_logprobs == whole.prompt_top_logprobs);
    CHECK(sliced.accepted == whole.accepted);
    CHECK(sliced.logprobs[0] == whole.logprobs[0]);
  }
}

}  // namespace
