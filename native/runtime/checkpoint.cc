// SPDX-License-Identifier: MIT
#include "checkpoint.h"

#include <algorithm>
#include <filesystem>

#include "error.h"
#include "inventory.h"
#include "json.h"

namespace twelvex {

namespace {

constexpr const char* kConfigName = "config.json";
constexpr const char* kSingleName = "model.safetensors";
constexpr const char* kIndexName = "model.safetensors.index.json";
constexpr size_t kMaxTextBytes = 100'000'000;

std::string in(const std::string& directory, const std::string& name) {
  return (std::filesystem::path(directory) / name).string();
}

bool exists(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::exists(path, ignored);
}

[[noreturn]] void fail(const std::string& where, const std::string& problem) {
  throw Error(ErrorCode::kBadCheckpoint, where + ": " + problem);
}

std::string read_text(const std::string& path) {
  const MappedFile file(path);
  if (file.size() > kMaxTextBytes) {
    fail(path, "expected at most " + std::to_string(kMaxTextBytes) + " bytes, found " + std::to_string(file.size()));
  }
  return std::string(reinterpret_cast<const char*>(file.data()), file.size());
}

/// The weight_map of an index file: tensor name to file name.
class Index {
 public:
  explicit Index(const std::string& path)
      : path_(path), json_(parse_json(read_text(path), path, ErrorCode::kBadCheckpoint)), map_(json_.find("weight_map")) {
    if (map_ == nullptr || map_->object() == nullptr) {
      fail(path_, "expected \"weight_map\" to be an object, found " + (map_ == nullptr ? "nothing" : map_->describe()));
    }
    for (const auto& [tensor, file] : *map_->object()) {
      if (file.string() == nullptr || !is_plain_name(*file.string())) {
        fail(path_, "tensor " + in_quotes(tensor) + ": expected a file name, found " + file.describe());
      }
      files_.push_back(*file.string());
    }
    std::sort(files_.begin(), files_.end());
    files_.erase(std::unique(files_.begin(), files_.end()), files_.end());
  }

  const std::vector<std::string>& files() const { return files_; }

  /// Index and files must name the same tensors in the same places.
  void check(const std::string& directory, const CheckpointFiles& files) const {
    for (const auto& [tensor, file] : *map_->object()) {
      const CheckpointTensor* found = files.find(tensor);
      const std::string place = "tensor " + in_quotes(tensor) + ": expected in " + in_quotes(*file.string());
      if (found == nullptr) fail(path_, place + ", found in no file");
      const std::string& actual = files.file(found->file).path();
      if (actual != in(directory, *file.string())) fail(path_, place + ", found in " + actual);
    }
    if (map_->object()->size() == files.tensors().size()) return;
    std::vector<std::string_view> listed;
    for (const auto& member : *map_->object()) listed.push_back(member.first);
    std::sort(listed.begin(), listed.end());
    for (const CheckpointTensor& tensor : files.tensors()) {
      if (!std::binary_search(listed.begin(), listed.end(), tensor.entry.name)) {
        fail(files.file(tensor.file).path(), "tensor " + in_quotes(tensor.entry.name) + " is not listed in " + path_);
      }
    }
  }

 private:
  static bool is_plain_name(const std::string& name) {
    return !name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos &&
           name.find('\0') == std::string::npos;
  }

  std::string path_;
  JsonValue json_;
  const JsonValue* map_;
  std::vector<std::string> files_;
};

bool by_name(const CheckpointTensor& a, const CheckpointTensor& b) { return a.entry.name < b.entry.name; }

/// Tensors that a checkpoint may hold and this program does not use: draft blocks beyond the one it runs, and repacked
/// copies of the embedding and head in a draft block.
bool may_ignore(const std::string& name, const ModelConfig& config) {
  if (!name.starts_with("mtp.")) return false;
  const bool used_block = config.num_mtp_layers > 0 && name.starts_with("mtp.0.");
  return !used_block || name.find("emb") != std::string::npos || name.ends_with("head.weight");
}

void check_tensor(const TensorSpec& spec, const CheckpointFiles& files, const std::string& directory) {
  const CheckpointTensor* found = files.find(spec.name);
  const std::string expected = describe_tensor(spec.dtype, spec.shape);
  if (found == nullptr) fail(directory, "tensor " + in_quotes(spec.name) + ": expected " + expected + ", found none");
  const SafetensorsEntry& entry = found->entry;
  if (entry.dtype == spec.dtype && entry.shape == spec.shape) return;
  const std::string problem = files.file(found->file).path() + ": tensor " + in_quotes(spec.name) + ": expected " + expected +
                              ", found " + describe_tensor(entry.dtype, entry.shape);
  const bool fp8_expert = spec.kind == TensorKind::kRoutedExpert && entry.dtype == Dtype::kF8E4M3;
  if (fp8_expert) throw Error(ErrorCode::kUnsupported, problem + "; FP8 routed experts (Base checkpoints) cannot be served");
  throw Error(ErrorCode::kBadCheckpoint, problem);
}

void check_inventory(const CheckpointFiles& files, const ModelConfig& config, const std::string& directory) {
  const std::vector<TensorSpec> specs = make_inventory(config);
  for (const TensorSpec& spec : specs) check_tensor(spec, files, directory);
  if (files.tensors().size() == specs.size()) return;
  std::vector<std::string_view> known;
  for (const TensorSpec& spec : specs) known.push_back(spec.name);
  std::sort(known.begin(), known.end());
  for (const CheckpointTensor& tensor : files.tensors()) {
    const std::string& name = tensor.entry.name;
    if (std::binary_search(known.begin(), known.end(), name) || may_ignore(name, config)) continue;
    fail(files.file(tensor.file).path(), "tensor " + in_quotes(name) + " has no place in the model that config.json describes");
  }
}

}  // namespace

ModelConfig read_config(const std::string& directory) {
  const std::string path = in(directory, kConfigName);
  return ModelConfig::parse(read_text(path), path);
}

bool CheckpointFiles::present(const std::string& directory) {
  return exists(in(directory, kSingleName)) || exists(in(directory, kIndexName));
}

CheckpointFiles CheckpointFiles::open(const std::string& directory) {
  CheckpointFiles result;
  const std::string index_path = in(directory, kIndexName);
  if (exists(index_path)) {
    const Index index(index_path);
    for (const std::string& name : index.files()) result.add(in(directory, name));
    result.sort();
    index.check(directory, result);
  } else if (exists(in(directory, kSingleName))) {
    result.add(in(directory, kSingleName));
    result.sort();
  } else {
    fail(directory, std::string("expected ") + kSingleName + " or " + kIndexName + ", found neither");
  }
  return result;
}

void CheckpointFiles::add(const std::string& path) {
  MappedFile file(path);
  for (SafetensorsEntry& entry : parse_safetensors_header(file.bytes(), file.size(), path)) {
    tensors_.push_back({std::move(entry), file_count()});
  }
  files_.push_back(std::move(file));
}

void CheckpointFiles::sort() {
  std::sort(tensors_.begin(), tensors_.end(), by_name);
  for (size_t i = 1; i < tensors_.size(); ++i) {
    const CheckpointTensor &a = tensors_[i - 1], &b = tensors_[i];
    if (a.entry.name == b.entry.name) {
      fail(file(a.file).path(), "tensor " + in_quotes(a.entry.name) + " is also in " + file(b.file).path());
    }
  }
}

const CheckpointTensor* CheckpointFiles::find(const std::string& name) const {
  const auto at = std::partition_point(tensors_.begin(), tensors_.end(),
                                       [&](const CheckpointTensor& tensor) { return tensor.entry.name < name; });
  return at != tensors_.end() && at->entry.name == name ? &*at : nullptr;
}

std::span<const CheckpointTensor> CheckpointFiles::with_prefix(const std::string& prefix) const {
  const auto first = std::partition_point(tensors_.begin(), tensors_.end(),
                                          [&](const CheckpointTensor& tensor) { return tensor.entry.name < prefix; });
  const auto last = std::partition_point(first, tensors_.end(),
                                         [&](const CheckpointTensor& tensor) { return tensor.entry.name.starts_with(prefix); });
  return {first, last};
}

std::unique_ptr<Checkpoint> Checkpoint::open(const std::string& directory, const ModelConfig& config) {
  CheckpointFiles files = CheckpointFiles::open(directory);
  check_inventory(files, config, directory);
  return std::unique_ptr<Checkpoint>(new Checkpoint(std::move(files)));
}

TensorView Checkpoint::tensor(const std::string& name) const {
  const CheckpointTensor* found = files_.find(name);
  if (found == nullptr) throw Error(ErrorCode::kBadCheckpoint, "tensor " + in_quotes(name) + " is not in the checkpoint");
  const SafetensorsEntry& entry = found->entry;
  return {entry.dtype, entry.shape, files_.file(found->file).data() + entry.offset, entry.bytes, nullptr};
}

void Checkpoint::prefetch(const std::string& prefix) const {
  for (const CheckpointTensor& tensor : files_.with_prefix(prefix)) {
    files_.file(tensor.file).will_need(tensor.entry.offset, tensor.entry.bytes);
  }
}

void Checkpoint::release(const std::string& prefix) const {
  for (const CheckpointTensor& tensor : files_.with_prefix(prefix)) {
    files_.file(tensor.file).done_with(tensor.entry.offset, tensor.entry.bytes);
  }
}

}  // namespace twelvex
