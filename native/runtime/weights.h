// SPDX-License-Identifier: MIT
// From checkpoint tensors to one rank's ModelWeights.
#pragma once

#include <functional>
#include <string>

#include "model_config.h"
#include "ops.h"
#include "tensor_source.h"

namespace twelvex {

/// `fraction` in [0, 1] of the bytes of this rank; `detail` names what is being loaded ("layer 12 of 43"). Called from the
/// thread that loads, at most about ten times a second, and once with fraction 1.
using LoadProgress = std::function<void(double fraction, const std::string& detail)>;

struct WeightsRequest {
  const ModelConfig& config;
  const TensorSource& source;
  RankShape shape;
  bool with_mtp = false;  // the MTP block too; needs config.num_mtp_layers > 0
  LoadProgress progress;  // may be empty
};

/// Hands every tensor of the rank to `ops` (linear, vector, matrix_f32, hyper_matrix, experts, token_table), cut by the rule of
/// shard.h. Views passed to `ops` are valid during that call only and may be unaligned.
/// @throws Error kBadCheckpoint naming the tensor (expert ids out of range, tensor absent), and whatever `ops` throws.
ModelWeights load_weights(const WeightsRequest& request, Ops& ops);

}  // namespace twelvex
