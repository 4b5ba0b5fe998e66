// SPDX-License-Identifier: MIT
#include "rank_group.h"

#include <utility>

#include "error.h"

namespace twelvex {

const std::vector<void*>& RankGroup::enter(int rank, void* pointer) {
  pointers_[static_cast<size_t>(rank)] = pointer;  // published by the mutex in wait()
  wait();
  return pointers_;
}

void RankGroup::wait() {
  if (ranks_ == 1) return;
  std::unique_lock lock(mutex_);
  if (!failed_) {
    const uint64_t turn = turn_;
    if (++waiting_ == ranks_) {
      waiting_ = 0;
      ++turn_;
      turned_.notify_all();
      return;
    }
    turned_.wait(lock, [&] { return turn_ != turn || failed_; });
    // A turn that completed before the failure counts: this rank learns of the failure at its next collective.
    if (turn_ != turn) return;
  }
  throw Error(ErrorCode::kInternal, reason_);
}

void RankGroup::fail(const std::string& reason) {
  std::lock_guard lock(mutex_);
  if (failed_) return;
  failed_ = true;
  reason_ = reason;
  turned_.notify_all();
  for (const auto& [id, listener] : listeners_) listener(true);
}

void RankGroup::reset() {
  std::lock_guard lock(mutex_);
  failed_ = false;
  waiting_ = 0;
  reason_.clear();
  for (const auto& [id, listener] : listeners_) listener(false);
}

int RankGroup::listen(std::function<void(bool)> listener) {
  std::lock_guard lock(mutex_);
  listeners_.emplace(next_listener_, std::move(listener));
  return next_listener_++;
}

void RankGroup::leave_alone(int listener) {
  std::lock_guard lock(mutex_);
  listeners_.erase(listener);
}

}  // namespace twelvex
