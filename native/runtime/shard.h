// SPDX-License-Identifier: MIT
// The one rule by which tensor-parallel ranks share a dimension.
//
// A dimension of n units is cut so that rank k of N owns units [n * k / N, n * (k + 1) / N). Shards are whole units, may
// differ by one, and may be empty. Units: output groups with their q heads, sinks, wo_a rows and wo_b columns; 128 columns
// of an expert's width (routed and shared); 128 vocabulary rows of embedding and head. Everything else is replicated.
// One rank computes what is summed over ranks in the parts that two would hold.
#pragma once

#include <algorithm>
#include <cstdint>

#include "model_config.h"
#include "ops.h"

namespace twelvex {

inline constexpr int64_t kWidthUnit = 128;  // an FP8 scale tile; four FP4 scale groups
inline constexpr int64_t kVocabUnit = 128;

struct ShardRange {
  int64_t begin = 0, end = 0;
  int64_t size() const { return end - begin; }
};

/// This rank's part of `units` units.
inline ShardRange shard_range(int64_t units, RankShape shape) {
  return {units * shape.rank / shape.ranks, units * (shape.rank + 1) / shape.ranks};
}

/// The same for `n` elements in units of `unit`; the last unit may be short.
inline ShardRange shard_range(int64_t n, int64_t unit, RankShape shape) {
  const ShardRange units = shard_range((n + unit - 1) / unit, shape);
  return {std::min(n, units.begin * unit), std::min(n, units.end * unit)};
}

/// The parts of `n` elements in units of `unit` that this rank's sums are computed in (ops.h).
inline Parts<ShardRange> part_ranges(int64_t n, int64_t unit, RankShape shape) {
  if (shape.ranks > 1) return {shard_range(n, unit, shape)};
  return {shard_range(n, unit, {0, 2}), shard_range(n, unit, {1, 2})};
}

/// Output groups of this rank; it owns num_heads / o_groups q heads for each.
inline ShardRange shard_groups(const ModelConfig& config, RankShape shape) { return shard_range(config.o_groups, shape); }

inline ShardRange shard_heads(const ModelConfig& config, RankShape shape) {
  const ShardRange groups = shard_groups(config, shape);
  const int64_t heads = config.num_heads / config.o_groups;
  return {groups.begin * heads, groups.end * heads};
}

/// The most q heads that a part has: of the ranks', or of the two that one rank computes.
inline int64_t largest_part_heads(const ModelConfig& config, RankShape shape) {
  const int64_t parts = std::max<int64_t>(shape.ranks, kParts);
  return (config.o_groups + parts - 1) / parts * (config.num_heads / config.o_groups);
}

/// Columns of the expert width I, of routed and shared experts alike.
inline ShardRange shard_expert_width(const ModelConfig& config, RankShape shape) {
  return shard_range(config.moe_intermediate_size, kWidthUnit, shape);
}

/// Vocabulary rows of embedding and head.
inline ShardRange shard_vocab(const ModelConfig& config, RankShape shape) {
  return shard_range(config.vocab_size, kVocabUnit, shape);
}

}  // namespace twelvex
