// SPDX-License-Identifier: MIT
#include "thread_pool.h"

#include <algorithm>
#include <chrono>
#include <string>
#include <system_error>
#include <utility>

#include "runtime/error.h"

namespace twelvex::cpu {

namespace {

constexpr auto kSpin = std::chrono::microseconds(300);  // longer than the gap between steps while text is written
constexpr int kSpinsPerClockRead = 64;

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// Spins until done() or the time is over; returns done().
template <class Done>
bool spin_until(const Done& done) {
  const auto end = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < kSpinsPerClockRead; ++i) {
      if (done()) return true;
      relax();
    }
  } while (std::chrono::steady_clock::now() < end);
  return done();
}

}  // namespace

ThreadPool::ThreadPool(int threads) {
  static_assert(kMostThreads - 1 <= kJoined);
  const int wanted = std::clamp(threads, 1, kMostThreads) - 1;
  workers_.reserve(static_cast<size_t>(wanted));
  try {
    for (int worker = 1; worker <= wanted; ++worker) workers_.emplace_back([this, worker] { worker_main(worker); });
  } catch (const std::system_error& error) {
    const std::string which = std::to_string(workers_.size() + 1) + " of " + std::to_string(wanted);
    stop();
    throw Error(ErrorCode::kOutOfMemory, "cannot start worker thread " + which + ": " + error.what() + "; use fewer threads");
  }
}

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::stop() {
  stop_.store(true);
  state_.fetch_add(kJob);
  state_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::take_items(int worker) {
  try {
    for (int item = next_.fetch_add(1); item < items_; item = next_.fetch_add(1)) call_(context_, item, worker);
  } catch (...) {
    next_.store(items_);
    std::lock_guard lock(error_mutex_);
    if (!error_) error_ = std::current_exception();
  }
}

void ThreadPool::dispatch(int items, Call call, const void* context) {
  items_ = items;
  call_ = call;
  context_ = context;
  next_.store(0);
  const uint32_t job = (state_.load() & ~(kOpen | kJoined)) + kJob;
  state_.store(job | kOpen);
  state_.notify_all();
  take_items(0);
  state_.fetch_and(~kOpen);
  while (!spin_until([&] { return (state_.load() & kJoined) == 0; })) std::this_thread::yield();
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

/// Returns the state once it shows another job than `seen`.
uint32_t ThreadPool::wait_for_job(uint32_t seen) {
  const auto changed = [&] { return (state_.load() / kJob) != (seen / kJob); };
  while (!spin_until(changed)) {
    const uint32_t state = state_.load();
    if (state / kJob == seen / kJob) state_.wait(state);
  }
  return state_.load();
}

void ThreadPool::worker_main(int worker) {
  uint32_t state = 0;
  while (true) {
    state = wait_for_job(state);
    if (stop_.load()) return;
    uint32_t now = state;
    bool joined = false;
    while ((now & kOpen) != 0 && !joined) joined = state_.compare_exchange_weak(now, now + 1);
    if (!joined) {
      state = now;
      continue;
    }
    state = now;
    take_items(worker);
    state_.fetch_sub(1);
  }
}

}  // namespace twelvex::cpu
