// SPDX-License-Identifier: MIT
#include "safetensors.h"

#include <algorithm>
#include <array>
#include <limits>

#include "error.h"
#include "json.h"

namespace twelvex {

namespace {

constexpr uint64_t kLengthBytes = 8;
constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the format's own limit
constexpr size_t kMaxDims = 8;
constexpr std::string_view kMetadataKey = "__metadata__";

struct DtypeRow {
  Dtype dtype;
  const char* name;
  size_t bytes;
};

constexpr std::array kDtypes = {
    DtypeRow{Dtype::kF64, "F64", 8},         DtypeRow{Dtype::kF32, "F32", 4},         DtypeRow{Dtype::kF16, "F16", 2},
    DtypeRow{Dtype::kBF16, "BF16", 2},       DtypeRow{Dtype::kF8E4M3, "F8_E4M3", 1},  DtypeRow{Dtype::kF8E5M2, "F8_E5M2", 1},
    DtypeRow{Dtype::kF8E8M0, "F8_E8M0", 1},  DtypeRow{Dtype::kI64, "I64", 8},         DtypeRow{Dtype::kU64, "U64", 8},
    DtypeRow{Dtype::kI32, "I32", 4},         DtypeRow{Dtype::kU32, "U32", 4},         DtypeRow{Dtype::kI16, "I16", 2},
    DtypeRow{Dtype::kU16, "U16", 2},         DtypeRow{Dtype::kI8, "I8", 1},           DtypeRow{Dtype::kU8, "U8", 1},
    DtypeRow{Dtype::kBool, "BOOL", 1},
};

const DtypeRow& row_of(Dtype dtype) {
  return *std::find_if(kDtypes.begin(), kDtypes.end(), [&](const DtypeRow& row) { return row.dtype == dtype; });
}

[[noreturn]] void fail(const std::string& where, const std::string& problem) {
  throw Error(ErrorCode::kBadCheckpoint, where + ": " + problem);
}

/// One entry of the header, checked on its own.
class EntryReader {
 public:
  EntryReader(const std::string& where, uint64_t payload_begin, uint64_t payload_bytes)
      : where_(where), payload_begin_(payload_begin), payload_bytes_(payload_bytes) {}

  SafetensorsEntry read(const std::string& name, const JsonValue& value) const {
    SafetensorsEntry entry;
    entry.name = name;
    entry.dtype = dtype(name, member(name, value, "dtype"));
    entry.shape = shape(name, member(name, value, "shape"));
    const auto [begin, end] = offsets(name, member(name, value, "data_offsets"));
    entry.offset = payload_begin_ + begin;
    entry.bytes = end - begin;

    const int64_t elements = element_count(entry.shape);
    const size_t width = dtype_bytes(entry.dtype);
    const bool overflows = elements < 0 || static_cast<uint64_t>(elements) > std::numeric_limits<uint64_t>::max() / width;
    if (overflows) refuse(name, "the size of " + describe_tensor(entry.dtype, entry.shape) + " overflows");
    const uint64_t expected = static_cast<uint64_t>(elements) * width;
    if (expected != entry.bytes) {
      refuse(name, describe_tensor(entry.dtype, entry.shape) + " takes " + std::to_string(expected) +
                       " bytes, data_offsets give " + std::to_string(entry.bytes));
    }
    return entry;
  }

 private:
  [[noreturn]] void refuse(const std::string& name, const std::string& problem) const {
    twelvex::fail(where_, "tensor " + in_quotes(name) + ": " + problem);
  }

  const JsonValue& member(const std::string& name, const JsonValue& value, const char* key) const {
    if (value.object() == nullptr) refuse(name, "expected an object, found " + value.describe());
    const JsonValue* found = value.find(key);
    if (found == nullptr) refuse(name, std::string("\"") + key + "\" is missing");
    return *found;
  }

  Dtype dtype(const std::string& name, const JsonValue& value) const {
    for (const DtypeRow& row : kDtypes) {
      if (value.string() != nullptr && *value.string() == row.name) return row.dtype;
    }
    refuse(name, "expected a dtype of the format, found " + value.describe());
  }

  std::vector<int64_t> shape(const std::string& name, const JsonValue& value) const {
    if (value.array() == nullptr) refuse(name, "expected a list as shape, found " + value.describe());
    if (value.array()->size() > kMaxDims) {
      refuse(name, "expected at most " + std::to_string(kMaxDims) + " dimensions, found " +
                       std::to_string(value.array()->size()));
    }
    std::vector<int64_t> dims;
    for (const JsonValue& item : *value.array()) {
      const int64_t* dim = item.integer();
      if (dim == nullptr || *dim < 0) refuse(name, "expected a dimension >= 0, found " + item.describe());
      dims.push_back(*dim);
    }
    return dims;
  }

  std::pair<uint64_t, uint64_t> offsets(const std::string& name, const JsonValue& value) const {
    const JsonValue::Array* pair = value.array();
    const int64_t* begin = pair != nullptr && pair->size() == 2 ? (*pair)[0].integer() : nullptr;
    const int64_t* end = begin != nullptr ? (*pair)[1].integer() : nullptr;
    if (end == nullptr || *begin < 0 || *end < *begin) {
      refuse(name, "expected data_offsets [begin, end] with 0 <= begin <= end, found " + value.describe());
    }
    if (static_cast<uint64_t>(*end) > payload_bytes_) {
      refuse(name, "ends at byte " + std::to_string(*end) + " of a payload of " + std::to_string(payload_bytes_) +
                     " bytes; the file is truncated or its header wrong");
    }
    return {static_cast<uint64_t>(*begin), static_cast<uint64_t>(*end)};
  }

  const std::string& where_;
  uint64_t payload_begin_, payload_bytes_;
};

void check_metadata(const JsonValue& value, const std::string& where) {
  if (value.object() == nullptr) fail(where, "expected __metadata__ to be an object, found " + value.describe());
  for (const auto& [key, text] : *value.object()) {
    if (text.string() == nullptr) {
      fail(where, "expected __metadata__ " + in_quotes(key) + " to be a string, found " + text.describe());
    }
  }
}

/// Tensors in payload order must follow one another without hole or overlap from `begin` to `end`.
void check_coverage(const std::vector<SafetensorsEntry>& entries, uint64_t begin, uint64_t end, const std::string& where) {
  uint64_t reached = begin;
  const SafetensorsEntry* before = nullptr;
  for (const SafetensorsEntry& entry : entries) {
    if (entry.offset < reached) {
      fail(where, "tensor " + in_quotes(entry.name) + " overlaps " + in_quotes(before->name) + " by " +
                      std::to_string(reached - entry.offset) + " bytes");
    }
    if (entry.offset > reached) {
      fail(where, std::to_string(entry.offset - reached) + " bytes before tensor " + in_quotes(entry.name) +
                      " belong to no tensor");
    }
    reached = entry.offset + entry.bytes;
    before = &entry;
  }
  if (reached != end) {
    const std::string last = before != nullptr ? "tensor " + in_quotes(before->name) : "the header";
    fail(where, std::to_string(end - reached) + " bytes behind " + last + " belong to no tensor; the file is oversized");
  }
}

uint64_t read_header_length(std::span<const uint8_t> head, uint64_t file_bytes, const std::string& where) {
  if (file_bytes < kLengthBytes || head.size() < kLengthBytes) {
    fail(where, "expected at least " + std::to_string(kLengthBytes) + " bytes, found " + std::to_string(file_bytes) +
                    "; the file is truncated");
  }
  uint64_t length = 0;
  for (size_t i = kLengthBytes; i-- > 0;) length = length << 8 | head[i];
  if (length > kMaxHeaderBytes) {
    fail(where, "expected a header of at most " + std::to_string(kMaxHeaderBytes) + " bytes, found " + std::to_string(length));
  }
  if (length > file_bytes - kLengthBytes || length > head.size() - kLengthBytes) {
    fail(where, "expected a header of " + std::to_string(length) + " bytes, found " + std::to_string(file_bytes - kLengthBytes) +
                    "; the file is truncated");
  }
  return length;
}

}  // namespace

const char* dtype_name(Dtype dtype) { return row_of(dtype).name; }

size_t dtype_bytes(Dtype dtype) { return row_of(dtype).bytes; }

std::string describe_tensor(Dtype dtype, std::span<const int64_t> shape) {
  std::string text = std::string(dtype_name(dtype)) + " [";
  for (size_t i = 0; i < shape.size(); ++i) text += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

int64_t element_count(std::span<const int64_t> shape) {
  int64_t count = 1;
  for (int64_t dim : shape) {
    if (dim < 0) return -1;
    if (dim != 0 && count > std::numeric_limits<int64_t>::max() / dim) return -1;
    count *= dim;
  }
  return count;
}

std::vector<SafetensorsEntry> parse_safetensors_header(std::span<const uint8_t> head, uint64_t file_bytes,
                                                       const std::string& where) {
  const uint64_t length = read_header_length(head, file_bytes, where);
  const std::string_view text(reinterpret_cast<const char*>(head.data()) + kLengthBytes, length);
  if (text.empty() || text[0] != '{') fail(where, "expected the header to begin with '{'");
  const JsonValue header = parse_json(text, where + ": header", ErrorCode::kBadCheckpoint);

  const uint64_t payload_begin = kLengthBytes + length;
  const EntryReader reader(where, payload_begin, file_bytes - payload_begin);
  std::vector<SafetensorsEntry> entries;
  for (const auto& [name, value] : *header.object()) {
    if (name == kMetadataKey) {
      check_metadata(value, where);
    } else {
      entries.push_back(reader.read(name, value));
    }
  }
  std::stable_sort(entries.begin(), entries.end(), [](const SafetensorsEntry& a, const SafetensorsEntry& b) {
    return a.offset != b.offset ? a.offset < b.offset : a.bytes < b.bytes;
  });
  check_coverage(entries, payload_begin, file_bytes, where);
  return entries;
}

}  // namespace twelvex
