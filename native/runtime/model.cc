// SPDX-License-Identifier: MIT
#include "model.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <mutex>
#include <utility>

#include "checkpoint.h"
#include "cores.h"
#include "dummy.h"
#include "fingerprint.h"
#include "inventory.h"
#include "warm_up.h"
#include "weights.h"

namespace twelvex {
namespace {

constexpr int kMostRanks = 16;
constexpr int kMostRows = 4096;
constexpr int kMostStepTokens = 1 << 18;

void check_option(const char* name, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return;
  throw Error(ErrorCode::kBadOptions, std::string(name) + " is " + std::to_string(value) + ", expected " + std::to_string(low) +
                                          " to " + std::to_string(high));
}

void check_options(const LoadOptions& options, const ModelConfig& config) {
  check_option("tp", options.tp, 1, kMostRanks);
  check_option("threads", options.threads, 0, 4096);
  check_option("layers", options.layers, 0, config.num_layers);
  check_option("mtp", options.mtp, 0, kMaxMtp);
  check_option("stepTokens", options.step_tokens, 1, kMostStepTokens);
  check_option("maxRows", options.max_rows, 1, kMostRows);
  check_option("logitSlice", options.logit_slice, 0, kMostStepTokens);
  check_option("contextTokens", options.context_tokens, 1, config.max_context);
  if (options.mtp > 0 && (config.num_mtp_layers < 1 || config.dspark)) {
    const char* reason = config.dspark ? "the checkpoint drafts with DSpark, which is not served"
                                       : "the checkpoint has no MTP block";
    throw Error(ErrorCode::kBadOptions, "mtp is " + std::to_string(options.mtp) + " but " + reason + "; use 0");
  }
  if (!options.devices.empty() && options.devices.size() != static_cast<size_t>(options.tp)) {
    throw Error(ErrorCode::kBadOptions, "devices lists " + std::to_string(options.devices.size()) + " devices, tp is " +
                                            std::to_string(options.tp) + "; name one for each rank");
  }
}

Limits make_limits(const LoadOptions& options) {
  return {.step_tokens = options.step_tokens, .rows = options.max_rows, .context_tokens = options.context_tokens,
          .mtp = options.mtp, .logit_slice = options.logit_slice};
}

size_t checkpoint_bytes(ModelConfig config, bool with_mtp) {
  if (!with_mtp) config.num_mtp_layers = 0;
  size_t bytes = 0;
  for (const TensorSpec& tensor : make_inventory(config)) bytes += tensor.bytes();
  return bytes;
}

/// At least what the CPU backend makes of the weights: it keeps quantised ones as bfloat16.
size_t host_weight_bytes(ModelConfig config, bool with_mtp) {
  if (!with_mtp) config.num_mtp_layers = 0;
  int64_t parameters = 0;
  for (const TensorSpec& tensor : make_inventory(config)) parameters += tensor_parameters(tensor.dtype, tensor.shape);
  return static_cast<size_t>(parameters) * sizeof(uint16_t);
}

/// Before anything is loaded: memory that the system promises and does not have would end the process, not the load.
void check_host_room(const ModelConfig& config, const LoadOptions& options) {
  if (options.device != Device::kCpu || options.host_bytes == 0) return;
  const size_t needed = host_weight_bytes(config, options.mtp > 0);
  if (needed <= options.host_bytes) return;
  throw Error(ErrorCode::kOutOfMemory,
              "the weights need " + std::to_string(needed >> 20) + " MiB as the CPU backend keeps them, in bfloat16; there are " +
                  std::to_string(options.host_bytes >> 20) +
                  " MiB of host memory; use a GPU or a smaller model, or try fewer layers with dummy weights");
}

/// Joins the progress of all ranks into one fraction that never falls.
class JoinedProgress {
 public:
  JoinedProgress(int ranks, const Model::Progress& report) : report_(report), fraction_(static_cast<size_t>(ranks), 0) {}

  LoadProgress of(int rank) {
    if (!report_) return {};
    return [this, rank](double fraction, const std::string& detail) {
      std::lock_guard lock(mutex_);
      fraction_[static_cast<size_t>(rank)] = fraction;
      double sum = 0;
      for (double part : fraction_) sum += part;
      last_ = std::max(last_, sum / static_cast<double>(fraction_.size()));
      report_(last_, detail);
    };
  }

 private:
  std::mutex mutex_;
  const Model::Progress& report_;
  std::vector<double> fraction_;
  double last_ = 0;
};

}  // namespace

Model::Model(ModelInfo info, const LoadOptions& options)
    : info_(std::move(info)),
      options_(options),
      limits_(make_limits(options)),
      outputs_(static_cast<size_t>(options.tp)),
      ranks_(options.tp) {}

std::unique_ptr<Model> Model::load(const std::string& directory, const LoadOptions& options, const Progress& progress) {
  const ModelConfig whole = read_config(directory);
  check_options(options, whole);
  ModelInfo info;
  info.config = whole.first_layers(options.layers);
  info.mtp = options.mtp;
  const size_t stream_element_bytes = options.device == Device::kCpu ? sizeof(float) : sizeof(uint16_t);
  info.cache = CacheLayout::make(info.config, options.rows, options.mtp > 0, stream_element_bytes);
  check_host_room(info.config, options);
  info.weight_bytes = checkpoint_bytes(info.config, options.mtp > 0);

  std::unique_ptr<TensorSource> source;
  if (options.dummy) {
    source = make_dummy_source(info.config, options.dummy_seed);
    info.fingerprint = fingerprint_dummy(directory, options.dummy_seed, options.layers);
  } else {
    std::unique_ptr<Checkpoint> checkpoint = Checkpoint::open(directory, whole);
    info.fingerprint = fingerprint_checkpoint(directory, checkpoint->files(), options.layers);
    source = std::move(checkpoint);
  }
  std::unique_ptr<Model> model(new Model(std::move(info), options));
  model->load_ranks(*source, progress);
  return model;
}

int Model::device_of(int rank) const {
  return options_.devices.empty() ? rank : options_.devices[static_cast<size_t>(rank)];
}

/// Ranks share the weights about evenly; what is replicated makes them need a little more than this.
void Model::check_room() {
  const std::vector<Memory> all = memory();
  std::map<int, int> ranks_on;
  for (int rank = 0; rank < options_.tp; ++rank) ++ranks_on[device_of(rank)];
  for (int rank = 0; rank < options_.tp; ++rank) {
    const Memory& memory = all[static_cast<size_t>(rank)];
    const int sharing = ranks_on[device_of(rank)];
    const size_t needed = info_.weight_bytes / static_cast<size_t>(options_.tp) * static_cast<size_t>(sharing);
    if (needed <= memory.free_bytes) continue;
    throw Error(ErrorCode::kOutOfMemory,
                "the weights of " + std::to_string(sharing) + " of " + std::to_string(options_.tp) + " ranks need " +
                    std::to_string(needed >> 20) + " MiB on device " + std::to_string(device_of(rank)) + ", " +
                    std::to_string(memory.free_bytes >> 20) + " of " + std::to_string(memory.total_bytes >> 20) +
                    " MiB are free; spread them over more devices");
  }
}

void Model::load_ranks(const TensorSource& source, const Progress& progress) {
  JoinedProgress joined(options_.tp, progress);
  const int cores = options_.threads > 0 ? options_.threads : usable_cores();
  ranks_.run([&](int rank, RankState& state) {
    const RankShape shape{.rank = rank, .ranks = options_.tp};
    BackendOptions backend{.config = info_.config, .shape = shape, .group = ranks_.group(), .numerics = options_.numerics,
                           .rows = options_.rows, .with_mtp = options_.mtp > 0};
    backend.threads = std::max(1, cores / options_.tp);
    backend.device = device_of(rank);
    state.ops = options_.device == Device::kCuda ? make_cuda_backend(backend) : make_cpu_backend(backend);
  });
  if (options_.device == Device::kCuda) check_room();
  ranks_.run([&](int rank, RankState& state) {
    const RankShape shape{.rank = rank, .ranks = options_.tp};
    const WeightsRequest request{.config = info_.config, .source = source, .shape = shape, .with_mtp = options_.mtp > 0,
                                 .progress = joined.of(rank)};
    state.weights = load_weights(request, *state.ops);
    state.activations = state.ops->reserve(limits_);
  });
}

void Model::check_usable() const {
  if (lost_) throw Error(lost_->code(), std::string("the model failed earlier and must be loaded again: ") + lost_->what());
}

void Model::run(const RankSet::Job& job) {
  try {
    ranks_.run(job);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kInvalidPlan) lost_ = error;
    throw;
  }
}

std::vector<Memory> Model::memory() {
  check_usable();
  std::vector<Memory> result(static_cast<size_t>(ranks_.size()));
  run([&](int rank, RankState& state) { result[static_cast<size_t>(rank)] = state.ops->memory(); });
  return result;
}

void Model::allocate_cache(const CachePlan& plan) {
  check_usable();
  if (validator_) throw Error(ErrorCode::kBadOptions, "the cache is already allocated");
  check_option("slots", plan.slots, 1, INT32_MAX);
  check_option("windowBlocks", plan.window_blocks, 1, INT32_MAX);
  check_option("contextBlocks", plan.context_blocks, 1, INT32_MAX);
  try {
    ranks_.run([&](int, RankState& state) { state.ops->allocate_cache(info_.cache, plan); });
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kOutOfMemory) lost_ = error;
    throw;
  }
  validator_ = std::make_unique<PlanValidator>(PlanBounds{limits_, plan, info_.config.vocab_size});
  plan_ = plan;
}

void Model::warm_up() {
  check_usable();
  std::vector<DecodeShape> shapes;
  run([&](int rank, RankState& state) {
    if (rank == 0) shapes = state.ops->decode_shapes();
  });
  for (const DecodeShape& shape : shapes) {
    if (const std::optional<StepInput> input = make_decode_step(shape, plan_, info_.mtp)) step(*input);
  }
}

StepOutput Model::step(const StepInput& input) {
  const auto start = std::chrono::steady_clock::now();
  check_usable();
  if (!validator_) throw Error(ErrorCode::kInvalidPlan, "a step before the cache was allocated");
  validator_->check(input);
  StepOutput output;
  run([&](int rank, RankState& state) {
    const ForwardContext context{.ops = *state.ops, .config = info_.config, .weights = state.weights,
                                 .activations = state.activations, .mtp = info_.mtp};
    forward_step(context, input, rank == 0 ? output : outputs_[static_cast<size_t>(rank)]);
  });
  const auto wall = std::chrono::steady_clock::now() - start;
  output.micros = std::chrono::duration_cast<std::chrono::microseconds>(wall).count();
  return output;
}

}  // namespace twelvex
