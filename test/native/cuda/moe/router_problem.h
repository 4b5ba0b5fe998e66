// SPDX-License-Identifier: MIT
// A router of Flash's shape, whose product, choice and dispatch are launches of their own: what one launch for them is held to.
#pragma once

#include "../gemm/gemm_reference.h"
#include "moe/route_cluster.h"
#include "routed_arrays.h"
#include "weights.h"

namespace twelvex::test {

struct RouterProblem {
  static constexpr int kExperts = cuda::kRouteClusterExperts, kCols = cuda::kRouteClusterCols, kPicks = 6, kTableRows = 100;

  const int tokens;
  const bool table;
  cuda::WeightStore store{nullptr};
  Linear gate;
  const DeviceArray<float> logits, bias;
  const DeviceArray<int32_t> token_row, entries, token_id;
  const RoutedArrays out;

  /// `rows`: of the tokens, negative ones are padding.
  RouterProblem(const std::vector<int32_t>& rows, bool by_table)
      : tokens(static_cast<int>(rows.size())),
        table(by_table),
        logits(rows.size() * kExperts),
        bias(random_f32(kExperts, 0.3f)),
        token_row(rows),
        entries(draw_table()),
        token_id(draw(rows.size(), kTableRows)),
        out(tokens * kPicks, kExperts) {
    const HostMatrix weights(WeightFormat::kBF16, kExperts, kCols);
    gate = store.linear(weights.view());
    store.finish();
  }

  const uint8_t* weights() const { return static_cast<const uint8_t*>(gate.data); }
  std::string name() const { return std::to_string(tokens) + " tokens" + (table ? " by table" : ""); }

  cuda::GateParams product(const __nv_bfloat16* hidden) const {
    return {weights(), hidden, kCols, cuda::device_info().clusters};
  }
  cuda::RouteParams route(cudaStream_t stream = nullptr) const {
    return {.tokens = tokens, .experts = kExperts, .picks = kPicks, .scale = 1.5f, .logits = logits,
            .bias = table ? nullptr : bias.get(), .table = table ? entries.get() : nullptr, .token_id = token_id,
            .token_row = token_row, .ids = out.ids, .weights = out.weights, .stream = stream};
  }

  /// Product, then choice and dispatch.
  void run_apart(const __nv_bfloat16* hidden, cuda::DispatchParams dispatch, cudaStream_t stream = nullptr) const {
    cuda::GemmParams gemm;
    gemm.format = WeightFormat::kBF16;
    gemm.rows = tokens;
    gemm.cols = gemm.ldx = kCols;
    gemm.arch = wide_arch();
    gemm.num_sms = cuda::device_info().multiprocessors;
    gemm.num_segments = 1;
    gemm.segments[0] = {.weights = weights(), .x = hidden, .y = logits, .rows = kExperts, .ldy = kExperts, .f32 = true};
    gemm.stream = dispatch.stream = stream;
    cuda::run_gemm(gemm);
    cuda::run_route_and_dispatch(route(stream), dispatch);
  }

 private:
  static std::vector<int32_t> draw(size_t count, int end) {
    std::vector<int32_t> values(count);
    for (int32_t& value : values) value = below(end);
    return values;
  }
  /// Every other row names an expert twice.
  static std::vector<int32_t> draw_table() {
    std::vector<int32_t> table = draw(static_cast<size_t>(kTableRows) * kPicks, kExperts);
    for (size_t row = 0; row < table.size(); row += 2 * kPicks) table[row + 4] = table[row + 1];
    return table;
  }
};

}  // namespace twelvex::test
