// SPDX-License-Identifier: MIT
// Launch plans are pure functions of the shape: checked without a GPU.
#include <algorithm>
#include <initializer_list>
#include <vector>

#include "check.h"
#include "common/device.h"
#include "gemm/fp8_gemm.h"
#include "gemm/gemm.h"
#include "gemm/stream_plan.h"
#include "gemm/warpgroup_gemm.h"
#include "moe/dispatch.h"

using namespace twelvex;
using namespace twelvex::cuda;

namespace {

GemmParams dense(WeightFormat format, int rows, int cols, std::initializer_list<int> outputs, int num_sms = 132) {
  GemmParams p;
  p.format = format;
  p.rows = rows;
  p.cols = p.ldx = cols;
  for (int n : outputs) p.segments[p.num_segments++].rows = n;
  p.num_sms = num_sms;
  return p;
}

GemmParams grouped(int tokens, int picks, int experts, int cols, int outputs) {
  GemmParams p = dense(WeightFormat::kFp4Group32, tokens * picks, cols, {outputs});
  static const GroupTile kSomewhere{};
  p.tiles = &kSomewhere;
  p.experts = experts;
  p.max_tiles = max_group_tiles(p.rows, experts, group_tile_rows(p.rows, experts, p.arch));
  return p;
}

}  // namespace

TEST("few rows stream the weights, many share tiles") {
  CHECK_EQ(stream_rows(dense(WeightFormat::kFp8Block128, 1, 4096, {4096})), 8);
  CHECK_EQ(stream_rows(dense(WeightFormat::kFp8Block128, 8, 4096, {4096})), 8);
  CHECK_EQ(stream_rows(dense(WeightFormat::kFp8Block128, 9, 4096, {4096})), 16);
  CHECK_EQ(stream_rows(dense(WeightFormat::kFp8Block128, 17, 4096, {4096})), 0);
  GemmParams paired = dense(WeightFormat::kFp8Block128, 9, 4096, {1024, 1024});
  paired.paired = true;
  CHECK_EQ(stream_rows(paired), 0);
}

TEST("the split of K depends on K alone, so that a row's sums are the same in any batch") {
  for (int cols : {96, 256, 1024, 1152, 4096, 7168, 8192, 16384}) {
    const StreamPlan one = plan_stream(dense(WeightFormat::kFp8Block128, 1, cols, {1536}), 8);
    const StreamPlan other = plan_stream(dense(WeightFormat::kFp8Block128, 8, cols, {64640}, 188), 8);
    CHECK_EQ(one.chunks, (cols + kChunkCols - 1) / kChunkCols);
    CHECK_EQ(other.chunks, one.chunks);
    CHECK(one.split * one.rounds >= one.chunks);
    CHECK_EQ(one.split << one.groups_log, stream_warps(8));
  }
}

TEST("partial sums fit into the shared memory of sm_12x for every width") {
  for (int cols = 32; cols <= 16384; cols += 32) {
    for (int rows : {8, 16}) {
      const StreamPlan plan = plan_stream(dense(WeightFormat::kBF16, rows, cols, {4096}), rows);
      CHECK(plan.smem_bytes <= kMaxSharedBytes);
    }
    if (cols > 8192) continue;
    GemmParams paired = dense(WeightFormat::kFp8Block128, 8, cols, {1024, 1024});
    paired.paired = true;
    CHECK(plan_stream(paired, 8).smem_bytes <= kMaxSharedBytes);
  }
}

TEST("a launch divides as the compiler would") {
  for (int divisor = 1; divisor < 700; ++divisor) {
    const Divider by(divisor);
    for (int n : {0, 1, divisor - 1, divisor, 6 * 128, 384 * 256 - 1, 3'000'000}) CHECK_EQ(by.divide(n), n / divisor);
  }
}

TEST("the blocks of a streaming launch take every step once, as many each as they can, those that were busy before fewer") {
  const auto check = [](int blocks, int busy, int steps, bool last_longer) {
    StreamPlan plan;
    plan.blocks = Divider(blocks);
    plan.busy_blocks = busy;
    plan.last_longer = last_longer;
    CHECK_EQ(plan.first_step(steps, 0), 0);
    CHECK_EQ(plan.first_step(steps, blocks), steps);
    int most = 0;
    for (int block = 0; block < blocks; ++block) {
      const int count = plan.first_step(steps, block + 1) - plan.first_step(steps, block);
      CHECK(count >= 0);
      most = std::max(most, count + (block < busy));
    }
    CHECK(most <= (steps + busy + blocks - 1) / blocks);
  };
  for (int blocks : {1, 2, 131, 264}) {
    for (int busy : {0, 1, 64, 128}) {
      if (busy > blocks) continue;
      for (int steps : {0, 1, 5, 131, 263, 264, 265, 384, 768, 6144}) {
        for (bool last_longer : {false, true}) check(blocks, busy, steps, last_longer);
      }
    }
  }
}

TEST("where steps do not divide evenly the last blocks take one more, but for experts of several tokens") {
  const auto steps_of = [](const StreamPlan& plan, int steps, int block) {
    return plan.first_step(steps, block + 1) - plan.first_step(steps, block);
  };
  const StreamPlan dense_plan = plan_stream(dense(WeightFormat::kFp8Block128, 1, 1024, {32768, 8192}), 8);
  CHECK_EQ(dense_plan.grid, 264);
  CHECK_EQ(steps_of(dense_plan, 640, 0), 2);
  CHECK_EQ(steps_of(dense_plan, 640, 263), 3);
  GemmParams experts = grouped(1, 6, 256, 4096, 2048);
  experts.group_rows = 1;
  CHECK(plan_stream(experts, 8).last_longer);
  experts.group_rows = 3;
  CHECK(!plan_stream(experts, 8).last_longer);
}

TEST("two blocks of a streaming launch share a multiprocessor where its shared memory has room for them") {
  const auto experts = [](int tokens, int arch) {
    GemmParams p = grouped(tokens, 6, 256, 4096, 1024);
    p.paired = true;
    p.segments[p.num_segments++].rows = 1024;
    p.group_rows = tokens;
    p.arch = arch;
    return plan_stream(p, 8);
  };
  for (int tokens : {1, 3, 8}) {
    CHECK_EQ(experts(tokens, 90).residents, 2);
    CHECK(2 * (experts(tokens, 90).smem_bytes + 1024) <= 228 * 1024);
  }
  CHECK_EQ(experts(1, 120).residents, 2);
  CHECK(2 * (experts(1, 120).smem_bytes + 1024) <= 100 * 1024);
  CHECK_EQ(experts(8, 120).residents, 1);
  CHECK_EQ(plan_stream(dense(WeightFormat::kBF16, 1, 4096, {64640}), 8).grid, 132);
  CHECK_EQ(plan_stream(dense(WeightFormat::kFp8Block128, 1, 1024, {16384}), 8).grid, 256);
}

TEST("a launch covers every row of every segment") {
  const StreamPlan stream = plan_stream(dense(WeightFormat::kFp8Block128, 3, 4096, {1024, 512, 12}), 8);
  CHECK_EQ(stream.units, 64 + 32 + 1);
  CHECK_EQ(stream.grid, 97);
  const TilePlan tile = plan_tile(dense(WeightFormat::kFp8Block128, 4096, 4096, {1024, 512, 12}));
  CHECK_EQ(tile.grid_n, 8 + 4 + 1);
  CHECK_EQ(tile.rows_m, 128);
  CHECK_EQ(tile.grid_m, 32);
}

TEST("a short prompt takes smaller tiles, so that more multiprocessors work") {
  CHECK_EQ(plan_tile(dense(WeightFormat::kFp8Block128, 20, 4096, {4096})).rows_m, 32);
  CHECK_EQ(plan_tile(dense(WeightFormat::kFp8Block128, 200, 4096, {4096})).rows_m, 64);
  CHECK_EQ(plan_tile(dense(WeightFormat::kFp8Block128, 4096, 4096, {4096})).rows_m, 128);
}

TEST("warpgroups take products of many rows on sm_90a when there is room for their input in operand order") {
  GemmParams p = dense(WeightFormat::kFp8Block128, 17, 4096, {4096});
  __nv_bfloat16 somewhere[8];
  CHECK(!takes_warpgroup(p));
  p.arch = 90;
  CHECK(!takes_warpgroup(p));
  p.quantised = somewhere;
  CHECK(takes_warpgroup(p));
  p.rows = 16;
  CHECK(!takes_warpgroup(p));
  p.rows = 17;
  p.arch = 120;
  CHECK(!takes_warpgroup(p));
}

TEST("blocks of a warpgroup launch have the rows that fill the last round best") {
  const auto rows_of = [](int rows, int outputs) {
    return plan_warpgroup(dense(WeightFormat::kFp8Block128, rows, 4096, {outputs}));
  };
  CHECK_EQ(rows_of(4096, 4096).rows_m, 128);
  CHECK_EQ(rows_of(1036, 4096).rows_m, 96);  // 11 x 32 blocks in three rounds, as many as of 9 x 32 larger ones
  CHECK_EQ(rows_of(20, 4096).rows_m, 32);
  for (int rows : {17, 64, 100, 1036, 4096}) {
    const TilePlan plan = rows_of(rows, 1536);
    CHECK(plan.rows_m * plan.grid_m >= rows && plan.rows_m * (plan.grid_m - 1) < rows);
  }
}

TEST("group tiles follow the average number of rows an expert has") {
  CHECK_EQ(group_tile_rows(6, 256, 0), 8);
  CHECK_EQ(group_tile_rows(192 * 6, 256, 0), 8);
  CHECK_EQ(group_tile_rows(1024 * 6, 256, 0), 64);
  CHECK_EQ(group_tile_rows(4096 * 6, 256, 0), 128);
  CHECK_EQ(group_tile_rows(192 * 6, 256, 90), 8);
  CHECK_EQ(group_tile_rows(1024 * 6, 256, 90), 128);
  CHECK_EQ(plan_tile(grouped(1024, 6, 256, 4096, 4096)).rows_m, 64);
}

TEST("products of few rows run side by side, each with the blocks that its bytes need") {
  const auto both = [](int tokens, bool early = false, const uint32_t* ready = nullptr) {
    GemmParams shared = dense(WeightFormat::kFp8Block128, tokens, 4096, {1024, 1024});
    shared.input_ready = early;
    shared.ready = ready;
    GemmParams experts = grouped(tokens, 6, 256, 4096, 1024);
    experts.segments[experts.num_segments++].rows = 1024;
    experts.paired = shared.paired = true;
    experts.arch = shared.arch = 90;
    return plan_beside(shared, experts);
  };
  const BesidePlan one = both(1);
  CHECK_EQ(one.grid, 264);
  CHECK_EQ(one.first_blocks, 64);  // 64 units of 132 KB and 384 of 70: one and two a block
  CHECK(both(8).first_blocks > 0 && both(8).first_blocks < one.first_blocks);
  const uint32_t count = 0;
  CHECK_EQ(both(1).second.busy_blocks, 0);
  CHECK_EQ(both(1, true).second.busy_blocks, 64);         // have done a step when the others begin
  CHECK_EQ(both(1, true, &count).second.busy_blocks, 8);  // begun sooner, it hardly counts
  CHECK_EQ(both(9).grid, 0);  // the shared expert takes tiles
  GemmParams first = dense(WeightFormat::kFp8Block128, 1, 1024, {4096}), second = grouped(1, 6, 256, 1024, 4096);
  CHECK_EQ(plan_beside(first, second).grid, 132);
  second.rows = 0;
  CHECK_EQ(plan_beside(first, second).grid, 0);
  second = dense(WeightFormat::kBF16, 1, 1024, {2048, 512});
  CHECK_EQ(plan_beside(first, second).grid, 64 + 40);
  CHECK_EQ(plan_beside(second, first).grid, 0);  // fp8 comes first
  second.paired = true;
  CHECK_EQ(plan_beside(first, second).grid, 0);
}

TEST("FP8 tensor cores take many rows of quantised weights in served numerics on sm_12x, and nothing else") {
  GemmParams p = dense(WeightFormat::kFp8Block128, 4096, 4096, {4096}, 188);
  p.quantise = true;
  for (int arch : {120, 121}) {
    p.arch = arch;
    CHECK(takes_fp8(p));
  }
  p.arch = 90;
  CHECK(!takes_fp8(p));
  p.arch = 0;
  CHECK(!takes_fp8(p));
  p.arch = 120;
  p.quantise = false;  // exact numerics
  CHECK(!takes_fp8(p));
  p.quantise = true;
  p.format = WeightFormat::kBF16;
  CHECK(!takes_fp8(p));
  p.format = WeightFormat::kFp8Block128;
  p.cols = 4096 + 64;  // not whole groups
  CHECK(!takes_fp8(p));
  GemmParams experts = grouped(4096, 6, 256, 4096, 4096);
  experts.quantise = true;
  experts.arch = 120;
  CHECK(takes_fp8(experts));
  experts = grouped(192, 6, 256, 4096, 4096);  // experts of few rows stream
  experts.quantise = true;
  experts.arch = 120;
  CHECK(!takes_fp8(experts));
}

TEST("FP8 blocks of experts take 64 rows, and 256 weight rows so that a gate and up pair makes whole groups of outputs") {
  CHECK_EQ(group_tile_rows(192 * 6, 256, 120), 8);
  CHECK_EQ(group_tile_rows(1024 * 6, 256, 120), 64);
  CHECK_EQ(group_tile_rows(8192 * 6, 256, 121), 64);
  GemmParams p = grouped(4096, 6, 256, 4096, 1024);
  CHECK_EQ(plan_fp8(p).grid_n, 4);
  p.segments[p.num_segments++] = p.segments[0];
  CHECK_EQ(plan_fp8(p).grid_n, 8);
  p.paired = true;
  CHECK_EQ(plan_fp8(p).grid_n, 8);
}

TEST("decode rows never make a product one of FP8, however many they are") {
  GemmParams p = dense(WeightFormat::kFp8Block128, 192, 4096, {4096}, 188);
  p.quantise = true;
  p.arch = 120;
  p.decode_rows = 192;
  CHECK(!takes_fp8(p));
  p.rows = 192 + 100;  // not worth reading the weights twice
  CHECK(!takes_fp8(p));
  p.rows = 192 + 300;
  CHECK(takes_fp8(p));
}

TEST("experts of decode tokens run apart from others that are many enough to pay for it") {
  CHECK(!experts_apart(3 * 6, 0, 256));
  CHECK(!experts_apart(3 * 6, 2048 * 6, 256));   // reading the weights is the floor of both kinds of product
  CHECK(experts_apart(3 * 6, 4096 * 6, 256));
  CHECK(!experts_apart(64 * 6, 4096 * 6, 256));  // decode alone reads all experts again
  CHECK(experts_apart(64 * 6, 8192 * 6, 256));
}

TEST("FP8 blocks take 64 or 128 rows, whichever needs less time in whole rounds") {
  CHECK_EQ(plan_fp8(dense(WeightFormat::kFp8Block128, 200, 4096, {4096}, 188)).rows_m, 64);
  CHECK_EQ(plan_fp8(dense(WeightFormat::kFp8Block128, 512, 4096, {4096}, 188)).rows_m, 128);  // two rounds of 64 take longer
  CHECK_EQ(plan_fp8(dense(WeightFormat::kFp8Block128, 4096, 4096, {4096}, 188)).rows_m, 128);
  for (int rows : {17, 32, 33, 300, 4096}) {
    const TilePlan plan = plan_fp8(dense(WeightFormat::kFp8Block128, rows, 4096, {4096}, 188));
    CHECK(plan.rows_m == 64 || plan.rows_m == 128);
    CHECK(plan.grid_m * plan.rows_m >= rows && (plan.grid_m - 1) * plan.rows_m < rows);
  }
}

TEST("the bound on group tiles holds for the worst distributions") {
  for (int experts : {12, 256, 384}) {
    for (int slots : {1, 6, 85, 1152, 49152}) {
      for (int tile_rows : {1, 3, 8, 64, 128}) {
        // Every expert but the last holds one row more than whole tiles.
        int tiles = 0, left = slots;
        for (int e = 0; e < experts && left > 0; ++e) {
          const int rows = e + 1 == experts ? left : left < 1 + tile_rows ? 1 : 1 + (e % 2) * tile_rows;
          tiles += (rows + tile_rows - 1) / tile_rows;
          left -= rows;
        }
        CHECK(tiles <= max_group_tiles(slots, experts, tile_rows));
      }
    }
  }
}

TEST("prepared matrices are padded to whole cells") {
  CHECK_EQ(weight_bytes(WeightFormat::kBF16, 12, 96), size_t{2 * 2048});
  CHECK_EQ(weight_bytes(WeightFormat::kFp8Block128, 1024, 4096), size_t{1024} * 4096);
  CHECK_EQ(weight_bytes(WeightFormat::kFp4Group32, 2048, 4096), size_t{2048} * 4096 / 2);
  CHECK_EQ(scale_bytes(WeightFormat::kFp8Block128, 1024, 4096), size_t{8 * 32});
  CHECK_EQ(scale_bytes(WeightFormat::kFp4Group32, 2048, 4096), size_t{2048} * 128);
  // Every element of a bf16 matrix has a place of its own.
  std::vector<bool> taken(weight_bytes(WeightFormat::kBF16, 37, 160) / 2);
  for (int r = 0; r < 37; ++r) {
    for (int c = 0; c < 160; ++c) {
      const size_t at = bf16_offset(r, c, 160);
      CHECK(at % 2 == 0 && at / 2 < taken.size() && !taken[at / 2]);
      taken[at / 2] = true;
    }
  }
}
