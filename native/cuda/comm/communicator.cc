// SPDX-License-Identifier: MIT
#include "comm/communicator.h"

#include <algorithm>
#include <string>

#include "common/check.h"
#include "runtime/error.h"

namespace twelvex::cuda {

namespace {

constexpr uint64_t kPatienceNs = 30'000'000'000;  // longer than any step; a lost rank ends the others' waits then

/// Devices of one host. Only NVLink carries atomic operations of a GPU to another's memory.
Link link_between(int a, int b) {
  if (a == b) return Link::kSameDevice;
  int atomics = 0;
  check(cudaDeviceGetP2PAttribute(&atomics, cudaDevP2PAttrNativeAtomicSupported, a, b), "cudaDeviceGetP2PAttribute");
  return atomics != 0 ? Link::kNvlink : Link::kPcie;
}

}  // namespace

Communicator::Communicator(std::shared_ptr<RankGroup> group, int rank, int device) : group_(std::move(group)) {
  view_.rank = rank;
  view_.ranks = group_->ranks();
  view_.patience_ns = kPatienceNs;
  TWELVEX_NEED_LE(view_.ranks, kMaxRanks);
  if (view_.ranks == 1) return;
  load_collectives();
  enable_peers(device);
  share_failure_word();
  mailbox_ = static_cast<Mailbox*>(device_alloc(sizeof(Mailbox), "mailbox of the rank", true));
  check(cudaDeviceSynchronize(), "mailbox of the rank");
  const std::vector<void*> all = group_->enter(rank, mailbox_);
  for (int r = 0; r < view_.ranks; ++r) view_.mailbox[r] = static_cast<Mailbox*>(all[r]);
  group_->leave();
}

Communicator::~Communicator() {
  if (view_.ranks == 1) return;
  cudaDeviceSynchronize();
  nccl_.reset();
  cudaFree(mailbox_);
  if (view_.rank == 0) cudaFreeHost(failure_);
}

void Communicator::enable_peers(int device) {
  struct Offer {
    int device = 0;
  } mine{device};
  const std::vector<void*> all = group_->enter(view_.rank, &mine);
  int devices[kMaxRanks];
  for (int r = 0; r < view_.ranks; ++r) devices[r] = static_cast<const Offer*>(all[r])->device;
  group_->leave();
  bool distinct = true;
  for (int r = 0; r < view_.ranks; ++r) {
    distinct &= std::count(devices, devices + view_.ranks, devices[r]) == 1;
    for (int other = 0; other < view_.ranks; ++other) {
      int can = 1;
      if (devices[r] != devices[other])
        check(cudaDeviceCanAccessPeer(&can, devices[r], devices[other]), "cudaDeviceCanAccessPeer");
      peers_ &= can != 0;
      link_ = std::max(link_, link_between(devices[r], devices[other]));
    }
  }
  view_.apart = distinct;
  for (int r = 0; peers_ && r < view_.ranks; ++r) {
    if (devices[r] == device) continue;
    const cudaError_t status = cudaDeviceEnablePeerAccess(devices[r], 0);
    if (status == cudaErrorPeerAccessAlreadyEnabled) {
      cudaGetLastError();
    } else {
      check(status, "cudaDeviceEnablePeerAccess");
    }
  }
  if (!peers_) {
    throw Error(ErrorCode::kUnsupported,
                "CUDA devices of the ranks cannot access each other's memory (peer-to-peer is off or blocked): "
                "tensor parallelism needs it; use one device");
  }
  const bool useful = all_reduce_path(link_, true, INT64_MAX) == AllReducePath::kNccl;
  if (distinct && useful) nccl_ = Nccl::join(*group_, view_.rank);
}

void Communicator::share_failure_word() {
  if (view_.rank == 0) {
    check(cudaHostAlloc(reinterpret_cast<void**>(&failure_), sizeof(uint32_t), cudaHostAllocPortable | cudaHostAllocMapped),
          "cudaHostAlloc");
    *failure_ = 0;
  }
  const std::vector<void*> all = group_->enter(view_.rank, failure_);
  failure_ = static_cast<uint32_t*>(all[0]);
  group_->leave();
  void* on_device = nullptr;
  check(cudaHostGetDevicePointer(&on_device, failure_, 0), "cudaHostGetDevicePointer");
  view_.failure = static_cast<volatile uint32_t*>(on_device);
}

PeerPointers Communicator::exchange(void* buffer) const {
  PeerPointers pointers;
  if (view_.ranks == 1) {
    pointers.at[0] = buffer;
    return pointers;
  }
  const std::vector<void*> all = group_->enter(view_.rank, buffer);
  for (int r = 0; r < view_.ranks; ++r) pointers.at[r] = all[r];
  group_->leave();
  return pointers;
}

void Communicator::all_reduce(const PeerPointers& array, int64_t count, cudaStream_t stream) const {
  all_reduce({.array = array, .count = count, .path = path_of(count * 2), .stream = stream});
}

void Communicator::all_reduce(AllReduceParams params) const {
  if (params.path == AllReducePath::kNccl) {
    TWELVEX_NEED(nccl_ != nullptr, true);
    return nccl_->all_reduce(params.array.at[view_.rank], params.count, params.stream);
  }
  params.comm = view_;
  run_all_reduce(params);
}

AllReducePath Communicator::path_of(int64_t bytes) const {
  return all_reduce_path(link_, has_nccl(), bytes);
}

void Communicator::all_gather(AllGatherParams params, cudaStream_t stream) const {
  params.comm = view_;
  params.stream = stream;
  run_all_gather(params);
}

void Communicator::check_alive() const {
  if (view_.ranks == 1) return;
  const uint32_t failure = *static_cast<volatile uint32_t*>(failure_);
  if (failure == 0) return;
  throw Error(ErrorCode::kInternal, "rank " + std::to_string(failure - 1) + " waited " +
                                        std::to_string(kPatienceNs / 1'000'000'000) +
                                        " s for another rank in a collective, or was told to give up");
}

void Communicator::abandon() const {
  if (view_.ranks == 1) return;
  *static_cast<volatile uint32_t*>(failure_) = 1 + static_cast<uint32_t>(view_.rank);
  if (nccl_ != nullptr) nccl_->give_up();
}

void Communicator::recover() const {
  if (view_.ranks > 1) *static_cast<volatile uint32_t*>(failure_) = 0;
}

}  // namespace twelvex::cuda
