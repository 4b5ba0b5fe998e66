// SPDX-License-Identifier: MIT
// One native thread per loaded model. Jobs are posted from JavaScript, run one after another, and settle their promises
// through one thread-safe function; libuv's pool is never used (a busy neighbour there delays a step by milliseconds).
//
// Lifetimes. The thread is joined by stop(), which runs at the latest in an environment clean-up hook that was added after
// the thread-safe function and therefore runs before it closes: the thread never calls a closed function, and a process
// or worker that exits with a step under way waits for that step. What is still queued then is deleted, not delivered.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <napi.h>
#include <optional>
#include <thread>

#include "runtime/model.h"

namespace twelvex {

class EngineThread;

/// Something native code hands to JavaScript. May be deleted undelivered, without an environment: hold no Napi references
/// that the destructor would release.
class Message {
 public:
  virtual ~Message() = default;
  /// On the JavaScript thread, inside a handle scope.
  virtual void deliver(Napi::Env env) = 0;
  virtual bool ends_job() const { return false; }
};

/// Work on the engine thread that settles a promise.
class Job : public Message {
 public:
  explicit Job(Napi::Env env) : deferred_(Napi::Promise::Deferred::New(env)) {}

  Napi::Promise promise() const { return deferred_.Promise(); }
  void execute(std::unique_ptr<Model>& model) noexcept;
  void deliver(Napi::Env env) final;
  bool ends_job() const final { return true; }

 protected:
  /// On the engine thread; may throw.
  virtual void run(std::unique_ptr<Model>& model) = 0;
  /// On the JavaScript thread after a run that did not throw: what the promise resolves to.
  virtual Napi::Value result(Napi::Env env) = 0;
  /// On the JavaScript thread in either case, before the promise settles.
  virtual void finish(Napi::Env env) {}

 private:
  Napi::Promise::Deferred deferred_;
  std::optional<Error> error_;
};

class EngineThread : public std::enable_shared_from_this<EngineThread> {
 public:
  explicit EngineThread(Napi::Env env);
  ~EngineThread();
  EngineThread(const EngineThread&) = delete;
  EngineThread& operator=(const EngineThread&) = delete;

  /// JavaScript thread. The event loop is kept alive until the job has settled. Not after stop().
  Napi::Promise post(std::unique_ptr<Job> job);

  /// Any native thread, while a job runs.
  void send(std::unique_ptr<Message> message);

  /// JavaScript thread. Waits for the running job, drops queued ones, destroys the model, joins. Idempotent.
  void stop();

  bool stopping() const { return stopping_; }
  bool idle() const { return pending_ == 0; }

 private:
  static void call_js(Napi::Env env, Napi::Function, EngineThread* self, Message* message);
  using Channel = Napi::TypedThreadSafeFunction<EngineThread, Message, call_js>;

  static void on_environment_exit(void* self);
  void serve();
  std::unique_ptr<Job> next();

  const Napi::Env env_;
  Channel channel_;
  int pending_ = 0;  // jobs posted and not settled; JavaScript thread only
  bool environment_gone_ = false;
  std::atomic<bool> stopping_ = false;
  std::mutex mutex_;
  std::condition_variable posted_;
  std::deque<std::unique_ptr<Job>> queue_;
  std::thread thread_;
};

}  // namespace twelvex
