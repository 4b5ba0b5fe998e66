// SPDX-License-Identifier: MIT
// Which way a sum over ranks travels, and in how many parts: pure functions, the same on every rank and in every run.
#pragma once

#include <cstdint>

namespace twelvex::cuda {

/// How a sum travels. The project's own paths give the same bits.
enum class AllReducePath : uint8_t {
  kPacked,   // every 8 bytes carry their own announcement: no fence and no barrier, but twice the bytes
  kTwoShot,  // a rank adds its share of all arrays in place and writes it to everybody
  kNccl,     // the library
};

/// What the ranks' devices talk over: the slowest of all pairs.
enum class Link : uint8_t { kSameDevice, kNvlink, kPcie };

/// The path of a message.
AllReducePath all_reduce_path(Link link, bool nccl, int64_t bytes);

/// Rows of the pieces in which [tokens, D] is summed so that the sum of one piece runs beside the computation of another;
/// `tokens`: all at once, in line.
int reduction_piece(int tokens);

// Blocks of a two-shot sum: more are not faster on NVLink; half of them beside other kernels, which lose fewer
// multiprocessors (bench/results/2026-11-22-cuda-comm.md).
inline constexpr int kTwoShotBlocks = 32, kPieceBlocks = 16;

/// Whether ranks choose compressed entries for a part of the tokens each and exchange the choices.
bool shares_choices(int tokens);

/// Blocks of a sum of `bytes`, at most `max_blocks`.
int all_reduce_blocks(AllReducePath path, int64_t bytes, int max_blocks);

}  // namespace twelvex::cuda
