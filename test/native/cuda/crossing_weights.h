// SPDX-License-Identifier: MIT
// Random weights of an mHC crossing, on the host and on the device.
#pragma once

#include "hyper/hyper.h"
#include "support.h"

namespace twelvex::test {

/// And room for its partial sums.
struct CrossingWeights {
  const int dim;
  const std::vector<float> fn, base, scale, norm;
  const DeviceArray<float> d_fn, d_base, d_scale, d_norm, partial;

  explicit CrossingWeights(int d)
      : dim(d),
        fn(random_f32(24 * 4 * static_cast<size_t>(d), 1.0f / std::sqrt(4.0f * d))),
        base(random_f32(24, 0.5f)),
        scale({0.7f, 0.5f, 0.9f}),
        norm(random_f32(d, 0.2f)),
        d_fn(fn),
        d_base(base),
        d_scale(scale),
        d_norm(norm),
        partial(cuda::hyper_scratch_floats(d)) {
    const DeviceArray<float> raw(fn);
    cuda::run_prepare_hyper(raw, d_fn, d, nullptr);
    sync("prepare");
  }

  cuda::HyperParams params(int tokens) const {
    cuda::HyperParams p;
    p.tokens = tokens;
    p.dim = dim;
    p.clusters = cuda::device_info().clusters;
    p.fn = d_fn;
    p.base = d_base;
    p.scale = d_scale;
    p.norm = d_norm;
    p.partial = partial;
    return p;
  }
};

}  // namespace twelvex::test
