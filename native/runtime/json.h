// SPDX-License-Identifier: MIT
// A strict JSON reader (RFC 8259) for headers and configurations: UTF-8 only, no duplicate keys, no trailing text, bounded
// depth. Integers that fit int64 stay exact; other numbers are doubles.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "error.h"

namespace twelvex {

class JsonValue {
 public:
  using Array = std::vector<JsonValue>;
  using Member = std::pair<std::string, JsonValue>;
  using Object = std::vector<Member>;  // in the order of the text

  JsonValue() = default;
  template <class T>
  explicit JsonValue(T value) : value_(std::move(value)) {}

  bool is_null() const { return std::holds_alternative<std::monostate>(value_); }
  /// The value if it has that type, else null. `integer` is null for 1.0; `number` also accepts integers.
  const bool* boolean() const { return std::get_if<bool>(&value_); }
  const int64_t* integer() const { return std::get_if<int64_t>(&value_); }
  const std::string* string() const { return std::get_if<std::string>(&value_); }
  const Array* array() const { return std::get_if<Array>(&value_); }
  const Object* object() const { return std::get_if<Object>(&value_); }
  bool number(double& out) const;
  /// Same value; 1 equals 1.0, objects compare in order.
  bool operator==(const JsonValue& other) const;

  /// Member of an object by key; null when absent or not an object. Linear in the number of members.
  const JsonValue* find(std::string_view key) const;

  /// What it is, for messages: "an object", "the string \"fp8\"", "12".
  std::string describe() const;

 private:
  std::variant<std::monostate, bool, int64_t, double, std::string, Array, Object> value_;
};

/// Text from a file as it may stand in a message: in quotes, on one line, shortened.
std::string in_quotes(std::string_view text);

inline constexpr int kJsonMaxDepth = 64;
inline constexpr int kJsonMaxValues = 1 << 23;  // the header of the largest release in one file has about 1.2 million

/// @throws Error `code` with `where`, the byte offset, what was expected and what was found.
JsonValue parse_json(std::string_view text, const std::string& where, ErrorCode code);

}  // namespace twelvex
