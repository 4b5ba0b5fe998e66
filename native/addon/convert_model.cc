// SPDX-License-Identifier: MIT
#include <array>
#include <cmath>
#include <string>
#include <utility>

#include "convert.h"

namespace twelvex {
namespace {

[[noreturn]] void bad_option(const char* name, const std::string& problem) {
  throw Error(ErrorCode::kBadOptions, std::string(name) + " " + problem);
}

Napi::Object as_object(const Napi::Value& value, const char* what) {
  if (!value.IsObject()) bad_option(what, "must be an object");
  return value.As<Napi::Object>();
}

/// A whole number that int64 and double agree on.
int64_t to_integer(const Napi::Value& value, const char* name, int64_t low, int64_t high) {
  const double number = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : NAN;
  if (!(number >= static_cast<double>(low) && number <= static_cast<double>(high)) || number != std::floor(number)) {
    bad_option(name, "must be a whole number from " + std::to_string(low) + " to " + std::to_string(high));
  }
  return static_cast<int64_t>(number);
}

int get_int(const Napi::Object& object, const char* name) {
  return static_cast<int>(to_integer(object.Get(name), name, 0, INT32_MAX));
}

int64_t get_large(const Napi::Object& object, const char* name) {
  return to_integer(object.Get(name), name, 0, (int64_t{1} << 53) - 1);
}

template <typename T, size_t N>
T get_choice(const Napi::Object& object, const char* name, const std::array<std::pair<const char*, T>, N>& choices) {
  const Napi::Value value = object.Get(name);
  const std::string text = value.IsString() ? value.As<Napi::String>().Utf8Value() : "";
  std::string expected;
  for (const auto& [spelling, choice] : choices) {
    if (text == spelling) return choice;
    expected += std::string(expected.empty() ? "" : ", ") + spelling;
  }
  bad_option(name, "is \"" + text + "\", expected one of " + expected);
}

constexpr std::array<std::pair<const char*, Device>, 2> kDevices{{{"cpu", Device::kCpu}, {"cuda", Device::kCuda}}};
constexpr std::array<std::pair<const char*, Numerics>, 2> kNumerics{{{"exact", Numerics::kExact}, {"served", Numerics::kServed}}};
constexpr std::array<std::pair<const char*, RowFormat>, 3> kRowFormats{
    {{"f32", RowFormat::kF32}, {"bf16", RowFormat::kBF16}, {"fp8", RowFormat::kFp8}}};
constexpr std::array<std::pair<const char*, bool>, 2> kLoadFormats{{{"auto", false}, {"dummy", true}}};

std::vector<int> get_devices(const Napi::Object& object) {
  const Napi::Value value = object.Get("devices");
  if (!value.IsArray()) bad_option("devices", "must be an array of device numbers");
  const auto list = value.As<Napi::Array>();
  std::vector<int> devices;
  for (uint32_t i = 0; i < list.Length(); ++i) devices.push_back(static_cast<int>(to_integer(list.Get(i), "devices", 0, 1023)));
  return devices;
}

const char* layer_kind_name(LayerKind kind) {
  switch (kind) {
    case LayerKind::kSwa: return "swa";
    case LayerKind::kCsa: return "csa";
    case LayerKind::kHca: return "hca";
  }
  return "swa";
}

const char* row_format_name(RowFormat format) {
  for (const auto& [name, choice] : kRowFormats) {
    if (choice == format) return name;
  }
  return "f32";
}

Napi::Object config_object(Napi::Env env, const ModelConfig& config) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("vocabSize", config.vocab_size);
  object.Set("hiddenSize", config.hidden_size);
  object.Set("numLayers", config.num_layers);
  object.Set("numMtpLayers", config.num_mtp_layers);
  object.Set("numHeads", config.num_heads);
  object.Set("indexTopk", config.index_topk);
  object.Set("numExperts", config.num_experts);
  object.Set("expertsPerToken", config.experts_per_token);
  object.Set("maxContext", config.max_context);
  object.Set("bosToken", config.bos_token);
  object.Set("eosToken", config.eos_token);
  object.Set("dspark", config.dspark);
  Napi::Array layers = Napi::Array::New(env, config.layers.size());
  for (uint32_t i = 0; i < config.layers.size(); ++i) layers.Set(i, layer_kind_name(config.layers[i]));
  object.Set("layers", layers);
  return object;
}

Napi::Number number(Napi::Env env, int64_t value) { return Napi::Number::New(env, static_cast<double>(value)); }

}  // namespace

LoadOptions read_load_options(const Napi::Value& value) {
  const Napi::Object object = as_object(value, "options");
  LoadOptions options;
  options.device = get_choice(object, "device", kDevices);
  options.devices = get_devices(object);
  options.tp = get_int(object, "tp");
  options.threads = get_int(object, "threads");
  options.numerics = get_choice(object, "numerics", kNumerics);
  options.rows = get_choice(object, "rowFormat", kRowFormats);
  options.mtp = get_int(object, "mtp");
  options.dummy = get_choice(object, "loadFormat", kLoadFormats);
  options.dummy_seed = static_cast<uint64_t>(get_large(object, "dummySeed"));
  options.layers = get_int(object, "layers");
  options.step_tokens = get_int(object, "stepTokens");
  options.max_rows = get_int(object, "maxRows");
  options.context_tokens = get_int(object, "contextTokens");
  options.logit_slice = get_int(object, "logitSlice");
  options.host_bytes = static_cast<size_t>(get_large(object, "hostBytes"));
  return options;
}

CachePlan read_cache_plan(const Napi::Value& value) {
  const Napi::Object object = as_object(value, "the cache plan");
  return {.slots = get_int(object, "slots"), .window_blocks = get_int(object, "windowBlocks"),
          .context_blocks = get_int(object, "contextBlocks")};
}

Napi::Object checkpoint_info(Napi::Env env, const CheckpointInfo& info) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("config", config_object(env, info.config));
  object.Set("weightsPresent", info.weights_present);
  Napi::Array tensors = Napi::Array::New(env, info.tensors.size());
  for (uint32_t i = 0; i < info.tensors.size(); ++i) {
    const TensorStatistics& entry = info.tensors[i];
    Napi::Object row = Napi::Object::New(env);
    row.Set("kind", entry.kind);
    row.Set("dtype", entry.dtype);
    row.Set("tensors", number(env, entry.tensors));
    row.Set("parameters", number(env, entry.parameters));
    row.Set("bytes", number(env, entry.bytes));
    tensors.Set(i, row);
  }
  object.Set("tensors", tensors);
  Napi::Array cache = Napi::Array::New(env, info.cache.size());
  for (uint32_t i = 0; i < info.cache.size(); ++i) {
    const CacheStatistics& entry = info.cache[i];
    Napi::Object row = Napi::Object::New(env);
    row.Set("rowFormat", row_format_name(entry.row_format));
    row.Set("mtp", entry.mtp);
    row.Set("windowBlockBytes", number(env, entry.window_block_bytes));
    row.Set("contextBlockBytes", number(env, entry.context_block_bytes));
    row.Set("slotBytes", number(env, entry.slot_bytes));
    cache.Set(i, row);
  }
  object.Set("cache", cache);
  return object;
}

Napi::Array memory_list(Napi::Env env, const std::vector<Memory>& memory) {
  Napi::Array list = Napi::Array::New(env, memory.size());
  for (uint32_t i = 0; i < memory.size(); ++i) {
    Napi::Object rank = Napi::Object::New(env);
    rank.Set("freeBytes", number(env, static_cast<int64_t>(memory[i].free_bytes)));
    rank.Set("totalBytes", number(env, static_cast<int64_t>(memory[i].total_bytes)));
    list.Set(i, rank);
  }
  return list;
}

}  // namespace twelvex
