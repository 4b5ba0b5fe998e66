// SPDX-License-Identifier: MIT
// The module: NativeAddon of engine/native.ts.
#include <napi.h>
#include <string>

#include "convert.h"
#include "cpu/kernels.h"
#include "error_value.h"
#include "model_wrap.h"

namespace twelvex {
namespace {

/// inspect(path) → CheckpointInfo
Napi::Value inspect(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  try {
    if (!info[0].IsString()) throw Error(ErrorCode::kBadOptions, "the checkpoint's path must be a string");
    return checkpoint_info(env, inspect_checkpoint(info[0].As<Napi::String>().Utf8Value()));
  } catch (const Napi::Error&) {
    throw;
  } catch (...) {
    throw error_value(env, to_error(std::current_exception()));
  }
}

/// buildInfo() → version, CUDA architectures compiled in, and the CPU instruction set that will be used here
Napi::Value build_info(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Napi::Object object = Napi::Object::New(env);
  object.Set("version", TWELVEX_VERSION);
  object.Set("cuda", static_cast<bool>(TWELVEX_HAS_CUDA));
  Napi::Array archs = Napi::Array::New(env);
  if (TWELVEX_HAS_CUDA) {
    std::string rest = TWELVEX_CUDA_ARCHS;
    for (size_t end = 0; !rest.empty(); rest.erase(0, end == std::string::npos ? end : end + 1)) {
      end = rest.find(',');
      archs.Set(archs.Length(), "sm_" + rest.substr(0, end));
    }
  }
  object.Set("cudaArchs", archs);
  object.Set("cpu", cpu::best_kernels().name);
  return object;
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  ModelWrap::define(env);
  exports.Set("inspect", Napi::Function::New(env, inspect, "inspect"));
  exports.Set("buildInfo", Napi::Function::New(env, build_info, "buildInfo"));
  exports.Set("loadModel", Napi::Function::New(env, ModelWrap::load, "loadModel"));
  return exports;
}

}  // namespace

NODE_API_MODULE(twelvex, init)

}  // namespace twelvex
