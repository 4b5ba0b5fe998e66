// SPDX-License-Identifier: MIT
// The safetensors container: an 8-byte little-endian header length, a JSON header, then the tensors' bytes.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace twelvex {

/// Element types of the format. A DeepSeek-V4 checkpoint uses F32, BF16, F8_E4M3, F8_E8M0, I8 (packed FP4) and I64.
enum class Dtype : uint8_t {
  kF64, kF32, kF16, kBF16, kF8E4M3, kF8E5M2, kF8E8M0, kI64, kU64, kI32, kU32, kI16, kU16, kI8, kU8, kBool,
};

/// Spelling in a header, e.g. "F8_E4M3".
const char* dtype_name(Dtype dtype);
size_t dtype_bytes(Dtype dtype);

/// e.g. "BF16 [129280, 4096]".
std::string describe_tensor(Dtype dtype, std::span<const int64_t> shape);

/// Elements of a shape, or -1 when a dimension is negative or the product exceeds int64.
int64_t element_count(std::span<const int64_t> shape);

struct SafetensorsEntry {
  std::string name;
  Dtype dtype = Dtype::kF32;
  std::vector<int64_t> shape;
  uint64_t offset = 0;  // from the start of the file
  uint64_t bytes = 0;
};

/// Reads and checks the header of a file of `file_bytes` bytes whose first bytes are `head` (at least the header; a shorter
/// head is reported as truncation). The payload must be covered exactly: no hole, no overlap, nothing behind the last tensor.
/// Returns the tensors in payload order. `where` names the file in errors.
/// @throws Error kBadCheckpoint naming file, tensor, what was expected and what was found.
std::vector<SafetensorsEntry> parse_safetensors_header(std::span<const uint8_t> head, uint64_t file_bytes,
                                                       const std::string& where);

}  // namespace twelvex
