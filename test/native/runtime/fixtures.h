// SPDX-License-Identifier: MIT
// Files for loader tests: scratch directories and safetensors written by hand.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "runtime/safetensors.h"

namespace twelvex::check {

/// A directory that is removed with its contents.
class ScratchDirectory {
 public:
  ScratchDirectory();
  ~ScratchDirectory();
  ScratchDirectory(const ScratchDirectory&) = delete;
  ScratchDirectory& operator=(const ScratchDirectory&) = delete;

  std::string path(const std::string& name = "") const { return name.empty() ? path_.string() : (path_ / name).string(); }
  void write(const std::string& name, const std::string& bytes) const;

 private:
  std::filesystem::path path_;
};

std::string read_file(const std::string& path);

/// A file under the project's root, e.g. "models/flash/config.json".
std::string project_path(const std::string& relative);

/// Bytes of a safetensors file: length, header text, payload.
std::string safetensors_bytes(const std::string& header, const std::string& payload);

/// A copy of `text` in which the one occurrence of `from` is `to`; throws when there is not exactly one.
std::string replaced(const std::string& text, const std::string& from, const std::string& to);

struct FileTensor {
  std::string name;
  Dtype dtype = Dtype::kF32;
  std::vector<int64_t> shape;
  std::string bytes;
};

/// A valid file of these tensors, in this order.
std::string safetensors_bytes(const std::vector<FileTensor>& tensors);

/// All tensors of a valid file, with their payload.
std::vector<FileTensor> read_tensors(const std::string& path);

}  // namespace twelvex::check
