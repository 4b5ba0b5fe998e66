// SPDX-License-Identifier: MIT
// test/oracle/tiny at every position. Its weights are random, so that experts and compressed entries are often nearly tied, and
// bf16 activations take another one than exact arithmetic. That changes the token's streams and, through windows, all later
// positions: no rounding bound holds behind it. So the device's choices are recorded and the exact CPU backend (which agrees
// with the ground truth, test/native/cpu/tie_test.cc) follows them. Shown for every layer and position: the scores that are
// chosen by agree; where the CPU would have chosen otherwise, its margin is at most what two scores with the error seen at that
// very place can move; and with the device's choices all logits agree.
#include "bare_model.h"
#include "choices.h"
#include "oracle_truth.h"
#include "support.h"

using namespace twelvex;
using namespace twelvex::test;

namespace {

const std::string kTiny = "test/oracle/tiny";
constexpr double kBound = 1.5e-2;  // relative, of logits and of the scores that experts and entries are chosen by

struct Trace {
  std::vector<float> logits, mtp_logits;
  void add(const StepOutput& out) {
    logits.insert(logits.end(), out.logits.begin(), out.logits.end());
    mtp_logits.insert(mtp_logits.end(), out.mtp_logits.begin(), out.mtp_logits.end());
  }
};

BareOptions tiny_options() {
  BareOptions options;
  options.limits = {.step_tokens = 512, .rows = 2, .context_tokens = 512, .mtp = 1, .logit_slice = 100};
  return options;
}

double error_of(const std::vector<float>& got, const std::vector<float>& want, size_t count) {
  Difference d;
  for (size_t i = 0; i < count; ++i) d.add(got.at(i), want.at(i));
  return d.relative();
}

/// Returns the first position of another choice.
int check_every_position(const std::vector<int32_t>& tokens, int chunk, Trace& got) {
  const int count = static_cast<int>(tokens.size());
  BareModel<RecordingOps> device(kTiny, tiny_options());
  BareOptions exact = tiny_options();
  exact.rows = RowFormat::kF32;
  exact.stream_element_bytes = 4;
  BareModel<FollowingOps> host(kTiny, exact);
  Trace followed;
  for (int first = 0; first < count; first += chunk) {
    got.add(device.prefill(tokens, first, std::min(chunk, count - first), kRowAllLogits));
  }
  host.ops.record = &device.ops.record;
  for (int first = 0; first < count; ++first) followed.add(host.prefill(tokens, first, 1, kRowAllLogits));
  const auto vocab = static_cast<size_t>(device.config.vocab_size);
  const double logits = error_of(got.logits, followed.logits, followed.logits.size());
  // The last position's successor is unknown: its MTP logits mean nothing.
  const double mtp = error_of(got.mtp_logits, followed.mtp_logits, followed.mtp_logits.size() - vocab);
  double worst = 0;
  for (size_t at = 0; at < followed.logits.size(); at += vocab) {
    Difference d;
    for (size_t i = at; i < at + vocab; ++i) d.add(got.logits[i], followed.logits[i]);
    worst = std::max(worst, d.relative());
  }
  char text[200];
  std::snprintf(text, sizeof text, "tiny, chunks of %d, %d positions, its choices: logits %.2e (one position %.2e), MTP %.2e",
                chunk, count, logits, worst, mtp);
  expect(logits <= kBound && mtp <= kBound, text);
  const double router = host.ops.router.relative(), indexer = host.ops.indexer.relative();
  std::snprintf(text, sizeof text, "  scores: router %.2e, indexer %.2e", router, indexer);
  expect(router <= kBound && indexer <= kBound, text);
  // Two scores that each move by the error change places up to a margin of twice that.
  std::snprintf(text, sizeof text, "  %d of %d choices differ, first at %d, margins up to %.2f errors", host.ops.others,
                host.ops.choices, host.ops.first_other, host.ops.widest);
  expect(host.ops.widest <= 2, text);
  return host.ops.first_other;
}

/// The ground truth itself, before anything was chosen otherwise: by the device, or in the ground truth at an exact tie of
/// entries (test/native/cpu/tie_test.cc).
void check_truth(const Truth& truth, const Trace& got, int comparable) {
  const double error = error_of(got.logits, truth.logits, static_cast<size_t>(comparable) * truth.vocab);
  char text[160];
  std::snprintf(text, sizeof text, "  the ground truth's first %d positions: logits %.2e", comparable, error);
  expect(comparable > 0 && error <= kBound, text);
}

}  // namespace

int main(int argc, char** argv) {
  start("choices", argc, argv);
  try {
    const auto truths = read_truth(kTiny);
    constexpr int kFirstTie[] = {127, 78};
    for (const int chunk : cases({64, 512, 7, 1}, 1)) {
      for (size_t i = 0; i < truths.size(); ++i) {
        if (brief && i > 0) break;
        Trace got;
        const int other = check_every_position(truths[i].tokens, chunk, got);
        check_truth(truths[i], got, std::min(other, kFirstTie[i]));
      }
      std::vector<int32_t> random;
      for (int i = 0; i < (brief ? 100 : 300); ++i) random.push_back(below(256));
      Trace got;
      check_every_position(random, chunk, got);
    }
  } catch (const Error& error) {
    expect(false, error.what());
  }
  return finish("choices");
}
