// SPDX-License-Identifier: MIT
#include "model_config.h"

#include <algorithm>
#include <array>

#include "config_reader.h"

namespace twelvex {

namespace {

// Bounds that keep every size and index below in 32 and 64 bits; the largest release (Pro) is far inside them.
constexpr int kMaxLayers = 256;
constexpr int kMaxExperts = 1024;
constexpr int kMaxDim = 65536;
constexpr int kMaxVocabulary = 1 << 22;
constexpr int kMaxContext = 1 << 28;
constexpr int kTile = 128;  // FP8 scale tile: matrix dimensions are whole tiles

struct LayerType {
  int ratio;
  const char* name;
  LayerKind kind;
};

constexpr std::array kLayerTypes = {
    LayerType{0, "sliding_attention", LayerKind::kSwa},
    LayerType{kCsaRatio, "compressed_sparse_attention", LayerKind::kCsa},
    LayerType{kHcaRatio, "heavily_compressed_attention", LayerKind::kHca},
};

/// Fills a ModelConfig from one JSON object, a group of fields at a time.
class Parser {
 public:
  explicit Parser(const ConfigReader& reader) : r_(reader) {}

  ModelConfig parse(const JsonValue& json) {
    refuse_other_models();
    sizes();
    c_.layers = layer_kinds();
    indexer();
    experts();
    hyper();
    rope();
    quantization();
    tokens();
    drafts(json);
    return std::move(c_);
  }

 private:
  /// A required matrix dimension: whole FP8 tiles.
  int dimension(Spellings keys) const {
    const int value = r_.integer(keys, 1, kMaxDim);
    if (value % kTile != 0) {
      r_.unsupported("expected " + r_.name(keys) + " to be a multiple of " + std::to_string(kTile) + ", found " +
                     std::to_string(value));
    }
    return value;
  }

  void refuse_other_models() const {
    r_.only_string({"model_type"}, "deepseek_v4");
    r_.only_integer({"head_dim"}, kHeadDim);
    r_.only_integer({"qk_rope_head_dim", "rope_head_dim"}, kRopeDim);
    r_.only_integer({"sliding_window", "window_size"}, kWindow);
    r_.only_integer({"hc_mult"}, kStreams);
    r_.only_integer({"index_head_dim"}, kIndexDim);
    r_.only_integer({"num_key_value_heads"}, 1);
    r_.only_integer({"n_shared_experts"}, 1);
    r_.only_string({"scoring_func", "score_func"}, "sqrtsoftplus");
    r_.only_string({"topk_method"}, "noaux_tc");
    r_.only_string({"hidden_act"}, "silu");
    r_.only_boolean({"norm_topk_prob"}, true);
    r_.only_boolean({"tie_word_embeddings"}, false);
    r_.only_boolean({"attention_bias"}, false);
    r_.only_boolean({"mlp_bias"}, false);
    if (r_.number_or({"partial_rotary_factor"}, 0, 1, double{kRopeDim} / kHeadDim) != double{kRopeDim} / kHeadDim) {
      r_.unsupported("expected partial_rotary_factor 0.125, found " + r_.require({"partial_rotary_factor"}).describe());
    }
  }

  void sizes() {
    c_.vocab_size = r_.integer({"vocab_size"}, 1, kMaxVocabulary);
    c_.hidden_size = dimension({"hidden_size", "dim"});
    c_.num_layers = r_.integer({"num_hidden_layers", "n_layers"}, 1, kMaxLayers);
    c_.num_heads = r_.integer({"num_attention_heads", "n_heads"}, 1, kMaxDim / kTile);
    c_.q_lora_rank = dimension({"q_lora_rank"});
    c_.o_groups = r_.integer({"o_groups"}, 1, kMaxDim / kTile);
    c_.o_lora_rank = dimension({"o_lora_rank"});
    c_.rms_norm_eps = static_cast<float>(r_.number_or({"rms_norm_eps", "norm_eps"}, 0, 1, 1e-6));
    if (c_.num_heads % c_.o_groups != 0) {
      r_.unsupported("expected num_attention_heads to be a multiple of o_groups " + std::to_string(c_.o_groups) + ", found " +
                     std::to_string(c_.num_heads));
    }
  }

  /// Kinds by compress_ratios, by layer_types, or by both when they agree.
  std::vector<LayerKind> layer_kinds() const {
    const auto count = static_cast<size_t>(c_.num_layers);
    check_rates();
    std::vector<LayerKind> by_ratio, by_type;
    if (const JsonValue::Array* ratios = r_.list({"compress_ratios"}, count)) {
      for (const JsonValue& ratio : *ratios) by_ratio.push_back(kind_of(ratio, by_ratio.size()));
      const bool windowed = std::all_of(by_ratio.begin() + c_.num_layers, by_ratio.end(),
                                        [](LayerKind kind) { return kind == LayerKind::kSwa; });
      if (!windowed) r_.unsupported("expected compress_ratios behind layer " + std::to_string(count - 1) + " to be 0");
      by_ratio.resize(count);
    }
    if (const JsonValue::Array* types = r_.list({"layer_types"}, count)) {
      for (size_t i = 0; i < count; ++i) by_type.push_back(kind_of((*types)[i], i));
    }
    if (by_ratio.empty() && by_type.empty()) r_.bad("expected compress_ratios or layer_types, found neither");
    const bool both = !by_ratio.empty() && !by_type.empty();
    if (both && by_ratio != by_type) r_.bad("compress_ratios and layer_types contradict each other");
    return by_ratio.empty() ? by_type : by_ratio;
  }

  /// A layer's kind from its ratio or its type name.
  LayerKind kind_of(const JsonValue& value, size_t layer) const {
    for (const LayerType& type : kLayerTypes) {
      if (value.integer() != nullptr && *value.integer() == type.ratio) return type.kind;
      if (value.string() != nullptr && *value.string() == type.name) return type.kind;
    }
    r_.unsupported("layer " + std::to_string(layer) +
                   ": expected a compression ratio of 0, 4 or 128 (or its layer type), found " + value.describe());
  }

  void check_rates() const {
    r_.only_integer({"compress_rate_csa"}, kCsaRatio);
    r_.only_integer({"compress_rate_hca"}, kHcaRatio);
    if (const JsonValue* rates = r_.object({"compress_rates"})) {
      const ConfigReader nested = r_.inside(*rates, {"compress_rates"});
      nested.only_integer({"compressed_sparse_attention"}, kCsaRatio);
      nested.only_integer({"heavily_compressed_attention"}, kHcaRatio);
    }
  }

  void indexer() {
    const bool needed = std::count(c_.layers.begin(), c_.layers.end(), LayerKind::kCsa) > 0;
    if (!needed && r_.find({"index_n_heads"}) == nullptr) return;
    c_.index_heads = r_.integer({"index_n_heads"}, 1, kMaxDim / kTile);
    c_.index_topk = r_.integer({"index_topk"}, 1, kMaxDim);
  }

  void experts() {
    c_.num_experts = r_.integer({"n_routed_experts", "num_local_experts"}, 1, kMaxExperts);
    c_.experts_per_token = r_.integer({"num_experts_per_tok", "n_activated_experts"}, 1, std::min(64, c_.num_experts));
    c_.moe_intermediate_size = dimension({"moe_intermediate_size", "moe_inter_dim"});
    c_.num_hash_layers = hash_layers();
    c_.routed_scaling_factor = static_cast<float>(r_.number_or({"routed_scaling_factor", "route_scale"}, 1e-6, 1e6, 1));
    c_.swiglu_limit = static_cast<float>(r_.number_or({"swiglu_limit"}, 0, 1e6, 0));
  }

  /// Hash-routed layers come first; mlp_layer_types spells them one by one.
  int hash_layers() const {
    const JsonValue::Array* types = r_.list({"mlp_layer_types"}, static_cast<size_t>(c_.num_layers));
    if (types == nullptr) return r_.integer({"num_hash_layers", "n_hash_layers"}, 0, c_.num_layers);
    int count = 0;
    for (int layer = 0; layer < c_.num_layers; ++layer) {
      const JsonValue& type = (*types)[static_cast<size_t>(layer)];
      const bool hashed = type == JsonValue(std::string("hash_moe"));
      if (!hashed && !(type == JsonValue(std::string("moe")))) {
        r_.unsupported("expected mlp_layer_types of \"hash_moe\" or \"moe\", found " + type.describe());
      }
      if (hashed && count != layer) {
        r_.unsupported("expected the hash_moe layers first, found one at layer " + std::to_string(layer));
      }
      count += hashed;
    }
    if (r_.integer_or({"num_hash_layers", "n_hash_layers"}, 0, c_.num_layers, count) != count) {
      r_.bad("num_hash_layers and mlp_layer_types contradict each other");
    }
    return count;
  }

  void hyper() {
    c_.hc_sinkhorn_iters = r_.integer_or({"hc_sinkhorn_iters"}, 1, 1000, 20);
    c_.hc_eps = static_cast<float>(r_.number_or({"hc_eps"}, 0, 1, 1e-6));
  }

  /// Window-only layers rotate without scaling, compressed layers with YaRN. Four spellings: rope_scaling or
  /// rope_parameters, each flat (YaRN's fields) or nested ({main, compress}), or the fields beside the others.
  void rope() {
    c_.rope_theta = r_.number_or({"rope_theta"}, 1, 1e12, 10000);
    c_.compress_rope_theta = r_.number_or({"compress_rope_theta"}, 1, 1e12, 160000);
    const Spellings keys = {"rope_scaling", "rope_parameters"};
    const JsonValue* object = r_.object(keys);
    if (object == nullptr) {
      r_.require({"rope_factor", "rope_scaling", "rope_parameters"});
      yarn(r_);
    } else if (object->find("main") != nullptr || object->find("compress") != nullptr) {
      nested_rope(r_.inside(*object, keys));
    } else {
      const ConfigReader flat = r_.inside(*object, keys);
      c_.rope_theta = flat.number_or({"rope_theta"}, 1, 1e12, c_.rope_theta);
      flat.only_string({"rope_type", "type"}, "yarn");
      yarn(flat);
    }
    const double context = std::min(c_.yarn_factor * c_.yarn_original_context, double{kMaxContext});
    c_.max_context = r_.integer_or({"max_position_embeddings"}, 1, kMaxContext, std::max(1, static_cast<int>(context)));
  }

  void nested_rope(const ConfigReader& reader) {
    if (const JsonValue* main = reader.object({"main"})) {
      const ConfigReader plain = reader.inside(*main, {"main"});
      plain.only_string({"rope_type", "type"}, "default");
      c_.rope_theta = plain.number_or({"rope_theta"}, 1, 1e12, c_.rope_theta);
    }
    const JsonValue& compress = reader.require({"compress"});
    reader.object({"compress"});
    const ConfigReader scaled = reader.inside(compress, {"compress"});
    scaled.only_string({"rope_type", "type"}, "yarn");
    c_.compress_rope_theta = scaled.number_or({"rope_theta"}, 1, 1e12, c_.compress_rope_theta);
    yarn(scaled);
  }

  void yarn(const ConfigReader& reader) {
    reader.require({"factor", "rope_factor"});
    c_.yarn_factor = reader.number_or({"factor", "rope_factor"}, 1, 65536, 16);
    c_.yarn_beta_fast = reader.number_or({"beta_fast"}, 1e-3, 1e6, 32);
    c_.yarn_beta_slow = reader.number_or({"beta_slow"}, 1e-3, 1e6, 1);
    c_.yarn_original_context =
        reader.integer_or({"original_max_position_embeddings", "original_seq_len"}, 1, kMaxContext, 65536);
    if (reader.number_or({"attention_factor"}, 0, 1e6, 1) != 1) {
      reader.unsupported("expected " + reader.name({"attention_factor"}) + " 1, found " +
                         reader.require({"attention_factor"}).describe());
    }
  }

  void quantization() {
    r_.only_string({"scale_fmt"}, "ue8m0");
    if (const JsonValue* type = r_.find({"expert_dtype"})) {
      c_.fp8_experts = *type == JsonValue(std::string("fp8"));
      if (!c_.fp8_experts) r_.only_string({"expert_dtype"}, "fp4");
    }
    const JsonValue* object = r_.object({"quantization_config"});
    if (object == nullptr) return;
    const ConfigReader nested = r_.inside(*object, {"quantization_config"});
    nested.only_string({"quant_method"}, "fp8");
    nested.only_string({"fmt"}, "e4m3");
    nested.only_string({"scale_fmt"}, "ue8m0");
    if (const JsonValue::Array* tile = nested.list({"weight_block_size"}, 2)) {
      const bool served = tile->size() == 2 && (*tile)[0] == JsonValue(int64_t{kTile}) && (*tile)[1] == JsonValue(int64_t{kTile});
      if (!served) nested.unsupported("expected quantization_config.weight_block_size [128, 128]");
    }
  }

  void tokens() {
    c_.bos_token = token({"bos_token_id"}, 0);
    c_.eos_token = token({"eos_token_id"}, 1);
  }

  /// A token id, or the first of a list of them.
  int token(Spellings keys, int fallback) const {
    const JsonValue* value = r_.find(keys);
    if (value != nullptr && value->array() != nullptr) {
      const JsonValue& first = r_.list(keys, 1)->front();
      if (first.integer() != nullptr && *first.integer() >= 0 && *first.integer() < c_.vocab_size) {
        return static_cast<int>(*first.integer());
      }
      r_.bad("expected " + r_.name(keys) + " to list token ids below " + std::to_string(c_.vocab_size) + ", found " +
             first.describe());
    }
    return r_.integer_or(keys, 0, c_.vocab_size - 1, std::min(fallback, c_.vocab_size - 1));
  }

  /// One draft block is used. The 0731 revision's blocks follow another algorithm (DSpark): its trunk is served without.
  void drafts(const JsonValue& json) {
    const int blocks = r_.integer_or({"num_nextn_predict_layers", "n_mtp_layers"}, 0, kMaxLayers, 1);
    c_.dspark = std::any_of(json.object()->begin(), json.object()->end(),
                            [](const JsonValue::Member& member) { return member.first.starts_with("dspark_"); });
    c_.num_mtp_layers = c_.dspark ? 0 : std::min(blocks, 1);
  }

  const ConfigReader& r_;
  ModelConfig c_;
};

}  // namespace

ModelConfig ModelConfig::parse(const std::string& json_text, const std::string& where) {
  const JsonValue json = parse_json(json_text, where, ErrorCode::kBadConfig);
  const ConfigReader reader(json, where);
  if (json.object() == nullptr) reader.bad("expected an object, found " + json.describe());
  return Parser(reader).parse(json);
}

ModelConfig ModelConfig::first_layers(int count) const {
  if (count < 0 || count > num_layers) {
    throw Error(ErrorCode::kBadOptions,
                "expected layers from 0 (all) to " + std::to_string(num_layers) + ", found " + std::to_string(count));
  }
  ModelConfig cut = *this;
  if (count == 0) return cut;
  cut.num_layers = count;
  cut.num_hash_layers = std::min(num_hash_layers, count);
  cut.layers.resize(static_cast<size_t>(count));
  return cut;
}

}  // namespace twelvex
