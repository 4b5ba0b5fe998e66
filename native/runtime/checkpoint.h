// SPDX-License-Identifier: MIT
// A checkpoint directory: config.json, and model.safetensors or shards with model.safetensors.index.json.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "mapped_file.h"
#include "model_config.h"
#include "tensor_source.h"

namespace twelvex {

/// Reads DIR/config.json.
/// @throws Error kBadCheckpoint (absent or unreadable), kBadConfig, kUnsupported.
ModelConfig read_config(const std::string& directory);

struct CheckpointTensor {
  SafetensorsEntry entry;
  int file = 0;
};

/// The mapped files and the directory of their tensors, checked against each other: offsets, sizes, overlaps, duplicates
/// within and across files, index entries. Not yet checked against a configuration.
class CheckpointFiles {
 public:
  /// @throws Error kBadCheckpoint naming the file and tensor.
  static CheckpointFiles open(const std::string& directory);
  /// Whether the directory holds weights at all (a dummy model needs only config.json).
  static bool present(const std::string& directory);

  /// Sorted by name.
  std::span<const CheckpointTensor> tensors() const { return tensors_; }
  std::span<const CheckpointTensor> with_prefix(const std::string& prefix) const;
  const CheckpointTensor* find(const std::string& name) const;
  const MappedFile& file(int index) const { return files_[static_cast<size_t>(index)]; }
  int file_count() const { return static_cast<int>(files_.size()); }

 private:
  void add(const std::string& path);
  void sort();

  std::vector<MappedFile> files_;
  std::vector<CheckpointTensor> tensors_;  // sorted by name
};

/// A mapped checkpoint whose every tensor has been checked for presence, shape and dtype against the configuration.
class Checkpoint : public TensorSource {
 public:
  /// @throws Error kBadCheckpoint naming file and tensor with what was expected and found; kUnsupported for FP8 experts.
  static std::unique_ptr<Checkpoint> open(const std::string& directory, const ModelConfig& config);

  const CheckpointFiles& files() const { return files_; }

  TensorView tensor(const std::string& name) const override;
  void prefetch(const std::string& prefix) const override;
  void release(const std::string& prefix) const override;

 private:
  explicit Checkpoint(CheckpointFiles files) : files_(std::move(files)) {}
  CheckpointFiles files_;
};

}  // namespace twelvex
