// SPDX-License-Identifier: MIT
// Collectives among the ranks of one process, by direct loads and stores to the other ranks' memory. Ranks may share a device.
// No host is involved, so they can be captured in CUDA graphs; every rank gets the same bits.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

#include "comm/paths.h"

namespace twelvex::cuda {

inline constexpr int kMaxRanks = 8;
inline constexpr int kCommBlocks = 128;     // blocks of a collective at most
inline constexpr int kPackedVectors = 256;  // 16-byte vectors of one block's part of a packed message
inline constexpr int64_t kPackedBytes = int64_t{kCommBlocks} * kPackedVectors * 16;  // longest packed message

/// A rank's memory that the others write: messages and the counters that announce them.
struct Mailbox {
  uint4 packed[2][kMaxRanks][kCommBlocks][2 * kPackedVectors];  // [turn parity][sender][block]: data, turn, data, turn
  uint32_t barrier[kMaxRanks][kCommBlocks];                     // last barrier that the sender has reached
  // Own: turns taken by each block.
  uint32_t packed_turn[kCommBlocks];
  uint32_t barrier_turn[kCommBlocks];
};

/// What every collective knows. `failure` is one word of mapped host memory that all ranks share: 0, or 1 + the rank that gave
/// up first (it waited longer than the limit, or the host set it to end all waits).
struct CommView {
  int rank = 0, ranks = 1;
  bool apart = false;  // no two ranks share a device
  Mailbox* mailbox[kMaxRanks] = {};
  volatile uint32_t* failure = nullptr;
  uint64_t patience_ns = 0;
};

/// The same buffer on every rank.
struct PeerPointers {
  void* at[kMaxRanks] = {};

  PeerPointers behind(int64_t bytes) const {
    PeerPointers moved;
    for (int r = 0; r < kMaxRanks; ++r) moved.at[r] = static_cast<uint8_t*>(at[r]) + bytes;
    return moved;
  }
};

/// array = sum over ranks in rank order, f32, rounded once.
struct AllReduceParams {
  CommView comm;
  PeerPointers array;   // [count] bf16 on every rank; two shots read the others', packed messages only this rank's
  int64_t count = 0;    // a multiple of 8, the same on every rank
  AllReducePath path = AllReducePath::kTwoShot;
  int max_blocks = kTwoShotBlocks;  // of two shots: so many multiprocessors at most
  cudaStream_t stream = nullptr;
};
/// Throws kInternal for a packed message that is too long.
void run_all_reduce(const AllReduceParams& params);

/// Copies this rank's part of a row-major buffer to the same place on every other rank, and waits for theirs.
struct AllGatherParams {
  CommView comm;
  PeerPointers array;       // [rows, row_bytes] on every rank
  int64_t rows = 0;
  int64_t row_bytes = 0;    // from row to row
  int64_t offset = 0;       // of this rank's part in a row
  int64_t bytes = 0;        // of this rank's part; a multiple of 4, as are the two above
  cudaStream_t stream = nullptr;
};
void run_all_gather(const AllGatherParams& params);

/// Loads the kernels. The driver loads a kernel at its first launch and may then wait for the device: with another rank's kernel
/// waiting for this launch, neither would end.
void load_collectives();

}  // namespace twelvex::cuda
