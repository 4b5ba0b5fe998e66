// SPDX-License-Identifier: MIT
// A rank that fails outside of a collective, while the other waits in one on the device: the step ends at once on both, with
// the failing rank's error. Two ranks on one GPU or, with --devices A,B, on two. Run from the repository's root.
#include <atomic>
#include <chrono>
#include <cstdlib>

#include "backend.h"
#include "rank_threads.h"
#include "runtime/checkpoint.h"
#include "runtime/error.h"
#include "runtime/model.h"
#include "runtime/weights.h"
#include "step_rows.h"

using namespace twelvex;
using namespace twelvex::test;

namespace {

const std::string kTiny = "test/oracle/tiny";
constexpr double kMostSeconds = 2;
std::vector<int> devices = {0, 0};

enum class Fault { kNone, kOutOfMemory, kLaterOutOfMemory, kDeviceLost };
std::atomic<Fault> fault = Fault::kNone;

__global__ void write_nowhere() { *reinterpret_cast<volatile int*>(16) = 1; }

/// Fails on rank 1 where the test says.
class FaultyOps : public cuda::CudaOps {
 public:
  explicit FaultyOps(const BackendOptions& options) : CudaOps(options) {}

  void run_experts(const Batch& batch, const MoeWeights& weights, Array hidden, Array routing, Array output) override {
    CudaOps::run_experts(batch, weights, hidden, routing, output);
    if (options_.shape.rank == 0 || batch.pass > 0) return;
    const Fault now = fault;
    if (now == Fault::kOutOfMemory) cuda::device_alloc(size_t{1} << 50, "an injected buffer");
    if (now == Fault::kDeviceLost) {
      write_nowhere<<<1, 1, 0, queue_>>>();
      check(cudaStreamSynchronize(queue_), "an injected kernel");
    }
  }

  void finish_step(StepOutput& output) override {
    if (options_.shape.rank == 1 && fault == Fault::kLaterOutOfMemory) cuda::device_alloc(size_t{1} << 50, "an injected buffer");
    CudaOps::finish_step(output);
  }
};

/// A model over ranks of these operations.
struct FaultyModel {
  ModelConfig config = read_config(kTiny);
  RankSet ranks{static_cast<int>(devices.size())};

  FaultyModel() {
    const auto source = Checkpoint::open(kTiny, config);
    const Limits limits{.step_tokens = 64, .rows = 2, .context_tokens = 256, .mtp = 1};
    ranks.run([&](int rank, RankState& state) {
      const RankShape shape{rank, ranks.size()};
      state.ops = std::make_unique<FaultyOps>(BackendOptions{.config = config,
                                                             .shape = shape,
                                                             .group = ranks.group(),
                                                             .rows = RowFormat::kBF16,
                                                             .with_mtp = true,
                                                             .device = devices[static_cast<size_t>(rank)]});
      state.weights = load_weights({.config = config, .source = *source, .shape = shape, .with_mtp = true, .progress = {}},
                                   *state.ops);
      state.activations = state.ops->reserve(limits);
      state.ops->allocate_cache(CacheLayout::make(config, RowFormat::kBF16, true, 2),
                                {.slots = 1, .window_blocks = 4, .context_blocks = 4});
    });
  }

  /// `count` tokens that sample: one and its draft are a graph, more are a prefill.
  void step(int count) {
    const std::vector<int32_t> tokens(static_cast<size_t>(count), 5);
    const StepInput in = step_of({{.tokens = tokens, .flags = kRowSample}}, 0, 1);
    std::vector<StepOutput> out(devices.size());
    ranks.run([&](int rank, RankState& state) {
      const ForwardContext context{
          .ops = *state.ops, .config = config, .weights = state.weights, .activations = state.activations, .mtp = 1};
      forward_step(context, in, out[static_cast<size_t>(rank)]);
    });
  }
};

void check_fault(Fault injected, int tokens, ErrorCode code, const char* what) {
  FaultyModel model;
  fault = Fault::kNone;
  model.step(tokens);  // works, and leaves a captured graph behind
  fault = injected;
  const auto start = std::chrono::steady_clock::now();
  std::string message = "nothing failed";
  bool coded = false;
  try {
    model.step(tokens);
  } catch (const Error& error) {
    message = error.what();
    coded = error.code() == code;
  }
  const std::chrono::duration<double> wall = std::chrono::steady_clock::now() - start;
  fault = Fault::kNone;
  char text[160];
  std::snprintf(text, sizeof text, "%s, %d tokens: one error after %.3f s (limit %.0f s)", what, tokens, wall.count(),
                kMostSeconds);
  expect(coded && wall.count() < kMostSeconds, text);
  std::printf("    %s\n", message.c_str());
}

/// A failure between steps, in which the device's collectives take no part, can be forgotten.
void check_recovery() {
  FaultyModel model;
  bool failed = false;
  try {
    model.ranks.run([](int rank, RankState&) {
      if (rank == 1) throw Error(ErrorCode::kOutOfMemory, "no room for a cache");
    });
  } catch (const Error& error) {
    failed = error.code() == ErrorCode::kOutOfMemory;
  }
  model.step(8);
  expect(failed, "ranks go on after a failure that none of them waited for");
}

void check_load() {
  LoadOptions options;
  options.device = Device::kCuda;
  options.rows = RowFormat::kFp8;
  options.dummy = true;
  options.tp = static_cast<int>(devices.size());
  options.devices = devices;
  options.max_rows = 4;
  std::string message = "it fits";
  bool coded = false;
  const auto start = std::chrono::steady_clock::now();
  try {
    Model::load("models/pro", options, {});
  } catch (const Error& error) {
    message = error.what();
    coded = error.code() == ErrorCode::kOutOfMemory;
  }
  const std::chrono::duration<double> wall = std::chrono::steady_clock::now() - start;
  expect(coded && wall.count() < kMostSeconds, "weights that cannot fit are refused before they are loaded");
  std::printf("    %.2f s: %s\n", wall.count(), message.c_str());
}

}  // namespace

int main(int argc, char** argv) {
  start("failure", argc, argv);
  devices = devices_of(argc, argv, devices);
  try {
    check_recovery();
    check_load();
    for (const int tokens : {40, 1}) {
      check_fault(Fault::kOutOfMemory, tokens, ErrorCode::kOutOfMemory, "device memory ends in the middle of a step");
      check_fault(Fault::kLaterOutOfMemory, tokens, ErrorCode::kOutOfMemory, "device memory ends when the step is queued");
    }
    // The last: ranks on the same device lose it together, and for good.
    check_fault(Fault::kDeviceLost, 40, ErrorCode::kDeviceLost, "a device is lost");
  } catch (const Error& error) {
    expect(false, error.what());
  }
  return finish("failure");
}
