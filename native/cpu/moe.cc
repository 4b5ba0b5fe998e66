// SPDX-License-Identifier: MIT
// Routing and experts (spec/checkpoint.md, "Router", "Expert").
#include <cstring>

#include "cpu_ops.h"

namespace twelvex::cpu {

namespace {

float sqrt_softplus(float x) { return std::sqrt(x > 20.0f ? x : std::log1p(std::exp(x))); }

}  // namespace

/// Experts of tokens and their weights, [T, K] each, in a routing array.
struct CpuOps::Choice {
  int32_t* ids = nullptr;
  float* weights = nullptr;

  static Choice in(Array routing, int tokens, int picks) {
    return {static_cast<int32_t*>(routing.data), floats_of(routing) + static_cast<int64_t>(tokens) * picks};
  }
};

/// Ids by the token's table entry or by the best biased scores (ties to the lower id); weights from the unbiased scores.
void CpuOps::choose_experts(const MoeWeights& weights, int32_t token_id, float* scores, Choice choice) const {
  const int count = config_.num_experts, picks = config_.experts_per_token;
  const auto [ids, chosen] = choice;
  for (int e = 0; e < count; ++e) scores[e] = sqrt_softplus(scores[e]);
  if (weights.tid2eid.data != nullptr) {
    std::copy_n(static_cast<const int32_t*>(weights.tid2eid.data) + static_cast<int64_t>(token_id) * picks, picks, ids);
  } else {
    const float* bias = floats_of(weights.bias);
    for (int k = 0; k < picks; ++k) {
      int best = -1;
      for (int e = 0; e < count; ++e) {
        if (std::find(ids, ids + k, e) != ids + k) continue;
        if (best < 0 || scores[e] + bias[e] > scores[best] + bias[best]) best = e;
      }
      ids[k] = best;
    }
  }
  float total = 0;
  for (int k = 0; k < picks; ++k) total += scores[ids[k]];
  for (int k = 0; k < picks; ++k) chosen[k] = scores[ids[k]] / (total + 1e-20f) * config_.routed_scaling_factor;
}

void CpuOps::route(const Batch& batch, const MoeWeights& weights, Array hidden, Array routing) {
  const BatchTokens& tokens = StepBatches::of(batch);
  const GemmJob job[] = {product(weights.gate, floats_of(hidden), batch.tokens, scratch_.router)};
  run_gemms(pool_, kernels_, job);
  const int picks = config_.experts_per_token;
  const Choice all = Choice::in(routing, batch.tokens, picks);
  for_tokens(batch.tokens, {8, 32}, [&](int first, int end, int) {
    for (int t = first; t < end; ++t) {
      float* scores = scratch_.router + static_cast<int64_t>(t) * config_.num_experts;
      choose_experts(weights, tokens.id[static_cast<size_t>(t)], scores, {all.ids + t * picks, all.weights + t * picks});
    }
  });
}

/// Copies the tokens of every expert behind each other.
void CpuOps::group_by_expert(int tokens, Choice choices, const float* hidden) {
  const auto [ids, weights] = choices;
  const int picks = config_.experts_per_token;
  std::vector<int32_t>& begin = scratch_.expert_begin;
  std::fill(begin.begin(), begin.end(), 0);
  for (int i = 0; i < tokens * picks; ++i) ++begin[static_cast<size_t>(ids[i]) + 1];
  for (size_t e = 1; e < begin.size(); ++e) begin[e] += begin[e - 1];
  for (int i = 0; i < tokens * picks; ++i) {
    const auto at = static_cast<size_t>(begin[static_cast<size_t>(ids[i])]++);
    scratch_.pair_token[at] = i / picks;
    scratch_.pair_weight[at] = weights[i];
  }
  for (size_t e = begin.size() - 1; e > 0; --e) begin[e] = begin[e - 1];
  begin[0] = 0;
  const auto dim = static_cast<size_t>(config_.hidden_size);
  for_tokens(tokens * picks, {32, 64}, [&](int first, int end, int) {
    for (auto pair = static_cast<size_t>(first); pair < static_cast<size_t>(end); ++pair) {
      const float* from = hidden + static_cast<size_t>(scratch_.pair_token[pair]) * dim;
      std::memcpy(scratch_.gathered + pair * dim, from, dim * sizeof(float));
    }
  });
}

namespace {

/// The product with one of the stacked experts, for tokens [begin, end) in expert order.
GemmJob expert_product(const Linear& stacked, int expert, int begin, int end) {
  GemmJob job = gemm_args(stacked);
  job.panels = static_cast<const uint8_t*>(job.panels) + static_cast<size_t>(expert * job.panel_count) * panel_bytes(stacked);
  job.x_stride = static_cast<size_t>(stacked.cols);
  job.rows = end - begin;
  return job;
}

}  // namespace

void CpuOps::run_gate_up(const MoeWeights& weights, int tokens, const float* hidden) {
  const Experts& experts = weights.experts;
  const auto dim = static_cast<size_t>(config_.hidden_size), width = static_cast<size_t>(expert_width(experts));
  const int pairs = tokens * config_.experts_per_token;
  scratch_.jobs.clear();
  const float* gathered = input_of(experts.gate_up, scratch_.gathered, pairs, config_.hidden_size);
  if (gathered != scratch_.gathered) std::memcpy(scratch_.gathered, gathered, static_cast<size_t>(pairs) * dim * sizeof(float));
  for (int e = 0; e < experts.count; ++e) {
    const int begin = scratch_.expert_begin[static_cast<size_t>(e)], end = scratch_.expert_begin[static_cast<size_t>(e) + 1];
    if (begin == end || width == 0) continue;
    GemmJob job = expert_product(experts.gate_up, e, begin, end);
    job.x = scratch_.gathered + static_cast<size_t>(begin) * dim;
    job.out = scratch_.expert_act + static_cast<size_t>(begin) * width;
    job.out_stride = width;
    job.store = GemmStore::kGated;
    job.limit = config_.swiglu_limit;
    job.row_weight = scratch_.pair_weight + begin;
    scratch_.jobs.push_back(job);
  }
  const float* shared_in = input_of(weights.shared_gate, hidden, tokens, config_.hidden_size);
  scratch_.jobs.push_back(product(weights.shared_gate, shared_in, tokens, scratch_.shared_gate));
  scratch_.jobs.push_back(product(weights.shared_up, shared_in, tokens, scratch_.shared_up));
  run_gemms(pool_, kernels_, scratch_.jobs);
  const int count = tokens * static_cast<int>(weights.shared_gate.rows);
  kernels_.gate_up(scratch_.shared_gate, scratch_.shared_up, config_.swiglu_limit, count, scratch_.shared_gate);
}

/// One part of the down projections: what its columns of the activations are multiplied with and where the sum goes.
struct CpuOps::DownPart {
  const Linear& routed;
  const Linear& shared;
  int64_t first_column = 0;  // of this part in the rank's width
  const float* shared_act = nullptr;
  float* output = nullptr;
};

/// Every output element is summed in one order: the shared expert, then the routed ones by id.
void CpuOps::add_down_jobs(const DownPart& part, int experts, int tokens, int64_t width) {
  const auto stride = static_cast<size_t>(width);
  scratch_.jobs.push_back(product(part.shared, part.shared_act + part.first_column, tokens, part.output));
  scratch_.jobs.back().x_stride = stride;
  for (int e = 0; e < experts; ++e) {
    const int begin = scratch_.expert_begin[static_cast<size_t>(e)], end = scratch_.expert_begin[static_cast<size_t>(e) + 1];
    if (begin == end) continue;
    GemmJob job = expert_product(part.routed, e, begin, end);
    job.x = scratch_.expert_act + static_cast<size_t>(begin) * stride + part.first_column;
    job.x_stride = stride;
    job.out = part.output;
    job.out_stride = static_cast<size_t>(config_.hidden_size);
    job.out_rows = scratch_.pair_token + begin;
    job.store = GemmStore::kAdd;
    job.columns = config_.hidden_size;
    scratch_.jobs.push_back(job);
  }
}

void CpuOps::run_down(const MoeWeights& weights, int tokens, float* output) {
  const Experts& experts = weights.experts;
  const int pairs = tokens * config_.experts_per_token;
  const int64_t width = expert_width(experts);
  const float* act = input_of(first_part(experts.down), scratch_.expert_act, pairs, width);
  if (act != scratch_.expert_act) std::memcpy(scratch_.expert_act, act, static_cast<size_t>(pairs * width) * sizeof(float));
  const float* shared = input_of(first_part(weights.shared_down), scratch_.shared_gate, tokens, width);
  const Parts<float*> out = part_outputs(weights.shared_down, output);
  scratch_.jobs.clear();
  int64_t column = 0;
  for (size_t i = 0; i < kParts; column += weights.shared_down[i++].cols) {
    if (weights.shared_down[i].cols == 0) continue;
    add_down_jobs({experts.down[i], weights.shared_down[i], column, shared, out[i]}, experts.count, tokens, width);
  }
  if (!scratch_.jobs.empty()) {
    const int panels = scratch_.jobs.front().panel_count, group = panels >= 8 * pool_.threads() ? 2 : 1;
    pool_.run((panels + group - 1) / group, [&](int item, int) {
      for (const GemmJob& job : scratch_.jobs)
        kernels_.gemm(panel_slice(job, item * group, std::min(group, panels - item * group)));
    });
  }
  add_parts(weights.shared_down, tokens, output);
}

void CpuOps::run_experts(const Batch& batch, const MoeWeights& weights, Array hidden, Array routing, Array output) {
  group_by_expert(batch.tokens, Choice::in(routing, batch.tokens, config_.experts_per_token), floats_of(hidden));
  run_gate_up(weights, batch.tokens, floats_of(hidden));
  run_down(weights, batch.tokens, floats_of(output));
}

}  // namespace twelvex::cpu
