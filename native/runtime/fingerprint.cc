// SPDX-License-Identifier: MIT
#include "fingerprint.h"

#include <filesystem>
#include <span>
#include <string_view>

#ifndef TWELVEX_VERSION
#error "TWELVEX_VERSION must name the build"
#endif

namespace twelvex {
namespace {

/// FNV-1a, 64 bit. Every piece is preceded by its length, so that pieces cannot run together.
class Hash {
 public:
  void add(std::span<const uint8_t> bytes) {
    add_number(bytes.size());
    for (uint8_t byte : bytes) mix(byte);
  }
  void add(std::string_view text) { add(std::span(reinterpret_cast<const uint8_t*>(text.data()), text.size())); }
  void add_number(uint64_t number) {
    for (int i = 0; i < 8; ++i) mix(static_cast<uint8_t>(number >> (8 * i)));
  }

  std::string hex() const {
    std::string text;
    for (int shift = 60; shift >= 0; shift -= 4) text += "0123456789abcdef"[(value_ >> shift) & 15];
    return text;
  }

 private:
  void mix(uint8_t byte) { value_ = (value_ ^ byte) * 0x100000001b3ull; }

  uint64_t value_ = 0xcbf29ce484222325ull;
};

Hash start(const std::string& directory, int layers) {
  Hash hash;
  hash.add(TWELVEX_VERSION);
  hash.add(MappedFile((std::filesystem::path(directory) / "config.json").string()).bytes());
  hash.add_number(static_cast<uint64_t>(layers));
  return hash;
}

}  // namespace

std::string fingerprint_checkpoint(const std::string& directory, const CheckpointFiles& files, int layers) {
  Hash hash = start(directory, layers);
  for (const CheckpointTensor& tensor : files.tensors()) {
    hash.add(tensor.entry.name);
    hash.add_number(static_cast<uint64_t>(tensor.entry.dtype));
    for (int64_t extent : tensor.entry.shape) hash.add_number(static_cast<uint64_t>(extent));
    hash.add_number(static_cast<uint64_t>(tensor.file));
    hash.add_number(tensor.entry.offset);
  }
  return hash.hex();
}

std::string fingerprint_dummy(const std::string& directory, uint64_t seed, int layers) {
  Hash hash = start(directory, layers);
  hash.add("dummy");
  hash.add_number(seed);
  return hash.hex();
}

}  // namespace twelvex
