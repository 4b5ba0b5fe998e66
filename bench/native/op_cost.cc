// SPDX-License-Identifier: MIT
#include "op_cost.h"

#include <algorithm>
#include <cmath>

#include "cuda/comm/paths.h"
#include "cuda/indexer/indexer.h"
#include "runtime/shard.h"

namespace twelvex::bench {

namespace {

constexpr double kBf16 = 2, kF32 = 4, kRow = 584, kIndexRow = 132;
constexpr double kFp8 = 1 + 1.0 / (128 * 128), kFp4 = 0.5 + 1.0 / 32;

/// Entries and window rows that a token at position p sees.
double compressed_of(const ModelConfig& config, LayerKind kind, int p) {
  if (kind == LayerKind::kCsa) return std::min(config.index_topk, (p + 1) / kCsaRatio);
  return kind == LayerKind::kHca ? (p + 1) / kHcaRatio : 0;
}

double window_of(int p) { return std::min(kWindow, p + 1); }

/// Sums over the tokens of a batch.
struct Tokens {
  double count = 0, rows = 0;
  double candidates = 0;  // of the layer's kind
  double read = 0;        // cache rows, once a sequence
  double scored = 0;      // csa entries scored by this rank, when there are more than are kept
  double chosen = 0;      // tokens that it scores them for
  double entries = 0;     // csa entries of all rows
};

/// Scoring is shared by groups of a row's tokens (backend_attention.cc, select): the rank's part of groups, in order.
void count_scored(const ModelConfig& config, RankShape shape, const StepShape& step, Tokens& t) {
  int64_t groups = 0, group = 0, longest = 0, tokens = 0;
  for (const RowShape& row : step.rows) {
    tokens += row.count;
    groups += (row.count + cuda::kScoreGroup - 1) / cuda::kScoreGroup;
    longest = std::max<int64_t>(longest, (row.position + row.count) / kCsaRatio);
  }
  if (longest <= config.index_topk) return;
  const ShardRange own = shard_range(groups, cuda::shares_choices(static_cast<int>(tokens)) ? shape : RankShape{});
  for (const RowShape& row : step.rows) {
    for (int i = 0; i < row.count; i += cuda::kScoreGroup, ++group) {
      if (group < own.begin || group >= own.end) continue;
      for (int p = row.position + i; p < row.position + std::min(row.count, i + cuda::kScoreGroup); ++p) {
        t.scored += (p + 1) / kCsaRatio;
        t.chosen += 1;
      }
    }
    t.entries += static_cast<double>(row.position + row.count) / kCsaRatio;
  }
}

Tokens count_tokens(const ModelConfig& config, const Sample& sample, const StepShape& step) {
  Tokens t;
  for (const RowShape& row : step.rows) {
    const int count = sample.pass > 1 ? 1 : row.count, last = row.position + count - 1;
    for (int p = row.position; p <= last; ++p) t.candidates += compressed_of(config, sample.kind, p) + window_of(p);
    const double all = sample.kind == LayerKind::kHca ? (last + 1) / kHcaRatio : (last + 1) / kCsaRatio;
    // Of csa entries the tokens of a sequence choose together at most all there are.
    const double kept = std::min(all, compressed_of(config, sample.kind, last) * count);
    t.read += (sample.kind == LayerKind::kSwa ? 0 : kept) + window_of(last) + count - 1;
    t.count += count;
    ++t.rows;
  }
  return t;
}

/// y[t, rows] = x[t, cols] W: weights once, x and y once.
Cost product(double t, double rows, double cols, double weight_bytes, double in = kBf16, double out = kBf16) {
  return {2 * t * rows * cols, rows * cols * weight_bytes + t * (cols * in + rows * out)};
}

Cost experts_cost(const ModelConfig& c, RankShape shape, double t) {
  const auto width = static_cast<double>(shard_expert_width(c, shape).size());
  const double dim = c.hidden_size, one = 3 * dim * width;
  const double hit = c.num_experts * (1 - std::pow(1 - static_cast<double>(c.experts_per_token) / c.num_experts, t));
  Cost cost;
  cost.flops = 2 * t * one * (c.experts_per_token + 1);
  cost.bytes = one * (hit * kFp4 + kFp8) + 2 * t * dim * kBf16;
  return cost;
}

/// Steps of decode rows project and store everything in project_query_kv (backend_rows.cc, works_ahead).
bool works_ahead(const StepShape& step) {
  int64_t tokens = 0;
  for (const RowShape& row : step.rows) {
    if (row.count > 1 + kMaxMtp) return false;
    tokens += row.count;
  }
  return !cuda::shares_choices(static_cast<int>(tokens));
}

Cost attention_part(const ModelConfig& c, RankShape shape, const std::string& op, const Sample& sample, const Tokens& t) {
  const double dim = c.hidden_size, q = c.q_lora_rank, n = t.count;
  const double width = static_cast<double>(shard_heads(c, shape).size()) * kHeadDim;
  const double low = static_cast<double>(shard_groups(c, shape).size()) * c.o_lora_rank;
  Cost cost;
  if (op == "project_query_kv") {
    cost += product(n, q + kHeadDim, dim, kFp8);
    cost += product(n, width, q, kFp8);
  } else if (op == "store_window") {
    cost.bytes = n * (kHeadDim * kBf16 + kRow);
  } else if (op == "compress" || op == "compress_index") {
    const bool index = op == "compress_index", csa = sample.kind == LayerKind::kCsa;
    const double channels = (index ? kIndexDim : kHeadDim) * (csa ? 2 : 1), ratio = csa ? kCsaRatio : kHcaRatio;
    cost += product(n, 2 * channels, dim, kBf16, kBf16, 0);
    cost.bytes += n / ratio * (index ? kIndexRow : kRow);
  } else if (op == "project_index" && t.scored > 0) {
    const double heads = c.index_heads;
    cost += product(t.chosen, heads * kIndexDim, q, kFp8, kBf16, 0);
    cost += product(t.chosen, heads, dim, kBf16, kBf16, 0);
  } else if (op == "select" && t.scored > 0) {
    cost = {2.0 * c.index_heads * kIndexDim * t.scored, t.entries * kIndexRow + n * c.index_topk * kF32};
  } else if (op == "attend") {
    cost = {4 * width * t.candidates, t.read * kRow + 2 * n * width * kBf16};
  } else if (op == "project_output") {
    // Every group's heads meet its own rows of wo_a.
    cost += product(n, low, static_cast<double>(c.num_heads) / c.o_groups * kHeadDim, kFp8, 0, 0);
    cost.bytes += n * width * kBf16;
    cost += product(n, dim, low, kFp8, 0);
  }
  return cost;
}

Cost attention_cost(const ModelConfig& c, RankShape shape, const Sample& sample, const StepShape& step, const Tokens& t) {
  const std::string op = sample.op;
  const auto part = [&](const char* name) { return attention_part(c, shape, name, sample, t); };
  Cost cost = part(sample.op);
  const bool csa = sample.kind == LayerKind::kCsa;
  if (!works_ahead(step)) {
    if (op == "select") cost += part("project_index");
  } else if (op == "project_query_kv") {
    cost += part("store_window");
    if (sample.kind != LayerKind::kSwa) cost += part("compress");
    if (csa) cost += part("compress_index"), cost += part("project_index");
  } else if (op == "store_window" || op == "compress" || op == "compress_index") {
    cost = {};
  }
  return cost;
}

}  // namespace

Cost op_cost(const ModelConfig& c, RankShape shape, const Sample& sample, const StepShape& step) {
  const std::string op = sample.op;
  Tokens t = count_tokens(c, sample, step);
  if (sample.kind == LayerKind::kCsa) count_scored(c, shape, step, t);
  const double dim = c.hidden_size, n = t.count, vocab = static_cast<double>(shard_vocab(c, shape).size());
  const double logit_rows = sample.pass == 0 ? step.sampled : static_cast<double>(step.rows.size());
  if (op == "hyper_cross") return {2 * n * 24 * kStreams * dim, n * dim * kBf16 * (2 * kStreams + 2)};
  if (op == "hyper_enter") return {2 * n * 24 * kStreams * dim, n * dim * kBf16 * (kStreams + 1)};
  if (op == "hyper_leave") return {0, n * dim * kBf16 * (2 * kStreams + 1)};
  if (op == "spread") return {0, n * dim * kBf16 * (1 + kStreams)};
  if (op == "embed") return {0, 2 * n * dim * kBf16};
  if (op == "route") return product(n, c.num_experts, dim, kBf16, kBf16, 0);
  if (op == "run_experts") return experts_cost(c, shape, n);
  if (op == "all_reduce") return {0, shape.ranks > 1 ? 2 * n * dim * kBf16 : 0};
  if (op == "logits") return product(logit_rows, vocab, dim, kBf16, kStreams * kBf16, kF32);
  if (op == "sample") return {0, logit_rows * c.vocab_size * kF32};
  if (op == "draft_input") {
    Cost cost = product(kStreams * n, dim, dim, kFp8);
    cost += product(n, dim, dim, kFp8);
    return cost;
  }
  return attention_cost(c, shape, sample, step, t);
}

}  // namespace twelvex::bench
