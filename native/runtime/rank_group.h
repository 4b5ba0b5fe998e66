// SPDX-License-Identifier: MIT
// What the tensor-parallel ranks of one process share: a barrier that a failing rank can break.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <vector>

namespace twelvex {

/// Ranks are threads. Every collective is a pair of barrier waits around reads of the other ranks' pointers. A rank that
/// fails calls `fail`; every rank waiting now or later then throws Error(kInternal, reason), so none hangs.
class RankGroup {
 public:
  explicit RankGroup(int ranks) : ranks_(ranks), pointers_(static_cast<size_t>(ranks), nullptr) {}

  int ranks() const { return ranks_; }

  /// Publishes this rank's pointer, waits for all, returns everybody's. Call `leave` when done reading.
  const std::vector<void*>& enter(int rank, void* pointer);
  void leave() { wait(); }
  void wait();
  void fail(const std::string& reason);
  /// Forgets a failure; only while no rank is inside a collective.
  void reset();

  /// `listener` is called when a rank fails (true, on that rank's thread) and when that is forgotten (false): for waits that
  /// this group does not know, such as those of a device. It must not call the group. Returns a number for `leave_alone`.
  int listen(std::function<void(bool failed)> listener);
  /// Behind it the listener is not called any more.
  void leave_alone(int listener);

 private:
  const int ranks_;
  std::mutex mutex_;
  std::condition_variable turned_;
  int waiting_ = 0;
  uint64_t turn_ = 0;
  bool failed_ = false;
  std::string reason_;
  std::vector<void*> pointers_;
  int next_listener_ = 0;
  std::map<int, std::function<void(bool)>> listeners_;
};

}  // namespace twelvex
