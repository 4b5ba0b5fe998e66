// SPDX-License-Identifier: MIT
// Router and dispatch against host references, and their launches for few tokens against those for many. With --bench: the
// router's time.
#include <numeric>

#include "moe/dispatch.h"
#include "moe/route.h"
#include "moe/route_cluster.h"
#include "router_problem.h"

using namespace twelvex;
using namespace twelvex::test;
using bf16 = __nv_bfloat16;

namespace {

float score_of(float logit) { return std::sqrt(logit > 20 ? logit : std::log1p(std::exp(logit))); }

void test_route(int tokens, int experts, int picks, bool table) {
  std::vector<float> logits = random_f32(static_cast<size_t>(tokens) * experts, 2.0f), bias = random_f32(experts, 0.3f);
  for (int e = 0; e + 1 < experts; e += 5) {  // ties: the lower id wins
    bias[e + 1] = bias[e];
    for (int t = 0; t < tokens; ++t)
      logits[static_cast<size_t>(t) * experts + e + 1] = logits[static_cast<size_t>(t) * experts + e];
  }
  logits[0] = 25;  // the linear part of softplus
  std::vector<int32_t> rows(tokens, 0), token_ids(tokens), entries(100 * static_cast<size_t>(picks));
  if (tokens > 2) rows[tokens / 2] = -1;
  for (int32_t& id : token_ids) id = below(100);
  for (int i = 0; i < 100; ++i) {
    for (int k = 0; k < picks; ++k) entries[static_cast<size_t>(i) * picks + k] = (i * 7 + k) % experts;
  }
  const DeviceArray<float> d_logits(logits), d_bias(bias), weights(static_cast<size_t>(tokens) * picks);
  const DeviceArray<int32_t> d_rows(rows), d_tokens(token_ids), d_table(entries), ids(static_cast<size_t>(tokens) * picks);
  weights.poison(), ids.poison();
  cuda::run_route({.tokens = tokens,
                   .experts = experts,
                   .picks = picks,
                   .scale = 1.5f,
                   .logits = d_logits,
                   .bias = table ? nullptr : d_bias.get(),
                   .table = table ? d_table.get() : nullptr,
                   .token_id = d_tokens,
                   .token_row = d_rows,
                   .ids = ids,
                   .weights = weights});
  sync("run_route");
  const std::vector<int32_t> got = ids.download();
  const std::vector<float> w = weights.download();
  bool same = true;
  Difference d;
  for (int t = 0; t < tokens; ++t) {
    const float* row = &logits[static_cast<size_t>(t) * experts];
    std::vector<int> order(experts);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](int a, int b) { return score_of(row[a]) + bias[a] > score_of(row[b]) + bias[b]; });
    double total = 0;
    for (int k = 0; k < picks; ++k) {
      const int32_t id = got[static_cast<size_t>(t) * picks + k];
      if (rows[t] < 0) {
        same &= id == -1;
        continue;
      }
      const int32_t expected = table ? entries[static_cast<size_t>(token_ids[t]) * picks + k] : order[k];
      // Scores of the device and the host may differ by an ulp: an exchange of near-equals is no error.
      same &= id == expected ||
              (!table && id >= 0 && std::abs(score_of(row[id]) + bias[id] - score_of(row[expected]) - bias[expected]) < 1e-6f);
      total += id >= 0 ? score_of(row[id]) : 0;
    }
    for (int k = 0; k < picks && rows[t] >= 0; ++k) {
      const size_t at = static_cast<size_t>(t) * picks + k;
      d.add(w[at], score_of(row[got[at]]) / total * 1.5);
    }
  }
  const std::string what = "T=" + std::to_string(tokens) + " E=" + std::to_string(experts) + (table ? " by table" : " by score");
  expect(same, "router, " + what + ": experts");
  expect_close(d, 1e-5, "router, " + what + ": weights");
}

void test_dispatch(int tokens, int experts, int picks, int tile_rows) {
  const int slots = tokens * picks;
  std::vector<int32_t> ids(slots);
  for (int i = 0; i < slots; ++i)
    ids[i] = i / picks % 11 == 10 ? -1 : below(3) == 0 ? below(experts) : below(1 + experts / 8);  // skewed
  const std::vector<float> weights = random_f32(slots);
  const int most = cuda::max_group_tiles(slots, experts, tile_rows);
  const DeviceArray<int32_t> d_ids(ids), token(slots), row(slots), begin(experts + 1), count(1);
  const DeviceArray<float> d_weights(weights), weight(slots);
  const DeviceArray<cuda::GroupTile> tiles(most);
  token.poison(), row.poison(), begin.poison(), count.poison(), weight.poison(), tiles.poison();
  cuda::run_dispatch({.slots = slots,
                      .picks = picks,
                      .experts = experts,
                      .tile_rows = tile_rows,
                      .ids = d_ids,
                      .weights = d_weights,
                      .sorted_token = token,
                      .sorted_weight = weight,
                      .row_of_slot = row,
                      .begin = begin,
                      .tiles = tiles,
                      .tile_count = count});
  sync("run_dispatch");
  std::vector<int> order;
  for (int e = 0; e < experts; ++e) {
    for (int i = 0; i < slots; ++i) {
      if (ids[i] == e) order.push_back(i);
    }
  }
  const auto got_token = token.download(), got_row = row.download(), got_begin = begin.download();
  const auto got_weight = weight.download();
  bool same = got_begin[experts] == static_cast<int>(order.size());
  std::vector<int32_t> expected_row(slots, -1);
  for (size_t r = 0; r < order.size(); ++r) {
    same &= got_token[r] == order[r] / picks && got_weight[r] == weights[order[r]];
    expected_row[order[r]] = static_cast<int32_t>(r);
  }
  same &= got_row == expected_row;
  // Tiles cover every expert's run, in order, without gaps.
  const int tile_count = count.download()[0];
  const auto got_tiles = tiles.download();
  int at = 0, tile = 0;
  for (int e = 0; e < experts; ++e) {
    same &= got_begin[e] == at;
    const int end = at + static_cast<int>(std::count(ids.begin(), ids.end(), e));
    for (; at < end; at += tile_rows, ++tile) {
      same &= tile < tile_count && got_tiles[tile].expert == e && got_tiles[tile].first == at &&
              got_tiles[tile].rows == std::min(tile_rows, end - at);
      if (!same) break;
    }
    at = end;
  }
  expect(same && tile == tile_count && tile_count <= most, "dispatch, " + std::to_string(slots) + " slots to " +
                                                               std::to_string(experts) + " experts, tiles of " +
                                                               std::to_string(tile_rows));
}

/// Router and dispatch in one launch leave what two leave.
void test_route_and_dispatch(int tokens, int experts, int picks) {
  const DeviceArray<float> logits(random_f32(static_cast<size_t>(tokens) * experts, 2.0f)), bias(random_f32(experts, 0.3f));
  const DeviceArray<int32_t> token_row(rows_with_padding(tokens));
  const RoutedArrays out(tokens * picks, experts);
  const cuda::RouteParams route = {.tokens = tokens, .experts = experts, .picks = picks, .scale = 1.5f, .logits = logits,
                                   .bias = bias, .token_row = token_row, .ids = out.ids, .weights = out.weights};
  const cuda::DispatchParams dispatch = out.dispatch(picks);
  const Routed two = out.after([&] {
    cuda::run_route(route);
    cuda::run_dispatch(dispatch);
  });
  const Routed one = out.after([&] { cuda::run_route_and_dispatch(route, dispatch); });
  expect(one == two, "router and dispatch of " + std::to_string(tokens) + " tokens in one launch leave the same");
}

/// Product, router and dispatch in one launch leave what three leave.
void test_route_cluster(int tokens, bool table, bool timed = false) {
  if (!cuda::device_info().clusters) {
    std::printf("  SKIPPED: the router of %d tokens in a cluster, for which this device has no room\n", tokens);
    return;
  }
  const RouterProblem problem(rows_with_padding(tokens), table);
  const DeviceArray<bf16> hidden(random_bf16(static_cast<size_t>(tokens) * problem.kCols, 0.5f));
  const RoutedArrays& out = problem.out;
  const cuda::GateParams product = problem.product(hidden);
  const std::string what = problem.name();
  expect(cuda::takes_cluster(product, problem.route()), "the router of " + what + " takes a cluster");
  const auto call = [&](bool together, cudaStream_t stream) {
    const cuda::DispatchParams dispatch = out.dispatch(problem.kPicks);
    if (together) return cuda::run_route_cluster(product, problem.route(stream), dispatch);
    problem.run_apart(hidden, dispatch, stream);
  };
  const Routed three = out.after([&] { call(false, nullptr); }), one = out.after([&] { call(true, nullptr); });
  expect(one == three, "product, router and dispatch of " + what + " in one launch leave the same");
  if (!timed) return;
  const auto us = [&](bool together) { return time_graph_us(20, [&](int, cudaStream_t stream) { call(together, stream); }); };
  std::printf("  router of %s: %.2f us, in one launch %.2f us\n", what.c_str(), us(false), us(true));
}

}  // namespace

int main(int argc, char** argv) {
  const bool timed = start("route", argc, argv);
  for (const bool table : {false, true}) {
    test_route(1, 12, 2, table);
    test_route(37, 256, 6, table);
    test_route(5, 384, 8, table);
  }
  test_route_and_dispatch(1, 256, 6);
  test_route_and_dispatch(5, 24, 6);
  test_route_and_dispatch(8, 500, 16);
  test_route_and_dispatch(cuda::kRouteDispatchTokens, 384, 16);
  for (const bool table : {false, true}) {
    for (const int tokens : cases({3, 1, 2, 4}, 1)) test_route_cluster(tokens, table, timed);
  }
  test_dispatch(1, 256, 6, 8);
  test_dispatch(85, 256, 6, 8);
  test_dispatch(86, 12, 6, 8);
  test_dispatch(1000, 384, 6, 64);
  if (!brief) test_dispatch(8192, 256, 6, 128);
  return finish("route");
}
