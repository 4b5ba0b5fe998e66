// SPDX-License-Identifier: MIT
#include "rope.h"

#include <algorithm>
#include <cmath>

namespace twelvex::cpu {

namespace {

/// Pair number at which a wave turns `turns` times within the original context.
double correction(double turns, double theta, int context) {
  constexpr double kTwoPi = 6.283185307179586;
  return kRopeDim * std::log(context / (turns * kTwoPi)) / (2 * std::log(theta));
}

}  // namespace

Rope::Rope(const ModelConfig& config) {
  const double theta = config.compress_rope_theta;
  const double low = std::max(std::floor(correction(config.yarn_beta_fast, theta, config.yarn_original_context)), 0.0);
  const double high = std::min(std::ceil(correction(config.yarn_beta_slow, theta, config.yarn_original_context)), kRopeDim - 1.0);
  for (int i = 0; i < kRopePairs; ++i) {
    const double exponent = 2.0 * i / kRopeDim;
    plain_[i] = static_cast<float>(std::pow(config.rope_theta, -exponent));
    const double base = std::pow(theta, -exponent);
    const double ramp = std::clamp((i - low) / std::max(high - low, 0.001), 0.0, 1.0);
    yarn_[i] = static_cast<float>(base * (1 - ramp) + base / config.yarn_factor * ramp);
  }
}

Rotation Rope::at(int position, bool compressed) const {
  const float* frequency = compressed ? yarn_ : plain_;
  Rotation rotation;
  for (int i = 0; i < kRopePairs; ++i) {
    const float angle = static_cast<float>(position) * frequency[i];
    rotation.cosine[i] = std::cos(angle);
    rotation.sine[i] = std::sin(angle);
  }
  return rotation;
}

void rotate(const Rotation& rotation, float* last_64) {
  for (int i = 0; i < kRopePairs; ++i) {
    const float a = last_64[2 * i], b = last_64[2 * i + 1];
    last_64[2 * i] = a * rotation.cosine[i] - b * rotation.sine[i];
    last_64[2 * i + 1] = b * rotation.cosine[i] + a * rotation.sine[i];
  }
}

void rotate_back(const Rotation& rotation, float* last_64) {
  for (int i = 0; i < kRopePairs; ++i) {
    const float a = last_64[2 * i], b = last_64[2 * i + 1];
    last_64[2 * i] = a * rotation.cosine[i] + b * rotation.sine[i];
    last_64[2 * i + 1] = b * rotation.cosine[i] - a * rotation.sine[i];
  }
}

}  // namespace twelvex::cpu
