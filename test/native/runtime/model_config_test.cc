// SPDX-License-Identifier: MIT
#include "runtime/model_config.h"

#include <algorithm>

#include "check.h"
#include "fixtures.h"

using namespace twelvex;
using namespace twelvex::check;

namespace {

ModelConfig parse(const std::string& text) { return ModelConfig::parse(text, "config.json"); }

std::string flash_text() { return read_file(project_path("models/flash/config.json")); }

std::string ratios_text(size_t trailing_zeros) {
  std::string text = "[0,0";
  for (int i = 0; i < 20; ++i) text += ",4,128";
  text += ",4";
  for (size_t i = 0; i < trailing_zeros; ++i) text += ",0";
  return text + "]";
}

/// Flash as the release's inference code spells it.
std::string inference_text() {
  return R"({"vocab_size":129280,"dim":4096,"moe_inter_dim":2048,"n_layers":43,"n_hash_layers":3,"n_heads":64,
    "n_routed_experts":256,"n_shared_experts":1,"n_activated_experts":6,"score_func":"sqrtsoftplus","route_scale":1.5,
    "swiglu_limit":10.0,"q_lora_rank":1024,"head_dim":512,"rope_head_dim":64,"o_groups":8,"o_lora_rank":1024,
    "window_size":128,"original_seq_len":65536,"rope_theta":10000,"rope_factor":16,"beta_fast":32,"beta_slow":1,
    "index_n_heads":64,"index_head_dim":128,"index_topk":512,"hc_mult":4,"hc_sinkhorn_iters":20,"dtype":"fp8",
    "scale_fmt":"ue8m0","expert_dtype":"fp4","compress_rope_theta":160000,"max_batch_size":4,"max_seq_len":4096,
    "compress_ratios":)" + ratios_text(1) + "}";
}

/// Flash as transformers' native support saves it.
std::string native_text(const std::string& rates) {
  std::string types = "\"sliding_attention\",\"sliding_attention\"", experts = "\"hash_moe\",\"hash_moe\",\"hash_moe\"";
  for (int i = 0; i < 20; ++i) types += ",\"compressed_sparse_attention\",\"heavily_compressed_attention\"";
  for (int i = 3; i < 43; ++i) experts += ",\"moe\"";
  return R"({"model_type":"deepseek_v4","vocab_size":129280,"hidden_size":4096,"num_hidden_layers":43,"num_attention_heads":64,
    "num_key_value_heads":1,"head_dim":512,"partial_rotary_factor":0.125,"q_lora_rank":1024,"o_groups":8,"o_lora_rank":1024,
    "sliding_window":128,"index_n_heads":64,"index_head_dim":128,"index_topk":512,"n_routed_experts":256,
    "num_experts_per_tok":6,"moe_intermediate_size":2048,"routed_scaling_factor":1.5,"swiglu_limit":10.0,"hc_mult":4,
    "max_position_embeddings":1048576,"pad_token_id":null,"eos_token_id":[1,2],"mlp_bias":false,
    "rope_parameters":{"main":{"rope_type":"default","rope_theta":10000.0,"partial_rotary_factor":0.125},
      "compress":{"rope_type":"yarn","rope_theta":160000.0,"factor":16,"beta_fast":32,"beta_slow":1,"attention_factor":1.0,
      "original_max_position_embeddings":65536,"partial_rotary_factor":0.125}},)" +
         rates + "\"layer_types\":[" + types + ",\"compressed_sparse_attention\"],\"mlp_layer_types\":[" + experts + "]}";
}

void check_is_flash(const ModelConfig& config) {
  const ModelConfig flash = parse(flash_text());
  CHECK_EQ(config.vocab_size, 129280);
  CHECK_EQ(config.hidden_size, 4096);
  CHECK_EQ(config.num_layers, 43);
  CHECK_EQ(config.num_mtp_layers, 1);
  CHECK_EQ(config.num_heads, 64);
  CHECK_EQ(config.q_lora_rank, 1024);
  CHECK_EQ(config.o_groups, 8);
  CHECK_EQ(config.o_lora_rank, 1024);
  CHECK_EQ(config.index_heads, 64);
  CHECK_EQ(config.index_topk, 512);
  CHECK_EQ(config.num_experts, 256);
  CHECK_EQ(config.experts_per_token, 6);
  CHECK_EQ(config.moe_intermediate_size, 2048);
  CHECK_EQ(config.num_hash_layers, 3);
  CHECK_EQ(config.routed_scaling_factor, 1.5f);
  CHECK_EQ(config.swiglu_limit, 10.0f);
  CHECK_EQ(config.hc_sinkhorn_iters, 20);
  CHECK_EQ(config.hc_eps, 1e-6f);
  CHECK_EQ(config.rms_norm_eps, 1e-6f);
  CHECK_EQ(config.rope_theta, 10000.0);
  CHECK_EQ(config.compress_rope_theta, 160000.0);
  CHECK_EQ(config.yarn_factor, 16.0);
  CHECK_EQ(config.yarn_beta_fast, 32.0);
  CHECK_EQ(config.yarn_beta_slow, 1.0);
  CHECK_EQ(config.yarn_original_context, 65536);
  CHECK_EQ(config.max_context, 1048576);
  CHECK_EQ(config.bos_token, 0);
  CHECK_EQ(config.eos_token, 1);
  CHECK(config.layers == flash.layers);
  CHECK(!config.dspark && !config.fp8_experts);
}

void refuse(const std::string& from, const std::string& to, ErrorCode code, std::string_view part, std::string_view part2 = "") {
  CHECK_THROWS_CODE(parse(replaced(flash_text(), from, to)), code, "config.json: ", part, part2);
}

}  // namespace

TEST("Flash and Pro have the layer kinds of the release") {
  const ModelConfig flash = parse(flash_text());
  check_is_flash(flash);
  const auto count = [](const ModelConfig& config, LayerKind kind) {
    return std::count(config.layers.begin(), config.layers.end(), kind);
  };
  CHECK_EQ(count(flash, LayerKind::kSwa), 2);
  CHECK_EQ(count(flash, LayerKind::kCsa), 21);
  CHECK_EQ(count(flash, LayerKind::kHca), 20);
  const ModelConfig pro = parse(read_file(project_path("models/pro/config.json")));
  CHECK_EQ(pro.num_layers, 61);
  CHECK_EQ(count(pro, LayerKind::kSwa), 0);
  CHECK_EQ(count(pro, LayerKind::kCsa), 30);
  CHECK_EQ(count(pro, LayerKind::kHca), 31);
  CHECK(pro.layers[0] == LayerKind::kHca && pro.layers[1] == LayerKind::kHca && pro.layers[60] == LayerKind::kCsa);
  CHECK_EQ(pro.routed_scaling_factor, 2.5f);
}

TEST("the spellings of inference/config.json, native and legacy transformers keys mean the same model") {
  check_is_flash(parse(inference_text()));
  check_is_flash(parse(native_text(R"("compress_rates":{"compressed_sparse_attention":4,"heavily_compressed_attention":128},)")));
  check_is_flash(parse(native_text(R"("compress_rate_csa":4,"compress_rate_hca":128,)")));
  check_is_flash(parse(native_text("")));
}

TEST("rotary scaling is read flat, nested or beside the other fields") {
  const std::string scaling = R"("rope_scaling": {"type": "yarn", "factor": 16, "beta_fast": 32, "beta_slow": 1, )"
                              R"("original_max_position_embeddings": 65536})";
  const auto with = [&](const std::string& text) { return parse(replaced(flash_text(), scaling, text)); };
  check_is_flash(with(replaced(scaling, "rope_scaling", "rope_parameters")));
  check_is_flash(with(replaced(scaling, "\"type\"", "\"rope_theta\": 10000, \"rope_type\"")));
  check_is_flash(with(R"("rope_factor": 16, "beta_fast": 32, "beta_slow": 1, "original_seq_len": 65536)"));
  check_is_flash(with(R"("rope_scaling": {"main": {"rope_theta": 10000}, "compress": {"type": "yarn", "factor": 16}})"));
  const ModelConfig other =
      with(R"("rope_scaling": {"main": {"rope_theta": 5000}, "compress": {"rope_theta": 7000, "factor": 8}})");
  CHECK_EQ(other.rope_theta, 5000.0);
  CHECK_EQ(other.compress_rope_theta, 7000.0);
  CHECK_EQ(other.yarn_factor, 8.0);
  CHECK_THROWS_CODE(with("\"x\": 1"), ErrorCode::kBadConfig, "expected rope_factor or rope_scaling");
  CHECK_THROWS_CODE(with("\"rope_scaling\": {\"type\": \"yarn\"}"), ErrorCode::kBadConfig, "expected rope_scaling.factor");
  CHECK_THROWS_CODE(with(R"("rope_scaling": {"type": "linear", "factor": 2})"), ErrorCode::kUnsupported, "yarn", "linear");
  CHECK_THROWS_CODE(with("\"rope_scaling\": {\"main\": {}}"), ErrorCode::kBadConfig, "rope_scaling.compress");
  CHECK_THROWS_CODE(with(R"("rope_scaling": {"factor": 16, "attention_factor": 1.2})"), ErrorCode::kUnsupported, "found 1.2");
}

TEST("the test checkpoints' configurations are read") {
  for (const char* path : {"models/demo/config.json", "test/oracle/tiny/config.json"}) {
    const ModelConfig config = parse(read_file(project_path(path)));
    CHECK_EQ(config.num_mtp_layers, 1);
    CHECK_EQ(config.layers.size(), static_cast<size_t>(config.num_layers));
    CHECK_EQ(config.num_hash_layers, 1);
  }
}

TEST("a DSpark revision is recognised and its trunk served without drafts") {
  const std::string text = replaced(flash_text(), ", 4, 0]", ", 4, 0, 0, 0]");
  const ModelConfig config = parse(replaced(text, "predict_layers\": 1", "predict_layers\": 3, \"dspark_block_size\": 5"));
  CHECK(config.dspark);
  CHECK_EQ(config.num_mtp_layers, 0);
  CHECK_EQ(config.num_layers, 43);
  CHECK_EQ(config.layers.size(), 43u);
}

TEST("only the first of several MTP blocks is used, and none is fine") {
  CHECK_EQ(parse(replaced(flash_text(), "predict_layers\": 1", "predict_layers\": 2")).num_mtp_layers, 1);
  CHECK_EQ(parse(replaced(flash_text(), "predict_layers\": 1", "predict_layers\": 0")).num_mtp_layers, 0);
}

TEST("FP8 experts are noted and an absent expert type means FP4") {
  CHECK(parse(replaced(flash_text(), "\"expert_dtype\": \"fp4\"", "\"expert_dtype\": \"fp8\"")).fp8_experts);
  CHECK(!parse(replaced(flash_text(), "\"expert_dtype\": \"fp4\",", "")).fp8_experts);
  refuse("\"expert_dtype\": \"fp4\"", "\"expert_dtype\": \"int4\"", ErrorCode::kUnsupported, "\"fp4\"", "\"int4\"");
}

TEST("what cannot be served is refused with what was expected and found") {
  const ErrorCode code = ErrorCode::kUnsupported;
  refuse("\"head_dim\": 512", "\"head_dim\": 256", code, "expected head_dim 512, found 256");
  refuse("rope_head_dim\": 64", "rope_head_dim\": 32", code, "expected qk_rope_head_dim 64, found 32");
  refuse("\"sliding_window\": 128", "\"sliding_window\": 64", code, "expected sliding_window 128, found 64");
  refuse("\"hc_mult\": 4", "\"hc_mult\": 2", code, "expected hc_mult 4, found 2");
  refuse("\"index_head_dim\": 128", "\"index_head_dim\": 64", code, "expected index_head_dim 128, found 64");
  refuse("\"num_key_value_heads\": 1", "\"num_key_value_heads\": 8", code, "expected num_key_value_heads 1, found 8");
  refuse("\"n_shared_experts\": 1", "\"n_shared_experts\": 2", code, "expected n_shared_experts 1, found 2");
  refuse("\"model_type\": \"deepseek_v4\"", "\"model_type\": \"llama\"", code, "\"deepseek_v4\"", "\"llama\"");
  refuse("\"sqrtsoftplus\"", "\"sigmoid\"", code, "scoring_func", "\"sigmoid\"");
  refuse("\"norm_topk_prob\": true", "\"norm_topk_prob\": false", code, "norm_topk_prob true, found false");
  refuse("\"tie_word_embeddings\": false", "\"tie_word_embeddings\": true", code, "tie_word_embeddings false, found true");
  refuse("\"o_groups\": 8", "\"o_groups\": 7", code, "multiple of o_groups 7, found 64");
  refuse("\"hidden_size\": 4096", "\"hidden_size\": 4100", code, "hidden_size to be a multiple of 128, found 4100");
  refuse("\"moe_intermediate_size\": 2048", "\"moe_intermediate_size\": 2000", code, "multiple of 128, found 2000");
  refuse("[128, 128]", "[64, 128]", code, "weight_block_size [128, 128]");
  refuse("[0, 0, 4,", "[0, 0, 8,", code, "layer 2", "found 8");
  refuse(", 4, 0]", ", 4, 4]", code, "behind layer 42");
}

TEST("what cannot be understood is refused with the field's name") {
  const ErrorCode code = ErrorCode::kBadConfig;
  refuse("\"hidden_size\": 4096,", "", code, "expected hidden_size or dim, found none");
  refuse("\"hidden_size\": 4096,", "\"hidden_size\": null,", code, "expected hidden_size or dim, found none");
  refuse("\"hidden_size\": 4096", "\"hidden_size\": \"4096\"", code, "hidden_size to be a whole number", "the string \"4096\"");
  refuse("\"hidden_size\": 4096", "\"hidden_size\": -128", code, "from 1 to", "found -128");
  refuse("\"hidden_size\": 4096", "\"hidden_size\": 4096.5", code, "whole number", "4096.5");
  refuse("\"hidden_size\": 4096", "\"hidden_size\": 4096, \"dim\": 2048", code, "hidden_size and dim contradict", "2048");
  refuse("\"num_hidden_layers\": 43", "\"num_hidden_layers\": 50", code, "compress_ratios", "list of 44");
  refuse("\"num_experts_per_tok\": 6", "\"num_experts_per_tok\": 65", code, "num_experts_per_tok", "found 65");
  refuse("\"num_hash_layers\": 3", "\"num_hash_layers\": 44", code, "num_hash_layers", "found 44");
  refuse("\"rms_norm_eps\": 1e-06", "\"rms_norm_eps\": \"x\"", code, "rms_norm_eps to be a number", "\"x\"");
  refuse("\"bos_token_id\": 0", "\"bos_token_id\": 200000", code, "bos_token_id", "found 200000");
  refuse("\"eos_token_id\": 1", "\"eos_token_id\": []", code, "eos_token_id", "list of 0");
  refuse("\"compress_ratios\"", "\"ratios\"", code, "compress_ratios or layer_types, found neither");
  CHECK_THROWS_CODE(parse("[]"), code, "expected an object, found a list of 0");
  CHECK_THROWS_CODE(parse("{"), code, "config.json: byte 1");
}

TEST("lists that contradict each other are refused") {
  std::string text = replaced(native_text(""), "\"layer_types\"", "\"compress_ratios\":" + ratios_text(0) + ",\"layer_types\"");
  check_is_flash(parse(text));
  text = replaced(text, "[0,0,4,128", "[0,0,128,4");
  CHECK_THROWS_CODE(parse(text), ErrorCode::kBadConfig, "compress_ratios and layer_types contradict");
  text = replaced(native_text(""), "\"mlp_layer_types\"", "\"num_hash_layers\":2,\"mlp_layer_types\"");
  CHECK_THROWS_CODE(parse(text), ErrorCode::kBadConfig, "num_hash_layers and mlp_layer_types contradict");
  text = replaced(native_text(""), "[\"hash_moe\"", "[\"moe\"");
  CHECK_THROWS_CODE(parse(text), ErrorCode::kUnsupported, "hash_moe layers first");
  text = native_text(R"("compress_rates":{"compressed_sparse_attention":8},)");
  CHECK_THROWS_CODE(parse(text), ErrorCode::kUnsupported, "compress_rates.compressed_sparse_attention 4, found 8");
}

TEST("the first layers of a model keep its MTP block") {
  const ModelConfig flash = parse(flash_text());
  const ModelConfig cut = flash.first_layers(2);
  CHECK_EQ(cut.num_layers, 2);
  CHECK_EQ(cut.layers.size(), 2u);
  CHECK_EQ(cut.num_hash_layers, 2);
  CHECK_EQ(cut.num_mtp_layers, 1);
  CHECK_EQ(flash.first_layers(0).num_layers, 43);
  CHECK_THROWS_CODE(flash.first_layers(44), ErrorCode::kBadOptions, "43", "44");
  CHECK_THROWS_CODE(flash.first_layers(-1), ErrorCode::kBadOptions, "-1");
}
