// SPDX-License-Identifier: MIT
// A file mapped read-only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace twelvex {

class MappedFile {
 public:
  /// @throws Error kBadCheckpoint naming the path and the reason.
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::string& path() const { return path_; }
  const uint8_t* data() const { return data_; }
  size_t size() const { return size_; }
  std::span<const uint8_t> bytes() const { return {data_, size_}; }

  /// Advice only; failures are ignored. The range is widened to whole pages.
  void will_need(size_t offset, size_t bytes) const;
  void done_with(size_t offset, size_t bytes) const;

 private:
  void unmap() noexcept;

  std::string path_;
  uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace twelvex
