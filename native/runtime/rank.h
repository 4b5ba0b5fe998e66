// SPDX-License-Identifier: MIT
// One tensor-parallel rank: a thread that owns a backend, its weights and its activations.
#pragma once

#include <condition_variable>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "backend.h"
#include "forward.h"

namespace twelvex {

/// Everything a rank holds; touched by its own thread only.
struct RankState {
  std::unique_ptr<Ops> ops;
  ModelWeights weights;
  Activations activations;
};

/// The ranks of one model. Jobs run on every rank at once; a rank that throws breaks the group, so that ranks waiting in a
/// collective end too, and the job ends in the first rank's error.
class RankSet {
 public:
  explicit RankSet(int ranks);
  /// Waits for a running job, then destroys every rank's state on its own thread.
  ~RankSet();
  RankSet(const RankSet&) = delete;
  RankSet& operator=(const RankSet&) = delete;

  using Job = std::function<void(int rank, RankState& state)>;

  /// Runs `job` on all ranks and waits. One caller at a time.
  /// @throws Error of the rank that failed first, its code kept; kOutOfMemory for a failed host allocation.
  void run(const Job& job);

  int size() const { return static_cast<int>(threads_.size()); }
  const std::shared_ptr<RankGroup>& group() const { return group_; }

 private:
  void serve(int rank);
  void attempt(int rank, RankState& state);

  std::shared_ptr<RankGroup> group_;
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  uint64_t turn_ = 0;        // changes when a job is posted
  const Job* job_ = nullptr;  // null once the ranks should end
  int running_ = 0;
  std::exception_ptr failure_;
  std::vector<std::thread> threads_;
};

}  // namespace twelvex
