// SPDX-License-Identifier: MIT
// One token that is routed in the launch in which it crosses to the experts, against crossing, product, router and dispatch.
#include "../crossing_weights.h"
#include "hyper/hyper_cluster.h"
#include "router_problem.h"

using namespace twelvex;
using namespace twelvex::test;

namespace {

/// What the token leaves.
struct Left {
  Routed routed;
  std::vector<__nv_bfloat16> streams, hidden, quantised;
  std::vector<float> mix;
  uint32_t ready;
};

void check(bool table, int row) {
  constexpr int kDim = RouterProblem::kCols;
  const RouterProblem problem({row}, table);
  cuda::DispatchParams dispatch = problem.out.dispatch(problem.kPicks);
  dispatch.tile_rows = 1;
  expect(cuda::routes_in_crossing(problem.product(nullptr), problem.route(), dispatch), "one token is routed while it crosses");
  const CrossingWeights w(kDim);
  const auto streams = random_bf16(4 * kDim), output = random_bf16(kDim);
  const auto kept = random_f32(20);
  const auto cross = [&](bool together) {
    const DeviceArray<__nv_bfloat16> state(streams), d_output(output), hidden(kDim), quantised(kDim);
    const DeviceArray<float> mix(kept);
    const DeviceArray<uint32_t> ready(std::vector<uint32_t>{77});
    cuda::HyperParams p = w.params(1);
    p.enter = p.late_comb = true;
    p.streams = state;
    p.mix = mix;
    p.hidden = hidden;
    p.ready = ready;
    cuda::run_hyper(p, nullptr);  // into attention: clears the count
    p.leave = true;
    p.output = d_output;
    p.hidden_quantised = quantised;
    hidden.poison(), quantised.poison();
    Left left;
    left.routed = problem.out.after([&] {
      if (together) return cuda::run_hyper_and_route(p, {problem.weights(), problem.route(), dispatch}, nullptr);
      cuda::run_hyper(p, nullptr);
      problem.run_apart(hidden, dispatch);
    });
    left.streams = state.download(), left.hidden = hidden.download(), left.quantised = quantised.download();
    left.mix = mix.download(), left.ready = ready.download()[0];
    return left;
  };
  const Left apart = cross(false);
  Left at_once = cross(true);
  at_once.routed.begin = apart.routed.begin;  // is not left: nobody reads it
  const auto same = [](const auto& a, const auto& b) { return std::memcmp(a.data(), b.data(), a.size() * sizeof(a[0])) == 0; };
  const std::string what = problem.name() + (row < 0 ? ", padding" : "");
  expect(apart.ready == 0 && at_once.ready == cuda::kHyperClusterBlocks, "crossing clears the count, routing counts: " + what);
  expect(same(apart.streams, at_once.streams) && same(apart.hidden, at_once.hidden) && same(apart.mix, at_once.mix) &&
             same(apart.quantised, at_once.quantised),
         "a token that is routed meanwhile crosses to the same bits, " + what);
  expect(apart.routed == at_once.routed, "a token that crosses goes to the same experts, " + what);
}

}  // namespace

int main(int argc, char** argv) {
  start("crossing_router", argc, argv);
  if (!cuda::device_info().clusters) {
    std::printf("  SKIPPED: this device has no room for the cluster in which a token crosses and is routed\n");
    return finish("crossing_router");
  }
  for (const bool table : {false, true}) {
    for (const int row : {0, -1}) check(table, row);
  }
  return finish("crossing_router");
}
