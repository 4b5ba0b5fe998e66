// SPDX-License-Identifier: MIT
// What one layer of each kind adds to a decode step as it is served.
#pragma once

#include <cstdio>
#include <string>

#include "bench_engine.h"

namespace twelvex::bench {

/// Cuts the model behind one layer, two and so on, until a layer of every kind was the last, and times the layers of these cuts
/// in turn: from the first one's begin to the head's, on the device (TimedOps::layers_us), `streams` streams of `context` tokens.
/// Prints what the last layer of each cut adds to the cut before, so that how layers begin and end is in no figure, and its bytes
/// as a share of `copy`, bytes per second. `options.layers` is not used. `json`, unless null, gets a line for each of those layers,
/// which begins with `labels`.
/// @throws Error kBadOptions where the model has one layer, or the streams do not fit
void run_layer_times(EngineOptions options, int streams, int context, double copy, std::FILE* json, const std::string& labels);

}  // namespace twelvex::bench
