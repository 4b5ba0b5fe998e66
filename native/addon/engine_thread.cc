// SPDX-License-Identifier: MIT
#include "engine_thread.h"

#include <utility>

#include "error_value.h"

namespace twelvex {

void Job::execute(std::unique_ptr<Model>& model) noexcept {
  try {
    run(model);
  } catch (...) {
    error_ = to_error(std::current_exception());
  }
}

void Job::deliver(Napi::Env env) {
  finish(env);
  try {
    if (error_) {
      deferred_.Reject(error_value(env, *error_).Value());
    } else {
      deferred_.Resolve(result(env));
    }
  } catch (const Napi::Error& error) {
    deferred_.Reject(error.Value());
  } catch (...) {
    deferred_.Reject(error_value(env, to_error(std::current_exception())).Value());
  }
}

EngineThread::EngineThread(Napi::Env env)
    : env_(env), channel_(Channel::New(env, "twelvex engine", 0, 1, this)) {
  channel_.Unref(env);
  try {
    thread_ = std::thread([this] { serve(); });
  } catch (...) {
    channel_.Abort();
    throw;
  }
  napi_add_env_cleanup_hook(env, on_environment_exit, this);
}

EngineThread::~EngineThread() { stop(); }

Napi::Promise EngineThread::post(std::unique_ptr<Job> job) {
  const Napi::Promise promise = job->promise();
  if (pending_++ == 0) channel_.Ref(env_);
  {
    std::lock_guard lock(mutex_);
    queue_.push_back(std::move(job));
  }
  posted_.notify_one();
  return promise;
}

void EngineThread::send(std::unique_ptr<Message> message) {
  // The queue is unbounded, so this fails only when the function is closing, which stop() rules out.
  if (channel_.NonBlockingCall(message.get()) == napi_ok) message.release();
}

void EngineThread::stop() {
  if (stopping_.exchange(true)) return;
  std::deque<std::unique_ptr<Job>> dropped;
  {
    std::lock_guard lock(mutex_);
    dropped.swap(queue_);
  }
  posted_.notify_one();
  thread_.join();
  if (environment_gone_) return;
  napi_remove_env_cleanup_hook(env_, on_environment_exit, this);
  channel_.Abort();
}

void EngineThread::on_environment_exit(void* pointer) {
  // A load that never began owns the thread it was queued on; dropping it must not destroy that thread under stop().
  const std::shared_ptr<EngineThread> self = static_cast<EngineThread*>(pointer)->shared_from_this();
  self->environment_gone_ = true;
  self->stop();
}

void EngineThread::serve() {
  std::unique_ptr<Model> model;
  while (std::unique_ptr<Job> job = next()) {
    job->execute(model);
    send(std::move(job));
  }
}

std::unique_ptr<Job> EngineThread::next() {
  std::unique_lock lock(mutex_);
  posted_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
  if (stopping_) return nullptr;
  std::unique_ptr<Job> job = std::move(queue_.front());
  queue_.pop_front();
  return job;
}

void EngineThread::call_js(Napi::Env env, Napi::Function, EngineThread* self, Message* raw) {
  const std::unique_ptr<Message> message(raw);
  if (env == nullptr) return;  // the environment is going away; `self` may be gone already
  if (message->ends_job() && --self->pending_ == 0) self->channel_.Unref(env);
  message->deliver(env);
}

}  // namespace twelvex
