// SPDX-License-Identifier: MIT
#include "comm/paths.h"

#include <algorithm>

#include "comm/all_reduce.h"

namespace twelvex::cuda {

namespace {

/// Where packed messages end, and whether NCCL, if it is there, takes what is longer.
struct Rule {
  int64_t packed;
  bool nccl;
};

// Measured for NVLink, two ranks (bench/results/2026-11-22-cuda-comm.md): the project's own paths are faster than NCCL at every
// size. For PCIe from published measurements of 2x RTX PRO 6000 (the same page): NCCL is faster from 64 KiB on.
constexpr Rule kRules[] = {
    {kPackedBytes, false},  // kSameDevice
    {kPackedBytes, false},  // kNvlink
    {64 * 1024, true},      // kPcie
};

constexpr int kPieceTokens = 1024;  // mHC works through as many at a time (hyper.h)
constexpr int kPieces = 4;          // more only delay each other

}  // namespace

AllReducePath all_reduce_path(Link link, bool nccl, int64_t bytes) {
  const Rule& rule = kRules[static_cast<int>(link)];
  if (bytes <= rule.packed) return AllReducePath::kPacked;
  return nccl && rule.nccl ? AllReducePath::kNccl : AllReducePath::kTwoShot;
}

int reduction_piece(int tokens) {
  if (tokens < 2 * kPieceTokens) return tokens;
  return std::max(tokens / (kPieces * kPieceTokens), 1) * kPieceTokens;
}

// Few tokens are read about as fast as half of them, and the exchange costs some 9 us in each csa layer.
bool shares_choices(int tokens) { return tokens > 64; }

int all_reduce_blocks(AllReducePath path, int64_t bytes, int max_blocks) {
  const int64_t per_block = path == AllReducePath::kPacked ? kPackedVectors * 16 : 16 * 1024;
  const int64_t blocks = (bytes + per_block - 1) / per_block;
  return static_cast<int>(blocks < 1 ? 1 : blocks < max_blocks ? blocks : max_blocks);
}

}  // namespace twelvex::cuda
