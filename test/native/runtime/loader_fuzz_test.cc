// SPDX-License-Identifier: MIT
// Mutated headers, indexes, configurations and whole directories: whatever comes in, only twelvex::Error comes out.
// Mutations are seeded, so a failure repeats; the count of inputs that were still accepted shows that they stay near the
// format instead of being refused at the first byte.

#include <array>
#include <chrono>
#include <random>

#include "check.h"
#include "fixtures.h"
#include "runtime/checkpoint.h"
#include "runtime/inspect.h"
#include "runtime/inventory.h"
#include "runtime/json.h"

using namespace twelvex;
using namespace twelvex::check;

namespace {

constexpr uint64_t kSeed = 20260422;

/// What a mutation may write in place of a token: edge cases of numbers, types and names.
constexpr std::array kTokens = {"0", "-1", "1", "127", "129", "4294967296", "9223372036854775807", "-9223372036854775808",
                                "18446744073709551616", "1e308", "1e999", "0.5", "-0.0", "null", "true", "[]", "{}", "\"\"",
                                "\"F32\"", "\"BF16\"", "\"I8\"", "\"fp8\"", "[0]", "[0,0]", "[[[[[[]]]]]]", "\"\\ud800\"",
                                "\"\\u0000\"", "\"../x\"", "2147483647", "2147483648"};

class Mutator {
 public:
  explicit Mutator(uint64_t seed) : random_(seed) {}

  size_t below(size_t n) { return n == 0 ? 0 : std::uniform_int_distribution<size_t>(0, n - 1)(random_); }

  std::string mutated(std::string text) {
    const size_t times = 1 + below(3);
    for (size_t i = 0; i < times; ++i) mutate(text);
    return text;
  }

 private:
  void mutate(std::string& text) {
    const size_t at = below(text.size());
    switch (below(8)) {
      case 0: text.resize(at); break;
      case 1: text.insert(at, 1, static_cast<char>(below(256))); break;
      case 2: if (!text.empty()) text[at] = static_cast<char>(below(256)); break;
      case 3: text.erase(at, 1 + below(8)); break;
      case 4: text.insert(at, text.substr(below(text.size()), below(64))); break;
      case 5: if (!text.empty()) text[at] = static_cast<char>(text[at] ^ (1 << below(8))); break;
      default: replace_value(text); break;
    }
  }

  /// Replaces one number or string of the text by an edge case.
  void replace_value(std::string& text) {
    const size_t start = text.find_first_of("0123456789\"", below(text.size()));
    if (start == std::string::npos) return;
    size_t end = start + 1;
    if (text[start] == '"') {
      end = text.find('"', end);
      end = end == std::string::npos ? text.size() : end + 1;
    } else {
      while (end < text.size() && std::string_view("0123456789.e-").find(text[end]) != std::string_view::npos) ++end;
    }
    text.replace(start, end - start, kTokens[below(kTokens.size())]);
  }

  std::mt19937_64 random_;
};

/// Outcomes of many attempts.
struct Outcomes {
  int accepted = 0, refused = 0;

  template <class Attempt>
  void count(const Attempt& attempt) {
    try {
      attempt();
      ++accepted;
    } catch (const Error& error) {
      ++refused;
      CHECK(error.code() != ErrorCode::kInternal);
      CHECK(std::string_view(error.what()).size() < 4096);
    }
  }
};

/// A header of small tensors from all over the tiny checkpoint, with their payload.
std::string some_header(size_t tensors, std::string& payload) {
  std::string header = "{\"__metadata__\":{\"format\":\"pt\"}";
  const std::vector<FileTensor> all = read_tensors(project_path("test/oracle/tiny/model.safetensors"));
  for (size_t i = 0; i < tensors; ++i) {
    const FileTensor& tensor = all[i * (all.size() - 1) / (tensors - 1)];
    if (tensor.bytes.size() > 20000) continue;
    header += ",\"" + tensor.name + "\":{\"dtype\":\"" + dtype_name(tensor.dtype) + "\",\"shape\":[";
    for (size_t d = 0; d < tensor.shape.size(); ++d) {
      if (d > 0) header += ",";
      header += std::to_string(tensor.shape[d]);
    }
    header += "],\"data_offsets\":[" + std::to_string(payload.size()) + ",";
    payload += tensor.bytes;
    header += std::to_string(payload.size()) + "]}";
  }
  return header + "}";
}

std::span<const uint8_t> bytes_of(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

}  // namespace

TEST("mutated safetensors headers are accepted whole or refused") {
  std::string payload;
  const std::string header = some_header(24, payload);
  Mutator mutator(kSeed);
  Outcomes outcomes;
  for (int i = 0; i < 6000; ++i) {
    const std::string file = safetensors_bytes(mutator.mutated(header), payload);
    outcomes.count([&] {
      uint64_t reached = 0;
      for (const SafetensorsEntry& entry : parse_safetensors_header(bytes_of(file), file.size(), "fuzz")) {
        reached = entry.offset + entry.bytes;
        CHECK(reached <= file.size());
        CHECK_EQ(static_cast<uint64_t>(element_count(entry.shape)) * dtype_bytes(entry.dtype), entry.bytes);
      }
      CHECK_EQ(reached, file.size());
    });
  }
  CHECK(outcomes.refused > 3000);
  CHECK(outcomes.accepted > 50);
}

TEST("mutated whole files are accepted or refused") {
  const std::string file = safetensors_bytes({{"a", Dtype::kF32, {2, 3}, std::string(24, 'a')},
                                              {"b", Dtype::kF8E8M0, {5}, "bbbbb"},
                                              {"c", Dtype::kI64, {}, "cccccccc"}});
  Mutator mutator(kSeed + 1);
  Outcomes outcomes;
  for (int i = 0; i < 6000; ++i) {
    const std::string mutated = mutator.mutated(file);
    outcomes.count([&] { parse_safetensors_header(bytes_of(mutated), mutated.size(), "fuzz"); });
  }
  CHECK(outcomes.refused > 3000);
  CHECK(outcomes.accepted > 50);
}

TEST("mutated configurations give a servable model or an error") {
  const std::array texts = {read_file(project_path("test/oracle/tiny/config.json")),
                            read_file(project_path("models/flash/config.json"))};
  Mutator mutator(kSeed + 2);
  Outcomes outcomes;
  for (int i = 0; i < 6000; ++i) {
    const std::string text = mutator.mutated(texts[static_cast<size_t>(i) % 2]);
    outcomes.count([&] {
      const ModelConfig config = ModelConfig::parse(text, "fuzz");
      CHECK_EQ(config.layers.size(), static_cast<size_t>(config.num_layers));
      CHECK(config.num_heads % config.o_groups == 0 && config.hidden_size % 128 == 0 && config.hidden_size > 0);
      CHECK(config.experts_per_token >= 1 && config.experts_per_token <= config.num_experts);
      CHECK(config.bos_token < config.vocab_size && config.eos_token < config.vocab_size);
      CHECK(CacheLayout::make(config, RowFormat::kFp8, true, 2).window_block_bytes > 0);
      if (i % 20 == 0 && !config.fp8_experts) {
        for (const TensorSpec& spec : make_inventory(config)) CHECK(spec.elements() > 0);
      }
    });
  }
  CHECK(outcomes.refused > 2000);
  CHECK(outcomes.accepted > 300);
}

TEST("mutated directories open, inspect or fail with an error") {
  const std::string config = read_file(project_path("test/oracle/tiny/config.json"));
  std::vector<FileTensor> tensors = read_tensors(project_path("test/oracle/tiny/model.safetensors"));
  std::string index = "{\"weight_map\":{";
  for (size_t i = 0; i < tensors.size(); ++i) {
    index += (i > 0 ? ",\"" : "\"") + tensors[i].name + "\":\"" + (i % 2 == 0 ? "one" : "two") + ".safetensors\"";
  }
  index += "}}";
  std::vector<FileTensor> parts[2];
  for (size_t i = 0; i < tensors.size(); ++i) parts[i % 2].push_back(tensors[i]);
  const ScratchDirectory directory;
  directory.write("config.json", config);
  directory.write("one.safetensors", safetensors_bytes(parts[0]));
  directory.write("two.safetensors", safetensors_bytes(parts[1]));
  const ModelConfig intact = read_config(directory.path());

  Mutator mutator(kSeed + 3);
  Outcomes outcomes;
  for (int i = 0; i < 1500; ++i) {
    directory.write("model.safetensors.index.json", i % 3 == 0 ? index : mutator.mutated(index));
    directory.write("config.json", i % 3 == 0 ? mutator.mutated(config) : config);
    outcomes.count([&] { Checkpoint::open(directory.path(), i % 3 == 0 ? read_config(directory.path()) : intact); });
    outcomes.count([&] { inspect_checkpoint(directory.path()); });
  }
  CHECK(outcomes.refused > 1000);
  CHECK(outcomes.accepted > 50);
}

TEST("random bytes are not JSON") {
  std::mt19937_64 random(kSeed + 4);
  Outcomes outcomes;
  for (int i = 0; i < 20000; ++i) {
    std::string text(random() % 24, ' ');
    for (char& c : text) c = i % 2 == 0 ? static_cast<char>(random()) : "{}[]\",:0123456789.eE+-\\utrfalsn \t"[random() % 33];
    outcomes.count([&] { parse_json(text, "fuzz", ErrorCode::kBadConfig); });
  }
  CHECK(outcomes.refused > 15000);
}
