// SPDX-License-Identifier: MIT
#include "rank.h"

#include <new>
#include <string>

#include "error.h"

namespace twelvex {

RankSet::RankSet(int ranks) : group_(std::make_shared<RankGroup>(ranks)) {
  try {
    for (int rank = 0; rank < ranks; ++rank) threads_.emplace_back([this, rank] { serve(rank); });
  } catch (const std::exception& error) {
    {
      std::lock_guard lock(mutex_);
      ++turn_;
    }
    wake_.notify_all();
    for (std::thread& thread : threads_) thread.join();
    throw Error(ErrorCode::kOutOfMemory, "cannot start rank " + std::to_string(threads_.size()) + ": " + error.what());
  }
}

RankSet::~RankSet() {
  {
    std::lock_guard lock(mutex_);
    job_ = nullptr;
    ++turn_;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void RankSet::run(const Job& job) {
  std::unique_lock lock(mutex_);
  job_ = &job;
  failure_ = nullptr;
  running_ = size();
  ++turn_;
  wake_.notify_all();
  done_.wait(lock, [this] { return running_ == 0; });
  if (!failure_) return;
  group_->reset();
  std::rethrow_exception(failure_);
}

void RankSet::serve(int rank) {
  RankState state;
  uint64_t turn = 0;
  while (true) {
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [&] { return turn_ != turn; });
      turn = turn_;
      if (job_ == nullptr) return;
    }
    attempt(rank, state);
    std::lock_guard lock(mutex_);
    if (--running_ == 0) done_.notify_one();
  }
}

void RankSet::attempt(int rank, RankState& state) {
  std::exception_ptr failure;
  std::string reason = "rank " + std::to_string(rank) + " failed: ";
  try {
    (*job_)(rank, state);
    return;
  } catch (const Error& error) {
    failure = std::current_exception();
    reason += error.what();
  } catch (const std::bad_alloc&) {
    failure = std::make_exception_ptr(Error(ErrorCode::kOutOfMemory, "rank " + std::to_string(rank) + " ran out of host memory"));
    reason += "out of host memory";
  } catch (const std::exception& error) {
    failure = std::make_exception_ptr(Error(ErrorCode::kInternal, "rank " + std::to_string(rank) + ": " + error.what()));
    reason += error.what();
  }
  {
    std::lock_guard lock(mutex_);
    if (!failure_) failure_ = failure;
  }
  group_->fail(reason);
}

}  // namespace twelvex
