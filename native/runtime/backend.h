// SPDX-License-Identifier: MIT
// How the runtime obtains a backend. Each backend library defines its own factory.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "ops.h"
#include "rank_group.h"

namespace twelvex {

/// exact: no activation quantisation. served: FP8 activations per 1 x 128, as the checkpoint was trained to run, but for the
/// hidden state that attention projects (native/README.md).
enum class Numerics : uint8_t { kExact, kServed };

struct BackendOptions {
  ModelConfig config = {};
  RankShape shape = {};
  std::shared_ptr<RankGroup> group = {};
  Numerics numerics = Numerics::kExact;
  RowFormat rows = RowFormat::kF32;
  bool with_mtp = false;
  int threads = 1;  // of this rank (CPU)
  int device = 0;   // of this rank (CUDA)
};

/// @throws Error kUnsupported when the machine cannot run it.
std::unique_ptr<Ops> make_cpu_backend(const BackendOptions& options);

/// Defined by twelvex_cuda; in builds without CUDA it throws kUnsupported naming how to build with it.
std::unique_ptr<Ops> make_cuda_backend(const BackendOptions& options);

}  // namespace twelvex
