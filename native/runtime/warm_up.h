// SPDX-License-Identifier: MIT
// Decode steps over rows that nobody asked for, so that what a backend prepares at first use is there before the first request.
#pragma once

#include <optional>

#include "ops.h"

namespace twelvex {

/// A step of a shape's rows, each with one token at the shape's position, in slots 0 .. rows - 1. Every row writes blocks of its
/// own; what lies before them is shared. Empty when the cache has too few slots or blocks: then no real step has that shape.
std::optional<StepInput> make_decode_step(const DecodeShape& shape, const CachePlan& cache, int mtp);

}  // namespace twelvex
