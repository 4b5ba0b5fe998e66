// SPDX-License-Identifier: MIT
// A loaded model: ranks, their weights and caches, and the step. No requests, no device code.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "backend.h"
#include "error.h"
#include "rank.h"
#include "tensor_source.h"
#include "validate.h"

namespace twelvex {

enum class Device : uint8_t { kCpu, kCuda };

struct LoadOptions {
  Device device = Device::kCpu;
  std::vector<int> devices = {};  // CUDA device of every rank; empty: 0, 1, ...
  int tp = 1;
  int threads = 0;           // CPU threads of all ranks together; 0: usable_cores()
  Numerics numerics = Numerics::kExact;
  RowFormat rows = RowFormat::kF32;
  int mtp = 0;
  bool dummy = false;        // weights from `dummy_seed`
  uint64_t dummy_seed = 0;
  int layers = 0;            // 0: all, else the first layers only
  int step_tokens = 2048;
  int max_rows = 64;
  int context_tokens = 8192;
  int logit_slice = 0;       // Limits::logit_slice
  size_t host_bytes = 0;     // memory of the machine, which weights of the CPU backend have to fit into; 0: not known
};

struct ModelInfo {
  ModelConfig config;
  int mtp = 0;
  CacheLayout cache;
  size_t weight_bytes = 0;   // all ranks, as the checkpoint stores them
  std::string fingerprint;   // 16 hex digits: configuration, tensor directory, build
};

/// Used by one thread at a time. The destructor waits for nothing but its ranks to end.
class Model {
 public:
  /// Called from the ranks' threads, one at a time, `fraction` never falling. May throw to abandon the load.
  using Progress = std::function<void(double fraction, const std::string& detail)>;

  /// @throws Error kBadOptions, kBadConfig, kBadCheckpoint, kUnsupported, kOutOfMemory, kDeviceLost, or what `progress` throws.
  static std::unique_ptr<Model> load(const std::string& directory, const LoadOptions& options, const Progress& progress);

  const ModelInfo& info() const { return info_; }

  /// Memory of every rank's device now.
  std::vector<Memory> memory();

  /// Once, before the first step. @throws Error kBadOptions, kOutOfMemory (the model stays usable without a cache).
  void allocate_cache(const CachePlan& plan);

  /// Runs a decode step of every shape that the backends prepare at first use, so that no later step has to. Between the
  /// allocation of the cache and the first step that counts: the cache holds nothing of value behind it.
  void warm_up();

  /// @throws Error kInvalidPlan (nothing ran, the model stays usable); any other error makes every later step fail with it.
  StepOutput step(const StepInput& input);

 private:
  Model(ModelInfo info, const LoadOptions& options);
  void load_ranks(const TensorSource& source, const Progress& progress);
  /// @throws Error kOutOfMemory when the weights alone are more than a device has free.
  void check_room();
  int device_of(int rank) const;
  void check_usable() const;
  /// Runs `job` on the ranks; a failure poisons the model.
  void run(const RankSet::Job& job);

  ModelInfo info_;
  LoadOptions options_;
  Limits limits_;
  std::optional<Error> lost_;  // why the model is unusable
  CachePlan plan_;
  std::unique_ptr<PlanValidator> validator_;  // there once the cache is
  std::vector<StepOutput> outputs_;           // of ranks other than the first, kept for their capacity
  RankSet ranks_;
};

}  // namespace twelvex
