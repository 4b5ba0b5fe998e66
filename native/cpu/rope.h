// SPDX-License-Identifier: MIT
// Rotary embedding of the last 64 dims of a vector, interleaved pairs (spec/checkpoint.md, "Rotary details").
#pragma once

#include "runtime/model_config.h"

namespace twelvex::cpu {

inline constexpr int kRopePairs = kRopeDim / 2;

/// cos and sin of one position's 32 angles.
struct Rotation {
  float cosine[kRopePairs];
  float sine[kRopePairs];
};

class Rope {
 public:
  explicit Rope(const ModelConfig& config);

  /// `compressed`: csa and hca layers (YaRN); otherwise sliding-window layers. Angles are float32 products, as in training.
  Rotation at(int position, bool compressed) const;

 private:
  float plain_[kRopePairs];
  float yarn_[kRopePairs];
};

void rotate(const Rotation& rotation, float* last_64);
void rotate_back(const Rotation& rotation, float* last_64);

}  // namespace twelvex::cpu
