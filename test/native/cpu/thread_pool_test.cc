// SPDX-License-Identifier: MIT
#include "cpu/thread_pool.h"

#if defined(__linux__)
#include <sys/resource.h>
#include <unistd.h>
#endif

#include <atomic>
#include <chrono>
#include <ctime>
#include <fstream>
#include <vector>

#include "check.h"

namespace {

using namespace twelvex;
using twelvex::cpu::ThreadPool;

TEST("every item runs once, on a worker in range, job after job") {
  for (int threads : {1, 2, 3, 5}) {
    ThreadPool pool(threads);
    CHECK_EQ(pool.threads(), threads);
    for (int job = 0; job < 300; ++job) {
      const int items = job % 17;
      std::vector<std::atomic<int>> times(17);
      std::atomic<int> wrong = 0;
      pool.run(items, [&](int item, int worker) {
        ++times[static_cast<size_t>(item)];
        if (worker < 0 || worker >= threads) ++wrong;
      });
      for (int i = 0; i < 17; ++i) CHECK_EQ(times[static_cast<size_t>(i)].load(), i < items ? 1 : 0);
      CHECK_EQ(wrong.load(), 0);
    }
  }
}

TEST("an exception reaches the caller and the pool stays usable") {
  ThreadPool pool(3);
  CHECK_THROWS_CODE(pool.run(100,
                             [](int item, int) {
                               if (item == 41) throw Error(ErrorCode::kInternal, "item 41");
                             }),
                    ErrorCode::kInternal, "item 41");
  std::atomic<int> sum = 0;
  pool.run(10, [&](int item, int) { sum += item; });
  CHECK_EQ(sum.load(), 45);
}

TEST("a job waits for all that joined it, also with hundreds of threads") {
  constexpr int kThreads = 300;
  ThreadPool pool(kThreads);
  for (int job = 0; job < 3; ++job) {
    std::atomic<int> done = 0;
    pool.run(kThreads, [&](int, int) {
      std::this_thread::sleep_for(std::chrono::milliseconds(50));  // long enough for everybody to join
      ++done;
    });
    CHECK_EQ(done.load(), kThreads);
  }
}

#if defined(__linux__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)

/// While it lives, the process can map 64 MiB more, which is fewer stacks than a large pool needs.
class ScarceAddresses {
 public:
  ScarceAddresses() {
    getrlimit(RLIMIT_AS, &before_);
    rlim_t pages = 0;
    std::ifstream("/proc/self/statm") >> pages;
    rlimit scarce = before_;
    scarce.rlim_cur = pages * static_cast<rlim_t>(sysconf(_SC_PAGESIZE)) + (rlim_t{64} << 20);
    setrlimit(RLIMIT_AS, &scarce);
  }
  ~ScarceAddresses() { setrlimit(RLIMIT_AS, &before_); }

 private:
  rlimit before_{};
};

TEST("threads that cannot be had are an error that says so, and those that started end") {
  const ScarceAddresses scarce;
  CHECK_THROWS_CODE(ThreadPool(ThreadPool::kMostThreads), ErrorCode::kOutOfMemory, "worker thread", "of 4095", "fewer threads");
}

#endif

TEST("idle workers sleep") {
  ThreadPool pool(4);
  pool.run(4, [](int, int) {});
  const std::clock_t start = std::clock();
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  const double busy = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
  CHECK(busy < 0.05);
}

}  // namespace
