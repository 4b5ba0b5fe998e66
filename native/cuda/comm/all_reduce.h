// SPDX-License-Identifier: MIT
// Collectives among the ranks of one process, by direct loads and stores to the other ranks' memory. Ranks may share a device.
// No host is involved, so they can be captured in CUDA graphs; every rank gets the same bits.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

namespace twelvex::cuda {

inline constexpr int kMaxRanks = 8;
inline constexpr int kCommBlocks = 96;                          // blocks of a collective at most
inline constexpr int kInboxSlice = 16 * 1024;                   // bytes of one block's part of a one-shot message
inline constexpr int kPackedVectors = 256;                      // 16-byte vectors of one block's part of a packed message
inline constexpr int64_t kOneShotBytes = int64_t{kCommBlocks} * kInboxSlice;           // longest one-shot message
inline constexpr int64_t kPackedBytes = int64_t{kCommBlocks} * kPackedVectors * 16;    // longest packed message

/// How a sum travels; all paths give the same bits.
enum class AllReducePath : uint8_t {
  kPacked,   // every 8 bytes carry their own announcement: no fence and no barrier, but twice the bytes
  kOneShot,  // a message to every rank, then one announcement
  kTwoShot,  // a rank adds its share of all arrays in place and writes it to everybody
  kPushed,   // the same, but the shares are pushed to who adds them: nobody reads over the link
  kNccl,     // the library; contiguous arrays only
};

inline constexpr int64_t kStagingBytes = int64_t{16} << 20;  // longest pushed message; longer ones take several turns

/// A rank's memory that the others write: messages and the counters that announce them.
struct Mailbox {
  uint4 packed[2][kMaxRanks][kCommBlocks][2 * kPackedVectors];  // [turn parity][sender][block]: data, turn, data, turn
  uint8_t inbox[2][kMaxRanks][kCommBlocks][kInboxSlice];        // [turn parity][sender][block]
  uint8_t staging[kStagingBytes + kMaxRanks * 16];              // pushed shares, an equal part for every sender
  uint32_t one_shot[kMaxRanks][kCommBlocks];              // turn of the sender's last message
  uint32_t barrier[kMaxRanks][kCommBlocks];               // last barrier that the sender has reached
  // Own: turns taken by each block.
  uint32_t one_shot_turn[kCommBlocks];
  uint32_t barrier_turn[kCommBlocks];
};

/// What every collective knows. `failure` is one word of mapped host memory that all ranks share: 0, or 1 + the rank that gave
/// up first (it waited longer than the limit, or the host set it to end all waits).
struct CommView {
  int rank = 0, ranks = 1;
  Mailbox* mailbox[kMaxRanks] = {};
  volatile uint32_t* failure = nullptr;
  uint64_t patience_ns = 0;
};

/// The same buffer on every rank.
struct PeerPointers {
  void* at[kMaxRanks] = {};
};

/// array = sum over ranks in rank order, f32, rounded once. The same shape on every rank.
struct AllReduceParams {
  CommView comm;
  PeerPointers array;    // [rows, cols] bf16 on every rank, rows `stride` apart; two shots read the others', the rest only this one's
  int64_t rows = 1;
  int64_t cols = 0;      // elements of a row, a multiple of 8
  int64_t stride = 0;    // elements from row to row, a multiple of 8
  AllReducePath path = AllReducePath::kTwoShot;
  int max_blocks = 48;   // so many multiprocessors at most
  cudaStream_t stream = nullptr;
};
/// Throws kInternal for a message longer than its path takes.
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

/// Blocks of a reduction of `bytes`; a pure function, the same on every rank.
int all_reduce_blocks(AllReducePath path, int64_t bytes, int max_blocks);

}  // namespace twelvex::cuda
