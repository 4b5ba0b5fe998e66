// SPDX-License-Identifier: MIT
// The rules of sums over ranks are pure functions: checked without a GPU.
#include "check.h"
#include "comm/all_reduce.h"

using namespace twelvex;
using namespace twelvex::cuda;

TEST("sums go packed while they are short, then in two shots; NCCL takes the long ones of PCIe machines") {
  for (const bool nccl : {false, true}) {
    CHECK(all_reduce_path(Link::kNvlink, nccl, 8 * 1024) == AllReducePath::kPacked);
    CHECK(all_reduce_path(Link::kNvlink, nccl, kPackedBytes) == AllReducePath::kPacked);
    CHECK(all_reduce_path(Link::kNvlink, nccl, kPackedBytes + 16) == AllReducePath::kTwoShot);
    CHECK(all_reduce_path(Link::kNvlink, nccl, 64 << 20) == AllReducePath::kTwoShot);
    CHECK(all_reduce_path(Link::kPcie, nccl, 8 * 1024) == AllReducePath::kPacked);
  }
  CHECK(all_reduce_path(Link::kPcie, true, 64 * 1024 + 16) == AllReducePath::kNccl);
  CHECK(all_reduce_path(Link::kPcie, false, 64 * 1024 + 16) == AllReducePath::kTwoShot);
}

TEST("sums of 2,048 tokens and more are cut into about four pieces of whole 1,024 tokens") {
  CHECK_EQ(reduction_piece(1), 1);
  CHECK_EQ(reduction_piece(2047), 2047);
  CHECK_EQ(reduction_piece(2048), 1024);
  CHECK_EQ(reduction_piece(4096), 1024);
  CHECK_EQ(reduction_piece(8191), 1024);
  CHECK_EQ(reduction_piece(8192), 2048);
}

TEST("ranks choose entries for all tokens of decode, and share the tokens of prompts") {
  CHECK(!shares_choices(1));
  CHECK(!shares_choices(64));
  CHECK(shares_choices(65));
}

TEST("a sum has blocks for its bytes, up to its path's limit") {
  CHECK_EQ(all_reduce_blocks(AllReducePath::kPacked, 8 * 1024, kCommBlocks), 2);
  CHECK_EQ(all_reduce_blocks(AllReducePath::kPacked, kPackedBytes, kCommBlocks), kCommBlocks);
  CHECK_EQ(all_reduce_blocks(AllReducePath::kTwoShot, 64 << 20, kTwoShotBlocks), kTwoShotBlocks);
  CHECK_EQ(all_reduce_blocks(AllReducePath::kTwoShot, 8 << 20, kPieceBlocks), kPieceBlocks);
}
