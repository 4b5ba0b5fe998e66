// SPDX-License-Identifier: MIT
// A prompt of 200,000 tokens (--tokens N) at Flash's shapes with dummy weights, a layer of each kind: every step works in the
// memory that was reserved at load. Prints memory by stage and time by position. Then what warming up takes at these shapes. Run
// from the repository's root.
#include <chrono>
#include <cstdlib>

#include "backend.h"
#include "bare_model.h"
#include "runtime/error.h"
#include "runtime/model.h"
#include "support.h"

using namespace twelvex;
using namespace twelvex::test;

namespace {

constexpr int kChunk = 8192;

size_t used_mib() {
  size_t free_bytes = 0, total_bytes = 0;
  check(cudaMemGetInfo(&free_bytes, &total_bytes), "cudaMemGetInfo");
  return (total_bytes - free_bytes) >> 20;
}

/// Log-probabilities of a whole step's prompt at Flash's vocabulary, which take 64 rows of logits at a time.
void check_prompt_logprobs(BareModel<cuda::CudaOps>& model, const std::vector<int32_t>& tokens) {
  const size_t used = used_mib();
  const auto start = std::chrono::steady_clock::now();
  const StepOutput out = model.prefill(tokens, 0, kChunk, kRowAllLogprobs);
  const std::chrono::duration<double> wall = std::chrono::steady_clock::now() - start;
  bool sound = out.prompt_logprobs.size() == kChunk && out.top_width == 20;
  for (size_t i = 0; sound && i < kChunk; ++i) {
    sound = out.prompt_logprobs[i] <= out.prompt_top_logprobs[20 * i] && std::isfinite(out.prompt_logprobs[i]);
  }
  char text[160];
  std::snprintf(text, sizeof text, "%d prompt log-probabilities of %d tokens in %.1f ms, %zu MiB more", kChunk,
                model.config.vocab_size, wall.count() * 1e3, used_mib() - used);
  expect(sound && used_mib() == used, text);
}

void run(int count, int layers) {
  const size_t before = used_mib();
  BareOptions options;
  options.layers = layers;
  options.dummy = true;
  options.rows = RowFormat::kFp8;
  options.numerics = Numerics::kServed;
  options.limits = {.step_tokens = kChunk, .rows = 4, .context_tokens = (count + 2 * kBlockTokens) / kBlockTokens * kBlockTokens,
                    .mtp = 0, .logit_slice = 64};
  BareModel<cuda::CudaOps> model("models/flash", options);
  const size_t loaded = used_mib();
  std::printf("  %d layers, context %d, steps of %d tokens: %zu MiB on the device\n", layers, options.limits.context_tokens,
              kChunk, loaded - before);
  std::vector<int32_t> tokens;
  for (int i = 0; i < count; ++i) tokens.push_back(below(model.config.vocab_size));
  size_t least = SIZE_MAX, most = 0;  // behind a step
  double seconds = 0;
  StepOutput out;
  for (int first = 0; first < count; first += kChunk) {
    const int taken = std::min(kChunk, count - first);
    const auto start = std::chrono::steady_clock::now();
    out = model.prefill(tokens, first, taken, first + taken == count ? kRowSample : 0);
    const std::chrono::duration<double> wall = std::chrono::steady_clock::now() - start;
    seconds += wall.count();
    least = std::min(least, used_mib());
    most = std::max(most, used_mib());
    if (first % (8 * kChunk) == 0) std::printf("    position %7d: %7.1f ms a step\n", first, wall.count() * 1e3);
  }
  char text[200];
  std::snprintf(text, sizeof text, "%d tokens in %.2f s, %.0f tok/s; the first step added %zu MiB, the others %zu MiB", count,
                seconds, count / seconds, least - loaded, most - least);
  // The driver itself takes a little for the first kernels.
  expect(least - loaded <= 16 && most == least, text);
  expect(out.accepted_count.size() == 1 && out.accepted_count[0] == 1 && out.accepted[0] >= 0 &&
             out.accepted[0] < model.config.vocab_size,
         "  and a token behind them");
  const auto start = std::chrono::steady_clock::now();
  tokens.push_back(out.accepted[0]);
  model.prefill(tokens, count, 1, kRowSample);
  const std::chrono::duration<double> first = std::chrono::steady_clock::now() - start;
  tokens.push_back(0);
  const auto again = std::chrono::steady_clock::now();
  model.prefill(tokens, count + 1, 1, kRowSample);
  const std::chrono::duration<double> second = std::chrono::steady_clock::now() - again;
  std::printf("    a decode step behind it: %.2f ms, the next %.2f ms\n", first.count() * 1e3, second.count() * 1e3);
  check_prompt_logprobs(model, tokens);
}

/// What preparing every decode step of 64 sequences with two drafts takes at start, and that steps behind it take nothing.
void check_warm_up() {
  LoadOptions options;
  options.device = Device::kCuda;
  options.dummy = true;
  options.layers = 4;
  options.rows = RowFormat::kFp8;
  options.numerics = Numerics::kServed;
  options.mtp = 2;
  options.step_tokens = kChunk;
  options.context_tokens = 65536;
  const auto model = Model::load("models/flash", options, {});
  model->allocate_cache({.slots = 64, .window_blocks = 1024, .context_blocks = 1024});
  const size_t before = used_mib();
  const auto start = std::chrono::steady_clock::now();
  model->warm_up();
  const std::chrono::duration<double> wall = std::chrono::steady_clock::now() - start;
  const size_t graphs = used_mib();
  const auto again = std::chrono::steady_clock::now();
  model->warm_up();
  const std::chrono::duration<double> steps = std::chrono::steady_clock::now() - again;
  char text[200];
  std::snprintf(text, sizeof text, "warming up %d layers: %.3f s and %zu MiB; the same steps again: %.3f s and %zu MiB",
                options.layers, wall.count(), graphs - before, steps.count(), used_mib() - graphs);
  expect(used_mib() == graphs && steps.count() < wall.count(), text);
}

}  // namespace

int main(int argc, char** argv) {
  start("long", argc, argv);
  int count = 200000;
  for (int i = 1; i + 1 < argc; ++i) {
    if (std::strcmp(argv[i], "--tokens") == 0) count = std::atoi(argv[i + 1]);
  }
  try {
    run(count, 4);  // window, window, csa, hca
    check_warm_up();
  } catch (const Error& error) {
    expect(false, error.what());
  }
  return finish("long");
}
