// SPDX-License-Identifier: MIT
// The lightning indexer: scores of the visible csa entries of each token, and the exact top-k of them.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <algorithm>

#include "gemm/fp8_gemm.h"
#include "layout/batch_view.h"

namespace twelvex::cuda {

inline constexpr int kScoreGroup = 16;   // tokens that share a block's entries
inline constexpr int kScoreTile = 256;   // entries of a block
inline constexpr int kFewScoreTile = 64; // entries of a block and one token

/// Scores of few tokens also go from launch to launch without waiting for the first one's end: who writes a word replaces
/// kNotThere, who reads it puts that back.
inline constexpr uint32_t kNotThere = 0xffffffffu;  // a NaN that no product gives
inline constexpr int kAwaitedTokens = 4, kAwaitedEntries = 4096;  // tokens that see more entries wait as ever

/// Tokens of one batch row that are scored together: [first, first + count), count <= kScoreGroup.
struct ScoreGroups {
  const int32_t* first = nullptr;  // [groups]
  const int32_t* count = nullptr;  // [groups], 0: padding
  int groups = 0;
};

struct IndexScoreParams {
  BatchView batch;
  RowPages entries;                      // indexer rows, bf16 or fp8
  ScoreGroups groups;
  int heads = 0;                         // index heads, 1 .. 64
  int topk = 0;                          // groups that see at most this many entries are not scored
  int entry_limit = 0;                   // most entries a token of this batch can see (bounds the launch)
  const __nv_bfloat16* query = nullptr;  // [T, heads, 128]
  bool raw_query = false;                // bf16 queries are not rotated yet
  bool query_fp8 = false;                // query holds a cell of gemm/fp8_cells.h a head; entries are fp8
  const __nv_bfloat16* weights = nullptr;  // [T, heads]
  float scale = 1;                       // 128^-0.5 * heads^-0.5
  int first_token = 0, tokens = 0;       // token of scores row 0; tokens of all groups, one behind the other
  int multiprocessors = 1;
  float* scores = nullptr;               // [tokens of the groups, stride]
  int64_t stride = 0;                    // >= entries any of these tokens sees
  uint32_t* awaited = nullptr;           // [kAwaitedTokens, kAwaitedEntries] where few_score_blocks() > 0, for run_topk behind it
};

/// Whether index queries are rounded to e4m3, with a scale a head, and scored on FP8 tensor cores: served numerics, fp8 rows, an
/// architecture that has them. Of every token, so that its choice does not depend on the batch.
inline bool index_scores_in_fp8(bool served, RowFormat rows, int arch) {
  return served && rows == RowFormat::kFp8 && arch >= kFirstFp8Arch;
}

/// scores[t, e] = sum over heads of weight_h * relu(query_h . entry_e) * scale, for the entries that token t sees.
void run_index_scores(const IndexScoreParams& params, cudaStream_t queue);

/// What run_index_scores launches for e4m3 queries; `grid`: tiles of entries x groups.
void launch_index_scores_fp8(const IndexScoreParams& params, dim3 grid, cudaStream_t queue);

/// Blocks a token of the launch that takes few tokens one by one; 0: tokens are taken by groups. Scores are the same. Tokens of a
/// group of few share little, and a token's way through a block of many entries is long.
inline int few_score_blocks(const IndexScoreParams& p) {
  constexpr int kMaxTokens = 24, kMaxShared = 3;
  if (p.query_fp8 || p.tokens < 1 || p.tokens > kMaxTokens || p.tokens > kMaxShared * p.groups.groups) return 0;
  const int tiles = (p.entry_limit + kFewScoreTile - 1) / kFewScoreTile;
  return std::min(tiles, std::max(1, p.multiprocessors / p.tokens));
}
void launch_index_scores_few(const IndexScoreParams& params, int blocks, cudaStream_t queue);

struct TopkParams {
  BatchView batch;
  int first_token = 0, tokens = 0;
  int topk = 0;                    // K <= 2048
  const float* scores = nullptr;   // [tokens, stride]; not read for tokens that see at most K entries
  int64_t stride = 0;              // a multiple of four
  uint32_t* awaited = nullptr;     // those of run_index_scores, the launch before this one; else null
  int32_t* selection = nullptr;    // [T, K], ascending, -1 padded
};

/// The K best of the (position + 1) / 4 visible entries, equal scores to the lower entry.
void run_topk(const TopkParams& params, cudaStream_t queue);

/// Tokens whose scores fit the fixed buffer at once: at least one group.
inline int score_chunk_tokens(int64_t buffer_floats, int64_t stride) {
  const int64_t fit = stride > 0 ? buffer_floats / stride : buffer_floats;
  return static_cast<int>(fit < kScoreGroup ? kScoreGroup : fit / kScoreGroup * kScoreGroup);
}

}  // namespace twelvex::cuda
