// SPDX-License-Identifier: MIT
// The worker threads of one rank. The calling thread works too, so a pool of one thread has no workers.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace twelvex::cpu {

/// Workers spin for a moment after a job, because the next one usually follows within microseconds, then sleep.
/// A job never waits for a worker that has not joined it: a late one finds the job closed.
class ThreadPool {
 public:
  static constexpr int kMostThreads = 4096;  // the caller and as many workers as can be counted

  /// @throws Error kOutOfMemory when the system has no more threads to give.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  /// Calls body(item, worker) once for every item in [0, items), in any order, on up to threads() threads; `worker` is
  /// in [0, threads()) and tells scratch apart. Rethrows the first exception after all have stopped.
  template <class Body>
  void run(int items, const Body& body) {
    if (items <= 0) return;
    if (items == 1 || workers_.empty()) {
      for (int item = 0; item < items; ++item) body(item, 0);
      return;
    }
    dispatch(
        items, [](const void* context, int item, int worker) { (*static_cast<const Body*>(context))(item, worker); }, &body);
  }

 private:
  using Call = void (*)(const void* context, int item, int worker);

  void stop();
  void dispatch(int items, Call call, const void* context);
  void take_items(int worker);
  void worker_main(int worker);
  uint32_t wait_for_job(uint32_t seen);

  // Job number << 13 | open bit << 12 | workers that joined.
  static constexpr uint32_t kJob = 8192, kOpen = 4096, kJoined = 4095;

  std::vector<std::thread> workers_;
  alignas(64) std::atomic<uint32_t> state_{0};
  alignas(64) std::atomic<int> next_{0};
  std::atomic<bool> stop_{false};
  int items_ = 0;
  Call call_ = nullptr;
  const void* context_ = nullptr;
  std::mutex error_mutex_;
  std::exception_ptr error_;
};

}  // namespace twelvex::cpu
