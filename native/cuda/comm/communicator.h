// SPDX-License-Identifier: MIT
// A rank's end of the collectives: set-up over the RankGroup, then all-reduce and all-gather on CUDA streams.
#pragma once

#include <memory>

#include "comm/all_reduce.h"
#include "comm/nccl.h"
#include "runtime/rank_group.h"

namespace twelvex::cuda {

class Communicator {
 public:
  /// A collective of the group, from the rank's thread with its device current. Throws kUnsupported when two devices cannot
  /// access each other's memory.
  Communicator(std::shared_ptr<RankGroup> group, int rank, int device);
  ~Communicator();
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  int ranks() const { return view_.ranks; }
  /// A collective: every rank's address of the same buffer. Needed once for each buffer that is reduced or gathered.
  PeerPointers exchange(void* buffer) const;

  /// Sums `count` bf16 elements over ranks, the same bits everywhere.
  void all_reduce(const PeerPointers& array, int64_t count, cudaStream_t stream) const;
  /// The same by a path of the caller's choice; `comm` is filled in here.
  void all_reduce(AllReduceParams params) const;
  /// The path of a message of so many bytes: a pure function of the devices' link, the same on every rank.
  AllReducePath path_of(int64_t bytes) const;
  bool has_nccl() const { return nccl_ != nullptr && nccl_->usable(); }
  /// See AllGatherParams; `comm` and `stream` are filled in here.
  void all_gather(AllGatherParams params, cudaStream_t stream) const;

  /// After a synchronisation: throws kInternal when a rank gave up waiting for another.
  void check_alive() const;
  /// Ends all waits of all ranks; for a rank that failed outside of a collective.
  void abandon() const;
  /// Forgets that; only while no rank is inside a collective.
  void recover() const;

 private:
  void share_failure_word();
  void enable_peers(int device);

  std::shared_ptr<RankGroup> group_;
  CommView view_;
  Mailbox* mailbox_ = nullptr;
  uint32_t* failure_ = nullptr;   // mapped host memory, owned by rank 0
  bool peers_ = true;             // all devices access each other
  Link link_ = Link::kSameDevice;
  std::unique_ptr<Nccl> nccl_;
};

}  // namespace twelvex::cuda
