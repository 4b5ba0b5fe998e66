// SPDX-License-Identifier: MIT
#include "cpu/thread_pool.h"

#include <atomic>
#include <chrono>
#include <ctime>
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

TEST("idle workers sleep") {
  ThreadPool pool(4);
  pool.run(4, [](int, int) {});
  const std::clock_t start = std::clock();
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  const double busy = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
  CHECK(busy < 0.05);
}

}  // namespace
