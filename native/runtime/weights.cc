// SPDX-License-Identifier: MIT
#include "weights.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <utility>

#include "error.h"
#include "inventory.h"
#include "matrix_view.h"
#include "shard.h"

namespace twelvex {

namespace {

uint64_t total_bytes(const WeightsRequest& request) {
  ModelConfig config = request.config;
  if (!request.with_mtp) config.num_mtp_layers = 0;
  uint64_t bytes = 0;
  for (const TensorSpec& spec : make_inventory(config)) bytes += spec.bytes();
  return std::max<uint64_t>(bytes, 1);
}

/// Turns loaded bytes into reports, at most one in kInterval and one at the end.
class ProgressMeter {
 public:
  ProgressMeter(const LoadProgress& report, uint64_t total) : report_(report), total_(total) {}

  void add(uint64_t bytes, const std::string& detail) {
    done_ += bytes;
    const auto now = std::chrono::steady_clock::now();
    if (!report_ || now - last_ < kInterval) return;
    last_ = now;
    report_(std::min(1.0, static_cast<double>(done_) / static_cast<double>(total_)), detail);
  }

  void finish() const {
    if (report_) report_(1, "weights in place");
  }

 private:
  static constexpr std::chrono::milliseconds kInterval{100};

  const LoadProgress& report_;
  uint64_t total_, done_ = 0;
  std::chrono::steady_clock::time_point last_{};
};

/// One rank's way through the checkpoint. Every hand-over to the backend ends with `handed_over`, which lets go of the
/// tensors it used.
class Loader {
 public:
  Loader(const WeightsRequest& request, Ops& ops)
      : config_(request.config),
        source_(request.source),
        shape_(request.shape),
        with_mtp_(request.with_mtp),
        ops_(ops),
        progress_(request.progress, total_bytes(request)) {}

  ModelWeights load() {
    ModelWeights weights;
    source_.prefetch(layer_prefix(0));
    detail_ = "embedding and head";
    const ShardRange vocab = shard_vocab(config_, shape_);
    weights.vocab_begin = vocab.begin;
    weights.embed = linear_rows("embed", vocab);
    source_.release("embed.");
    weights.lm_head = linear_rows("head", vocab);
    source_.release("head.");
    weights.head = head("");
    for (int index = 0; index < config_.num_layers; ++index) {
      if (index + 1 < config_.num_layers) source_.prefetch(layer_prefix(index + 1));
      detail_ = "layer " + std::to_string(index + 1) + " of " + std::to_string(config_.num_layers);
      const bool hashed = index < config_.num_hash_layers;
      weights.layers.push_back(block(layer_prefix(index), config_.layers[static_cast<size_t>(index)], hashed));
      weights.layers.back().index = index;
      source_.release(layer_prefix(index));
    }
    if (with_mtp_) weights.mtp = mtp("mtp.0.");
    progress_.finish();
    return weights;
  }

 private:
  static std::string layer_prefix(int index) { return "layers." + std::to_string(index) + "."; }

  TensorView fetch(const std::string& name) {
    TensorView tensor = source_.tensor(name);
    pending_bytes_ += tensor.bytes;
    if (tensor.owner) held_.push_back(tensor.owner);
    return tensor;
  }

  /// `name`.weight, with `name`.scale where the format has scales.
  MatrixView matrix(const std::string& name) {
    const TensorView weight = fetch(name + ".weight");
    if (weight.dtype != Dtype::kF8E4M3 && weight.dtype != Dtype::kI8) return view_matrix(name, weight, nullptr);
    const TensorView scale = fetch(name + ".scale");
    return view_matrix(name, weight, &scale);
  }

  template <class Prepared>
  Prepared handed_over(Prepared prepared) {
    held_.clear();
    progress_.add(std::exchange(pending_bytes_, 0), detail_);
    return prepared;
  }

  Linear linear(const std::string& name) { return handed_over(ops_.linear(matrix(name))); }
  Linear linear_rows(const std::string& name, ShardRange rows) {
    return handed_over(ops_.linear(cut_rows(matrix(name), rows)));
  }
  Parts<MatrixView> matrix_parts(const std::string& name, const Parts<ShardRange>& cols) {
    const MatrixView whole = matrix(name);
    return {cut_cols(whole, cols[0]), cut_cols(whole, cols[1])};
  }
  Parts<Linear> linear_parts(const std::string& name, const Parts<ShardRange>& cols) {
    const Parts<MatrixView> views = matrix_parts(name, cols);
    Parts<Linear> parts;
    for (size_t i = 0; i < kParts; ++i) {
      if (views[i].cols > 0) parts[i] = ops_.linear(views[i]);
    }
    return handed_over(parts);
  }
  Array norm(const std::string& name) { return handed_over(ops_.vector(matrix(name))); }
  Array vector(const std::string& name) { return handed_over(ops_.vector(view_matrix(name, fetch(name), nullptr))); }
  Array matrix_f32(const std::string& name) {
    return handed_over(ops_.matrix_f32(view_matrix(name, fetch(name), nullptr)));
  }

  HyperWeights hyper(const std::string& name) {
    const std::string fn = name + "_fn";
    const Array matrix = handed_over(ops_.hyper_matrix(view_matrix(fn, fetch(fn), nullptr)));
    return {matrix, vector(name + "_base"), vector(name + "_scale")};
  }

  HeadWeights head(const std::string& prefix) {
    const std::string name = prefix + "hc_head";
    return {{matrix_f32(name + "_fn"), vector(name + "_base"), vector(name + "_scale")}, norm(prefix + "norm")};
  }

  LayerWeights block(const std::string& prefix, LayerKind kind, bool hashed) {
    LayerWeights layer;
    layer.attn_hyper = hyper(prefix + "hc_attn");
    layer.ffn_hyper = hyper(prefix + "hc_ffn");
    layer.attn_norm = norm(prefix + "attn_norm");
    layer.ffn_norm = norm(prefix + "ffn_norm");
    layer.attn = attention(prefix + "attn.", kind);
    layer.moe = moe(prefix + "ffn.", hashed);
    return layer;
  }

  AttentionWeights attention(const std::string& prefix, LayerKind kind) {
    const ShardRange groups = shard_groups(config_, shape_), heads = shard_heads(config_, shape_);
    const ShardRange query{heads.begin * kHeadDim, heads.end * kHeadDim};
    const int64_t latent_of_group = config_.o_lora_rank;
    const ShardRange latent{groups.begin * latent_of_group, groups.end * latent_of_group};
    AttentionWeights attn;
    attn.kind = kind;
    attn.heads = static_cast<int>(heads.size());
    attn.groups = static_cast<int>(groups.size());
    attn.wq_a = linear(prefix + "wq_a");
    attn.wq_b = linear_rows(prefix + "wq_b", query);
    attn.wkv = linear(prefix + "wkv");
    attn.wo_a = linear_rows(prefix + "wo_a", latent);
    attn.wo_b = linear_parts(prefix + "wo_b", part_ranges(config_.o_groups * latent_of_group, latent_of_group, shape_));
    attn.q_norm = norm(prefix + "q_norm");
    attn.kv_norm = norm(prefix + "kv_norm");
    const std::string sinks = prefix + "attn_sink";
    attn.sinks = handed_over(ops_.vector(cut_cols(view_matrix(sinks, fetch(sinks), nullptr), heads)));
    if (kind == LayerKind::kCsa) {
      attn.compressor = compressor(prefix + "compressor.", kCsaRatio, kHeadDim);
      attn.indexer.wq_b = linear(prefix + "indexer.wq_b");
      attn.indexer.weights_proj = linear(prefix + "indexer.weights_proj");
      attn.indexer.compressor = compressor(prefix + "indexer.compressor.", kCsaRatio, kIndexDim);
    } else if (kind == LayerKind::kHca) {
      attn.compressor = compressor(prefix + "compressor.", kHcaRatio, kHeadDim);
    }
    return attn;
  }

  CompressorWeights compressor(const std::string& prefix, int ratio, int dim) {
    CompressorWeights weights;
    weights.ratio = ratio;
    weights.dim = dim;
    weights.wkv = linear(prefix + "wkv");
    weights.wgate = linear(prefix + "wgate");
    weights.ape = matrix_f32(prefix + "ape");
    weights.norm = norm(prefix + "norm");
    return weights;
  }

  MoeWeights moe(const std::string& prefix, bool hashed) {
    const ShardRange width = shard_expert_width(config_, shape_);
    MoeWeights weights;
    weights.gate = linear(prefix + "gate");
    if (hashed) {
      weights.tid2eid = expert_table(prefix + "gate.tid2eid");
    } else {
      weights.bias = vector(prefix + "gate.bias");
    }
    const Parts<ShardRange> parts = part_ranges(config_.moe_intermediate_size, kWidthUnit, shape_);
    weights.experts = experts(prefix + "experts.", width, parts);
    weights.shared_gate = linear_rows(prefix + "shared_experts.w1", width);
    weights.shared_up = linear_rows(prefix + "shared_experts.w3", width);
    weights.shared_down = linear_parts(prefix + "shared_experts.w2", parts);
    return weights;
  }

  Experts experts(const std::string& prefix, ShardRange width, const Parts<ShardRange>& parts) {
    std::vector<ExpertView> views;
    for (int e = 0; e < config_.num_experts; ++e) {
      const std::string expert = prefix + std::to_string(e) + ".";
      views.push_back({.w1 = cut_rows(matrix(expert + "w1"), width),
                       .w3 = cut_rows(matrix(expert + "w3"), width),
                       .w2 = matrix_parts(expert + "w2", parts)});
    }
    return handed_over(ops_.experts(views));
  }

  /// int64 on disk, int32 in use; every entry must name an expert.
  Array expert_table(const std::string& name) {
    const TensorView tensor = fetch(name);
    std::vector<int32_t> table(tensor.bytes / sizeof(int64_t));
    for (size_t i = 0; i < table.size(); ++i) {
      int64_t expert = 0;
      std::memcpy(&expert, tensor.data + i * sizeof expert, sizeof expert);
      if (expert < 0 || expert >= config_.num_experts) {
        throw Error(ErrorCode::kBadCheckpoint,
                    "tensor \"" + name + "\": token " + std::to_string(i / static_cast<size_t>(config_.experts_per_token)) +
                        ": expected an expert from 0 to " + std::to_string(config_.num_experts - 1) + ", found " +
                        std::to_string(expert));
      }
      table[i] = static_cast<int32_t>(expert);
    }
    return handed_over(ops_.token_table(table));
  }

  MtpWeights mtp(const std::string& prefix) {
    detail_ = "MTP block";
    source_.prefetch(prefix);
    MtpWeights weights;
    weights.enorm = norm(prefix + "enorm");
    weights.hnorm = norm(prefix + "hnorm");
    weights.e_proj = linear(prefix + "e_proj");
    weights.h_proj = linear(prefix + "h_proj");
    weights.layer = block(prefix, LayerKind::kSwa, false);
    weights.layer.index = config_.num_layers;
    weights.head = head(prefix);
    source_.release(prefix);
    return weights;
  }

  const ModelConfig& config_;
  const TensorSource& source_;
  const RankShape shape_;
  const bool with_mtp_;
  Ops& ops_;
  ProgressMeter progress_;
  std::string detail_;
  uint64_t pending_bytes_ = 0;                      // fetched since the last hand-over
  std::vector<std::shared_ptr<const void>> held_;  // owners of the tensors fetched since then
};

}  // namespace

ModelWeights load_weights(const WeightsRequest& request, Ops& ops) {
  if (request.with_mtp && request.config.num_mtp_layers == 0) {
    throw Error(ErrorCode::kBadOptions, "the checkpoint has no MTP block that can be used");
  }
  return Loader(request, ops).load();
}

}  // namespace twelvex
