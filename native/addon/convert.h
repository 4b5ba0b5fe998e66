// SPDX-License-Identifier: MIT
// JavaScript values to plain structs and back: each array is copied once each way. Mirrors engine/native.ts.
#pragma once

#include <napi.h>

#include "runtime/inspect.h"
#include "runtime/model.h"

namespace twelvex {

/// @throws Error kInvalidPlan naming the field that is absent or not of its typed array type.
StepInput read_step_input(const Napi::Value& plan);
Napi::Object step_result(Napi::Env env, const StepOutput& output);

/// @throws Error kBadOptions naming the option.
LoadOptions read_load_options(const Napi::Value& options);
CachePlan read_cache_plan(const Napi::Value& plan);

Napi::Object checkpoint_info(Napi::Env env, const CheckpointInfo& info);
Napi::Array memory_list(Napi::Env env, const std::vector<Memory>& memory);

}  // namespace twelvex
