// SPDX-License-Identifier: MIT
#include "inventory.h"

#include "error.h"

namespace twelvex {

namespace {

constexpr int64_t kTile = 128;      // rows and columns of an FP8 scale tile
constexpr int64_t kFp4Group = 32;   // columns of an FP4 scale
constexpr int64_t kHyperRows = 24;  // pre 4, post 4, comb 16
constexpr int64_t kHyperScales = 3;

using Shape = std::vector<int64_t>;

/// Appends the tensors of one module after another; names follow the release (no "model." prefix).
class Builder {
 public:
  explicit Builder(const ModelConfig& config) : c_(config), streams_(kStreams * int64_t{config.hidden_size}) {}

  std::vector<TensorSpec> build() {
    add("embed.weight", Dtype::kBF16, {c_.vocab_size, c_.hidden_size});
    add("head.weight", Dtype::kBF16, {c_.vocab_size, c_.hidden_size});
    head("");
    for (int layer = 0; layer < c_.num_layers; ++layer) {
      block("layers." + std::to_string(layer) + ".", c_.layers[static_cast<size_t>(layer)], layer < c_.num_hash_layers);
    }
    if (c_.num_mtp_layers > 0) mtp("mtp.0.");
    return std::move(specs_);
  }

 private:
  void add(const std::string& name, Dtype dtype, Shape shape) {
    specs_.push_back({name, dtype, std::move(shape), tensor_kind(name)});
  }

  void norm(const std::string& name, int64_t dim) { add(name + ".weight", Dtype::kBF16, {dim}); }
  void bf16(const std::string& name, int64_t rows, int64_t cols) { add(name + ".weight", Dtype::kBF16, {rows, cols}); }

  void fp8(const std::string& name, int64_t rows, int64_t cols) {
    add(name + ".weight", Dtype::kF8E4M3, {rows, cols});
    add(name + ".scale", Dtype::kF8E8M0, {(rows + kTile - 1) / kTile, (cols + kTile - 1) / kTile});
  }

  void fp4(const std::string& name, int64_t rows, int64_t cols) {
    add(name + ".weight", Dtype::kI8, {rows, cols / 2});
    add(name + ".scale", Dtype::kF8E8M0, {rows, cols / kFp4Group});
  }

  void hyper(const std::string& name, int64_t rows, int64_t scales) {
    add(name + "_fn", Dtype::kF32, {rows, streams_});
    add(name + "_base", Dtype::kF32, {rows});
    add(name + "_scale", Dtype::kF32, {scales});
  }

  void head(const std::string& prefix) {
    norm(prefix + "norm", c_.hidden_size);
    hyper(prefix + "hc_head", kStreams, 1);
  }

  void block(const std::string& prefix, LayerKind kind, bool hashed) {
    norm(prefix + "attn_norm", c_.hidden_size);
    norm(prefix + "ffn_norm", c_.hidden_size);
    hyper(prefix + "hc_attn", kHyperRows, kHyperScales);
    hyper(prefix + "hc_ffn", kHyperRows, kHyperScales);
    attention(prefix + "attn.", kind);
    moe(prefix + "ffn.", hashed);
  }

  void attention(const std::string& prefix, LayerKind kind) {
    const int64_t D = c_.hidden_size, latent = int64_t{c_.o_groups} * c_.o_lora_rank, query = int64_t{c_.num_heads} * kHeadDim;
    add(prefix + "attn_sink", Dtype::kF32, {c_.num_heads});
    fp8(prefix + "wq_a", c_.q_lora_rank, D);
    norm(prefix + "q_norm", c_.q_lora_rank);
    fp8(prefix + "wq_b", query, c_.q_lora_rank);
    fp8(prefix + "wkv", kHeadDim, D);
    norm(prefix + "kv_norm", kHeadDim);
    fp8(prefix + "wo_a", latent, query / c_.o_groups);
    fp8(prefix + "wo_b", D, latent);
    if (kind == LayerKind::kCsa) {
      compressor(prefix + "compressor.", kCsaRatio, 2 * kHeadDim, kHeadDim);
      fp8(prefix + "indexer.wq_b", int64_t{c_.index_heads} * kIndexDim, c_.q_lora_rank);
      bf16(prefix + "indexer.weights_proj", c_.index_heads, D);
      compressor(prefix + "indexer.compressor.", kCsaRatio, 2 * kIndexDim, kIndexDim);
    } else if (kind == LayerKind::kHca) {
      compressor(prefix + "compressor.", kHcaRatio, kHeadDim, kHeadDim);
    }
  }

  void compressor(const std::string& prefix, int64_t ratio, int64_t channels, int64_t dim) {
    add(prefix + "ape", Dtype::kF32, {ratio, channels});
    bf16(prefix + "wkv", channels, c_.hidden_size);
    bf16(prefix + "wgate", channels, c_.hidden_size);
    norm(prefix + "norm", dim);
  }

  void moe(const std::string& prefix, bool hashed) {
    const int64_t D = c_.hidden_size, I = c_.moe_intermediate_size;
    bf16(prefix + "gate", c_.num_experts, D);
    if (hashed) {
      add(prefix + "gate.tid2eid", Dtype::kI64, {c_.vocab_size, c_.experts_per_token});
    } else {
      add(prefix + "gate.bias", Dtype::kF32, {c_.num_experts});
    }
    for (int e = 0; e < c_.num_experts; ++e) {
      const std::string expert = prefix + "experts." + std::to_string(e) + ".";
      fp4(expert + "w1", I, D);
      fp4(expert + "w2", D, I);
      fp4(expert + "w3", I, D);
    }
    fp8(prefix + "shared_experts.w1", I, D);
    fp8(prefix + "shared_experts.w2", D, I);
    fp8(prefix + "shared_experts.w3", I, D);
  }

  void mtp(const std::string& prefix) {
    norm(prefix + "enorm", c_.hidden_size);
    norm(prefix + "hnorm", c_.hidden_size);
    fp8(prefix + "e_proj", c_.hidden_size, c_.hidden_size);
    fp8(prefix + "h_proj", c_.hidden_size, c_.hidden_size);
    block(prefix, LayerKind::kSwa, false);
    head(prefix);
  }

  const ModelConfig& c_;
  const int64_t streams_;  // columns of the flattened residual streams
  std::vector<TensorSpec> specs_;
};

bool contains(std::string_view name, std::string_view part) { return name.find(part) != std::string_view::npos; }

}  // namespace

const char* tensor_kind_name(TensorKind kind) {
  switch (kind) {
    case TensorKind::kEmbedding: return "embedding";
    case TensorKind::kHead: return "head";
    case TensorKind::kNorm: return "norms";
    case TensorKind::kHyper: return "hyper-connections";
    case TensorKind::kAttention: return "attention";
    case TensorKind::kCompressor: return "compressor";
    case TensorKind::kIndexer: return "indexer";
    case TensorKind::kRouter: return "router";
    case TensorKind::kRoutedExpert: return "routed experts";
    case TensorKind::kSharedExpert: return "shared expert";
    case TensorKind::kMtp: return "mtp";
    case TensorKind::kOther: return "other";
  }
  return "other";
}

uint64_t TensorSpec::bytes() const { return static_cast<uint64_t>(elements()) * dtype_bytes(dtype); }

std::vector<TensorSpec> make_inventory(const ModelConfig& config) {
  if (config.fp8_experts) {
    throw Error(ErrorCode::kUnsupported, "expected FP4 routed experts, found expert_dtype fp8 (a Base checkpoint)");
  }
  return Builder(config).build();
}

TensorKind tensor_kind(std::string_view name) {
  if (name.starts_with("mtp.")) return TensorKind::kMtp;
  if (name.starts_with("embed.")) return TensorKind::kEmbedding;
  if (name.starts_with("head.")) return TensorKind::kHead;
  if (contains(name, ".indexer.")) return TensorKind::kIndexer;
  if (contains(name, ".compressor.")) return TensorKind::kCompressor;
  if (contains(name, ".shared_experts.")) return TensorKind::kSharedExpert;
  if (contains(name, ".experts.")) return TensorKind::kRoutedExpert;
  if (contains(name, ".ffn.gate.")) return TensorKind::kRouter;
  if (contains(name, "hc_")) return TensorKind::kHyper;
  if (contains(name, "norm.weight")) return TensorKind::kNorm;
  return contains(name, ".attn.") ? TensorKind::kAttention : TensorKind::kOther;
}

int64_t tensor_parameters(Dtype dtype, std::span<const int64_t> shape) {
  if (dtype == Dtype::kF8E8M0 || dtype == Dtype::kI64) return 0;
  return element_count(shape) * (dtype == Dtype::kI8 ? 2 : 1);
}

}  // namespace twelvex
