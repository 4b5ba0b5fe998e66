// SPDX-License-Identifier: MIT
#include "model_wrap.h"

#include <utility>

#include "convert.h"
#include "error_value.h"

namespace twelvex {
namespace {

/// Constructor of ModelWrap in this environment (the main thread and every worker have their own).
struct AddonData {
  Napi::FunctionReference model_class;
};

Napi::Value rejected(Napi::Env env, std::exception_ptr exception) {
  auto deferred = Napi::Promise::Deferred::New(env);
  deferred.Reject(error_value(env, to_error(exception)).Value());
  return deferred.Promise();
}

class ProgressMessage : public Message {
 public:
  ProgressMessage(Napi::FunctionReference* callback, double fraction, std::string detail)
      : callback_(callback), fraction_(fraction), detail_(std::move(detail)) {}

  void deliver(Napi::Env env) override {
    try {
      callback_->Call({Napi::Number::New(env, fraction_), Napi::String::New(env, detail_)});
    } catch (const Napi::Error& error) {
      napi_fatal_exception(env, error.Value());  // as if thrown from a callback of the event loop
    }
  }

 private:
  Napi::FunctionReference* callback_;  // of the load job, which is delivered behind all its progress
  double fraction_;
  std::string detail_;
};

class LoadJob : public Job {
 public:
  LoadJob(Napi::Env env, std::string directory, LoadOptions options)
      : Job(env), directory_(std::move(directory)), options_(std::move(options)), engine_(std::make_shared<EngineThread>(env)) {
    // Deleted undelivered only while the environment goes away: then the reference must not be touched.
    callback_.SuppressDestruct();
  }

  static Napi::Promise start(Napi::Env env, std::unique_ptr<LoadJob> job, const Napi::Function& on_progress) {
    job->callback_.Reset(on_progress, 1);
    const std::shared_ptr<EngineThread> engine = job->engine_;
    return engine->post(std::move(job));
  }

 protected:
  void run(std::unique_ptr<Model>& model) override {
    model = Model::load(directory_, options_, [this](double fraction, const std::string& detail) {
      if (engine_->stopping()) throw Error(ErrorCode::kClosed, "the process ended while the model was loading");
      engine_->send(std::make_unique<ProgressMessage>(&callback_, fraction, detail));
    });
    info_ = model->info();
    memory_ = model->memory();
  }

  void finish(Napi::Env) override { callback_.Reset(); }

  Napi::Value result(Napi::Env env) override {
    const bool host = options_.device == Device::kCpu;
    LoadedModel loaded{.engine = engine_, .info = std::move(info_), .memory = std::move(memory_)};
    loaded.host_bytes = host ? static_cast<int64_t>(loaded.info.weight_bytes) : 0;
    loaded.host_ranks = host ? options_.tp : 0;
    return env.GetInstanceData<AddonData>()->model_class.New({Napi::External<LoadedModel>::New(env, &loaded)});
  }

 private:
  const std::string directory_;
  const LoadOptions options_;
  const std::shared_ptr<EngineThread> engine_;
  Napi::FunctionReference callback_;
  ModelInfo info_;
  std::vector<Memory> memory_;
};

}  // namespace

/// A job of a model that exists. Its JavaScript object is referenced meanwhile, so `owner_` outlives the job.
class ModelJob : public Job {
 public:
  ModelJob(Napi::Env env, ModelWrap* owner) : Job(env), owner_(owner) {}

 protected:
  static Model& existing(std::unique_ptr<Model>& model) {
    if (!model) throw Error(ErrorCode::kClosed, "the model is closed");
    return *model;
  }
  void finish(Napi::Env env) override { owner_->job_done(env); }
  void set_memory(std::vector<Memory> memory) { owner_->loaded_.memory = std::move(memory); }
  const LoadedModel& loaded() const { return owner_->loaded_; }
  void account(Napi::Env env, int64_t bytes) { owner_->account(env, bytes); }

 private:
  ModelWrap* owner_;
};

namespace {

class StepJob : public ModelJob {
 public:
  StepJob(Napi::Env env, ModelWrap* owner, StepInput input) : ModelJob(env, owner), input_(std::move(input)) {}

 protected:
  void run(std::unique_ptr<Model>& model) override { output_ = existing(model).step(input_); }
  Napi::Value result(Napi::Env env) override { return step_result(env, output_); }

 private:
  const StepInput input_;
  StepOutput output_;
};

class AllocateJob : public ModelJob {
 public:
  AllocateJob(Napi::Env env, ModelWrap* owner, CachePlan plan) : ModelJob(env, owner), plan_(plan) {}

 protected:
  void run(std::unique_ptr<Model>& model) override {
    existing(model).allocate_cache(plan_);
    memory_ = model->memory();
  }

  Napi::Value result(Napi::Env env) override {
    set_memory(std::move(memory_));
    const CacheLayout& cache = loaded().info.cache;
    const size_t bytes = static_cast<size_t>(plan_.slots) * cache.slot_bytes +
                         static_cast<size_t>(plan_.window_blocks) * cache.window_block_bytes +
                         static_cast<size_t>(plan_.context_blocks) * cache.context_block_bytes;
    account(env, static_cast<int64_t>(bytes) * loaded().host_ranks);
    return env.Undefined();
  }

 private:
  const CachePlan plan_;
  std::vector<Memory> memory_;
};

class WarmUpJob : public ModelJob {
 public:
  using ModelJob::ModelJob;

 protected:
  void run(std::unique_ptr<Model>& model) override { existing(model).warm_up(); }
  Napi::Value result(Napi::Env env) override { return env.Undefined(); }
};

class CloseJob : public ModelJob {
 public:
  using ModelJob::ModelJob;

 protected:
  void run(std::unique_ptr<Model>& model) override { model.reset(); }
  Napi::Value result(Napi::Env env) override { return env.Undefined(); }
};

}  // namespace

Napi::Function ModelWrap::define(Napi::Env env) {
  Napi::Function constructor = DefineClass(env, "NativeModel",
                                           {InstanceMethod<&ModelWrap::memory>("memory"),
                                            InstanceMethod<&ModelWrap::allocate_cache>("allocateCache"),
                                            InstanceMethod<&ModelWrap::warm_up>("warmUp"),
                                            InstanceMethod<&ModelWrap::step>("step"),
                                            InstanceMethod<&ModelWrap::close>("close")});
  auto data = std::make_unique<AddonData>();
  data->model_class = Napi::Persistent(constructor);
  env.SetInstanceData(data.release());
  return constructor;
}

Napi::Value ModelWrap::load(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  try {
    if (!info[0].IsString()) throw Error(ErrorCode::kBadOptions, "the checkpoint's path must be a string");
    if (!info[2].IsFunction()) throw Error(ErrorCode::kBadOptions, "onProgress must be a function");
    auto job = std::make_unique<LoadJob>(env, info[0].As<Napi::String>().Utf8Value(), read_load_options(info[1]));
    return LoadJob::start(env, std::move(job), info[2].As<Napi::Function>());
  } catch (const Napi::Error&) {
    throw;
  } catch (...) {
    return rejected(env, std::current_exception());
  }
}

ModelWrap::ModelWrap(const Napi::CallbackInfo& info) : Napi::ObjectWrap<ModelWrap>(info) {
  const Napi::Env env = info.Env();
  if (!info[0].IsExternal()) throw Napi::TypeError::New(env, "a NativeModel comes from loadModel");
  loaded_ = std::move(*info[0].As<Napi::External<LoadedModel>>().Data());
  account(env, loaded_.host_bytes);
  Napi::Object self = info.This().As<Napi::Object>();
  const auto constant = [&](const char* name, Napi::Value value) {
    self.DefineProperty(Napi::PropertyDescriptor::Value(name, value, napi_enumerable));
  };
  const auto number = [&](auto value) { return Napi::Number::New(env, static_cast<double>(value)); };
  constant("vocabSize", number(loaded_.info.config.vocab_size));
  constant("mtp", number(loaded_.info.mtp));
  constant("windowBlockBytes", number(loaded_.info.cache.window_block_bytes));
  constant("contextBlockBytes", number(loaded_.info.cache.context_block_bytes));
  constant("slotBytes", number(loaded_.info.cache.slot_bytes));
  constant("weightBytes", number(loaded_.info.weight_bytes));
  constant("fingerprint", Napi::String::New(env, loaded_.info.fingerprint));
}

void ModelWrap::Finalize(Napi::BasicEnv env) {
  if (loaded_.engine) loaded_.engine->stop();
  if (accounted_bytes_ != 0) Napi::MemoryManagement::AdjustExternalMemory(env, -accounted_bytes_);
}

void ModelWrap::account(Napi::Env env, int64_t bytes) {
  accounted_bytes_ += bytes;
  Napi::MemoryManagement::AdjustExternalMemory(env, bytes);
}

void ModelWrap::job_done(Napi::Env env) {
  Unref();
  if (!closing_ || !loaded_.engine->idle()) return;
  loaded_.engine->stop();
  account(env, -accounted_bytes_);
}

void ModelWrap::check_open() const {
  if (closing_) throw Error(ErrorCode::kClosed, "the model is closed");
}

template <typename Make>
Napi::Value ModelWrap::post(Napi::Env env, Make make) {
  try {
    std::unique_ptr<Job> job = make();
    Ref();
    return loaded_.engine->post(std::move(job));
  } catch (const Napi::Error&) {
    throw;
  } catch (...) {
    return rejected(env, std::current_exception());
  }
}

Napi::Value ModelWrap::memory(const Napi::CallbackInfo& info) { return memory_list(info.Env(), loaded_.memory); }

Napi::Value ModelWrap::allocate_cache(const Napi::CallbackInfo& info) {
  return post(info.Env(), [&] {
    check_open();
    return std::make_unique<AllocateJob>(info.Env(), this, read_cache_plan(info[0]));
  });
}

Napi::Value ModelWrap::warm_up(const Napi::CallbackInfo& info) {
  return post(info.Env(), [&] {
    check_open();
    return std::make_unique<WarmUpJob>(info.Env(), this);
  });
}

Napi::Value ModelWrap::step(const Napi::CallbackInfo& info) {
  return post(info.Env(), [&] {
    check_open();
    return std::make_unique<StepJob>(info.Env(), this, read_step_input(info[0]));
  });
}

Napi::Value ModelWrap::close(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (loaded_.engine->stopping()) {
    auto deferred = Napi::Promise::Deferred::New(env);
    deferred.Resolve(env.Undefined());
    return deferred.Promise();
  }
  closing_ = true;
  return post(env, [&] { return std::make_unique<CloseJob>(env, this); });
}

}  // namespace twelvex
