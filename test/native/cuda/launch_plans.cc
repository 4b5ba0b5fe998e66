// SPDX-License-Identifier: MIT
#include "attention/gather.h"
#include "attention/sparse_decode.h"
#include "attention/sparse_prefill.h"
#include "check.h"
#include "common/archs.h"
#include "common/device.h"
#include "hyper/hyper_cluster.h"
#include "indexer/indexer.h"
#include "moe/route_cluster.h"
#include "step_graph.h"

using namespace twelvex;
using namespace twelvex::cuda;

TEST("prefill attention fills the device with persistent blocks and takes larger tiles where shared memory allows") {
  const SparsePrefillPlan h100 = plan_sparse_prefill(4096, {32}, 132, 90, false);
  CHECK_EQ(h100.head_block, 32);
  CHECK_EQ(h100.head_groups, 1);
  CHECK_EQ(h100.tile, 64);
  CHECK_EQ(h100.blocks, 132);
  const SparsePrefillPlan rtx = plan_sparse_prefill(4096, {32}, 188, 120, false);
  CHECK_EQ(rtx.tile, 32);
  CHECK_EQ(rtx.blocks, 188);
  CHECK_EQ(plan_sparse_prefill(4096, {32}, 132, 90, true).tile, 32);
}

TEST("prefill attention pads heads to 16 or 32 and cuts more into groups") {
  CHECK_EQ(plan_sparse_prefill(10, {2}, 132, 90, false).head_block, 16);
  CHECK_EQ(plan_sparse_prefill(10, {16}, 132, 90, false).head_block, 16);
  const SparsePrefillPlan alone = plan_sparse_prefill(10, {32, 16}, 132, 90, false);  // two ranks have 16 each
  CHECK_EQ(alone.head_block, 16);
  CHECK_EQ(alone.head_groups, 2);
  const SparsePrefillPlan plan = plan_sparse_prefill(10, {64}, 132, 90, false);
  CHECK_EQ(plan.head_block, 32);
  CHECK_EQ(plan.head_groups, 2);
  CHECK_EQ(plan.blocks, 20);
}

TEST("a decode token's splits depend on its layer and the longest context alone") {
  CHECK_EQ(decode_splits(LayerKind::kSwa, 512, 100000), 1);
  CHECK_EQ(decode_splits(LayerKind::kCsa, 512, 100000), 5);
  CHECK_EQ(decode_splits(LayerKind::kCsa, 512, 400), 2);
  CHECK_EQ(decode_splits(LayerKind::kHca, 512, 524288), 9);
  CHECK_EQ(decode_splits(LayerKind::kSwa, 512, 1), 1);
}

TEST("few decode tokens are spread over tiles, many over splits") {
  const auto plan = [](LayerKind kind, int tokens, int context) {
    return plan_sparse_decode(kind, 512, context, tokens, 32, 132);
  };
  CHECK(plan(LayerKind::kCsa, 1, 100000).spread);
  CHECK_EQ(plan(LayerKind::kCsa, 1, 100000).parts, 20);
  CHECK_EQ(plan(LayerKind::kCsa, 1, 100000).blocks, 20);
  CHECK(plan(LayerKind::kCsa, 6, 100000).spread);
  CHECK(!plan(LayerKind::kCsa, 7, 100000).spread);
  CHECK_EQ(plan(LayerKind::kCsa, 7, 100000).parts, 5);
  CHECK(plan(LayerKind::kSwa, 33, 100000).spread);
  CHECK(!plan(LayerKind::kSwa, 34, 100000).spread);
  CHECK(plan(LayerKind::kHca, 14, 131072).spread);
  CHECK_EQ(plan(LayerKind::kHca, 3, 524288).parts, 132);
  CHECK_EQ(plan(LayerKind::kHca, 3, 524288).blocks, 88);
  CHECK(!plan(LayerKind::kHca, 4, 524288).spread);
  CHECK_EQ(plan(LayerKind::kHca, 4, 524288).blocks, 9);
  CHECK_EQ(decode_parts(3, 9), size_t{kMaxSpreadParts});
  CHECK_EQ(decode_parts(192, 9), size_t{1728});
}

TEST("indexer scores are taken in chunks of whole groups that fit their buffer, at least one group") {
  CHECK_EQ(score_chunk_tokens(16 << 20, 4096), 4096);
  CHECK_EQ(score_chunk_tokens(16 << 20, 131072), 128);
  CHECK_EQ(score_chunk_tokens(1 << 20, 1 << 20), kScoreGroup);
}

TEST("few tokens are scored one by one, by as many blocks as the device has room for") {
  IndexScoreParams p;
  p.entry_limit = 1122;
  p.tokens = p.groups.groups = 1;
  p.multiprocessors = 132;
  CHECK_EQ(few_score_blocks(p), 18);
  p.entry_limit = 1 << 18;
  CHECK_EQ(few_score_blocks(p), 132);
  p.tokens = 3;
  CHECK_EQ(few_score_blocks(p), 44);
  p.tokens = 4;  // they share entries
  CHECK_EQ(few_score_blocks(p), 0);
  p.tokens = p.groups.groups = 25;
  CHECK_EQ(few_score_blocks(p), 0);
  p.tokens = p.groups.groups = 8;
  CHECK_EQ(few_score_blocks(p), 16);
  p.query_fp8 = true;
  CHECK_EQ(few_score_blocks(p), 0);
}

TEST("indexer scores run on FP8 tensor cores in served numerics on sm_12x, of rows in fp8") {
  CHECK(index_scores_in_fp8(true, RowFormat::kFp8, 120));
  CHECK(index_scores_in_fp8(true, RowFormat::kFp8, 121));
  CHECK(!index_scores_in_fp8(true, RowFormat::kFp8, 90));
  CHECK(!index_scores_in_fp8(true, RowFormat::kBF16, 120));
  CHECK(!index_scores_in_fp8(false, RowFormat::kFp8, 120));
}

TEST("a gather covers the visible entries and the window of the row's first token") {
  const GatherShape csa = gather_shape(1000, 24, kCsaRatio, 0);
  CHECK_EQ(csa.compressed, 256);
  CHECK_EQ(csa.window_start, 873);
  CHECK_EQ(csa.window, 151);
  CHECK_EQ(gather_shape(5, 3, 0, 1).window_start, 1);
}

TEST("graphs are padded to few sizes, never by more than half") {
  const int sizes[] = {1, 2, 3, 4, 6, 6, 8, 8, 12};
  for (int rows = 1; rows <= 9; ++rows) CHECK_EQ(padded_rows(rows), sizes[rows - 1]);
  CHECK_EQ(padded_rows(33), 48);
  CHECK_EQ(padded_rows(49), 64);
  CHECK_EQ(padded_rows(64), 64);
}

TEST("a step is a graph only when every row verifies its drafts and nothing else is asked") {
  StepInput input;
  CHECK(!is_decode_step(input));
  input.slot = {0, 1};
  input.flags = {kRowSample, kRowSample};
  input.count = {3, 1};
  input.drafts = {2, 0};
  input.sampling.resize(2);
  CHECK(is_decode_step(input));
  input.sampling[1].logprobs = 0;
  CHECK(!is_decode_step(input));
  input.sampling[1].logprobs = -1;
  input.count[1] = 5;  // a prompt that ends in this step
  CHECK(!is_decode_step(input));
}

TEST("few tokens cross in one cluster where the device runs clusters") {
  HyperParams p;
  p.clusters = true;
  p.dim = 4096;
  p.tokens = 4;
  p.late_comb = true;
  CHECK(takes_cluster(p));
  p.tokens = 5;
  CHECK(!takes_cluster(p));
  p.tokens = 1;
  p.clusters = false;
  CHECK(!takes_cluster(p));
  p.clusters = true;
  p.dim = 7168;
  CHECK(!takes_cluster(p));
}

TEST("a launch asks for a share of shared memory on Hopper alone, never for more than the size that it names") {
  for (const int kilobytes : {64, 100, 132, 164, 196}) {
    const int percent = shared_carveout(kilobytes, 90);
    CHECK(percent * 228 <= kilobytes * 100);
    CHECK((percent + 1) * 228 > kilobytes * 100);
  }
  CHECK_EQ(shared_carveout(164, 120), -1);
}

TEST("the router of few tokens is one cluster where the device runs clusters") {
  GateParams gate;
  gate.clusters = true;
  gate.cols = 4096;
  RouteParams route;
  route.tokens = 4;
  route.experts = 256;
  route.picks = 6;
  CHECK(takes_cluster(gate, route));
  route.picks = 9;
  CHECK(!takes_cluster(gate, route));
  route.picks = 6;
  route.tokens = 5;
  CHECK(!takes_cluster(gate, route));
  route.tokens = 1;
  route.experts = 384;
  CHECK(!takes_cluster(gate, route));
  route.experts = 256;
  gate.clusters = false;
  CHECK(!takes_cluster(gate, route));
}

TEST("a build has kernels for the architectures that it was asked for, and for no other") {
  CHECK(has_kernels("90a,120a,121a", 90));
  CHECK(has_kernels("90a,120a,121a", 121));
  CHECK(!has_kernels("90a,120a", 121));
  CHECK(!has_kernels("90a,120a,121a", 89));
  CHECK(!has_kernels("120a", 12));
  CHECK(!has_kernels("", 90));
}
