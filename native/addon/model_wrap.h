// SPDX-License-Identifier: MIT
// NativeModel of engine/native.ts. Collected while idle, it stops its engine thread; while a job is under way the object
// is kept alive, and so is the event loop.
#pragma once

#include <memory>
#include <napi.h>
#include <string>
#include <vector>

#include "engine_thread.h"

namespace twelvex {

/// What a load hands over.
struct LoadedModel {
  std::shared_ptr<EngineThread> engine;
  ModelInfo info;
  std::vector<Memory> memory;
  int64_t host_bytes = 0;  // of the weights, when they are in host memory
  int host_ranks = 0;      // ranks whose cache will be in host memory
};

class ModelWrap : public Napi::ObjectWrap<ModelWrap> {
 public:
  /// loadModel(path, options, onProgress) → Promise<NativeModel>
  static Napi::Value load(const Napi::CallbackInfo& info);
  static Napi::Function define(Napi::Env env);

  explicit ModelWrap(const Napi::CallbackInfo& info);
  void Finalize(Napi::BasicEnv env) override;

 private:
  friend class ModelJob;

  Napi::Value memory(const Napi::CallbackInfo& info);
  Napi::Value allocate_cache(const Napi::CallbackInfo& info);
  Napi::Value warm_up(const Napi::CallbackInfo& info);
  Napi::Value step(const Napi::CallbackInfo& info);
  Napi::Value close(const Napi::CallbackInfo& info);

  /// Runs `make`, which reads the arguments, and posts its job; what it throws rejects the promise.
  template <typename Make>
  Napi::Value post(Napi::Env env, Make make);
  void check_open() const;
  void job_done(Napi::Env env);
  void account(Napi::Env env, int64_t bytes);

  LoadedModel loaded_;
  int64_t accounted_bytes_ = 0;
  bool closing_ = false;
};

}  // namespace twelvex
