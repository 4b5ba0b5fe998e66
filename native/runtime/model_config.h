// SPDX-License-Identifier: MIT
// config.json of a DeepSeek-V4 checkpoint in any of its spellings, normalised and checked.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace twelvex {

/// Sliding window only, compressed sparse attention (4:1 with indexer), heavily compressed attention (128:1).
enum class LayerKind : uint8_t { kSwa, kCsa, kHca };

inline constexpr int kHeadDim = 512;       // one key = value vector: 448 plain + 64 rotary
inline constexpr int kRopeDim = 64;        // the last dims of a head
inline constexpr int kNopeDim = kHeadDim - kRopeDim;
inline constexpr int kIndexDim = 128;      // an indexer head
inline constexpr int kWindow = 128;        // sliding window, the current token included
inline constexpr int kStreams = 4;         // mHC residual streams
inline constexpr int kCsaRatio = 4;
inline constexpr int kHcaRatio = 128;
inline constexpr int kBlockTokens = 128;   // tokens covered by a cache block of either kind
inline constexpr int kMaxMtp = 4;          // drafts per step at most

struct ModelConfig {
  int vocab_size = 0;
  int hidden_size = 0;             // D
  int num_layers = 0;              // L, without MTP
  int num_mtp_layers = 0;          // 0 or 1 usable
  int num_heads = 0;               // H
  int q_lora_rank = 0;             // Q
  int o_groups = 0;                // G
  int o_lora_rank = 0;             // r
  int index_heads = 0;
  int index_topk = 0;
  int num_experts = 0;             // E
  int experts_per_token = 0;       // K
  int moe_intermediate_size = 0;   // I, also the shared expert's width
  int num_hash_layers = 0;         // layers [0, n) route by token id
  float routed_scaling_factor = 1;
  float swiglu_limit = 0;          // 0: no clamp
  int hc_sinkhorn_iters = 20;
  float hc_eps = 1e-6f;
  float rms_norm_eps = 1e-6f;
  double rope_theta = 10000;            // swa layers
  double compress_rope_theta = 160000;  // csa and hca layers, with YaRN
  double yarn_factor = 16;
  double yarn_beta_fast = 32;
  double yarn_beta_slow = 1;
  int yarn_original_context = 65536;
  int max_context = 0;             // max_position_embeddings
  int bos_token = 0;
  int eos_token = 1;
  bool dspark = false;             // dspark_* keys present: the 0731 revision
  bool fp8_experts = false;        // expert_dtype fp8 (Base); refused by the loader with kUnsupported
  std::vector<LayerKind> layers;   // [L]; the MTP block is always kSwa

  /// Reads `json_text` in any spelling that a checkpoint was released with; `where` names the file in errors.
  /// @throws Error kBadConfig when it cannot be understood, kUnsupported when it is understood and cannot be served.
  static ModelConfig parse(const std::string& json_text, const std::string& where);

  /// The same model cut to its first `count` layers (0: all), the MTP block kept.
  /// @throws Error kBadOptions when there are fewer.
  ModelConfig first_layers(int count) const;
};

}  // namespace twelvex
