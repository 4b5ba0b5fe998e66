// SPDX-License-Identifier: MIT
// Reading one JSON object whose fields have several spellings.
#pragma once

#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>

#include "error.h"
#include "json.h"

namespace twelvex {

/// Spellings of one field, the usual one first.
using Spellings = std::initializer_list<std::string_view>;

class ConfigReader {
 public:
  /// `path` names the object in messages, e.g. "rope_scaling."; `where` the file.
  ConfigReader(const JsonValue& object, const std::string& where, std::string path = "")
      : object_(object), where_(where), path_(std::move(path)) {}

  [[noreturn]] void bad(const std::string& problem) const { throw Error(ErrorCode::kBadConfig, where_ + ": " + problem); }
  [[noreturn]] void unsupported(const std::string& problem) const {
    throw Error(ErrorCode::kUnsupported, where_ + ": " + problem);
  }

  std::string name(Spellings keys) const { return path_ + std::string(*keys.begin()); }

  /// The field under whichever spelling is present and not null. Two spellings must agree.
  const JsonValue* find(Spellings keys) const {
    const JsonValue* found = nullptr;
    std::string_view found_key;
    for (std::string_view key : keys) {
      const JsonValue* value = object_.find(key);
      if (value == nullptr || value->is_null()) continue;
      if (found != nullptr && !(*found == *value)) {
        bad(path_ + std::string(found_key) + " and " + path_ + std::string(key) + " contradict each other: " + found->describe() +
            " and " + value->describe());
      }
      found = value;
      found_key = key;
    }
    return found;
  }

  const JsonValue& require(Spellings keys) const {
    const JsonValue* found = find(keys);
    if (found == nullptr) {
      std::string spelled;
      for (std::string_view key : keys) spelled += (spelled.empty() ? "" : " or ") + path_ + std::string(key);
      bad("expected " + spelled + ", found none");
    }
    return *found;
  }

  /// A required whole number in [low, high].
  int integer(Spellings keys, int64_t low, int64_t high) const { return whole(require(keys), keys, low, high); }

  int integer_or(Spellings keys, int64_t low, int64_t high, int fallback) const {
    const JsonValue* found = find(keys);
    return found == nullptr ? fallback : whole(*found, keys, low, high);
  }

  /// A number in [low, high] or the fallback.
  double number_or(Spellings keys, double low, double high, double fallback) const {
    const JsonValue* found = find(keys);
    if (found == nullptr) return fallback;
    double value = 0;
    if (!found->number(value) || !(value >= low && value <= high)) {
      bad("expected " + name(keys) + " to be a number from " + JsonValue(low).describe() + " to " + JsonValue(high).describe() +
          ", found " + found->describe());
    }
    return value;
  }

  /// A whole number that, when present, must have the one value that is served.
  void only_integer(Spellings keys, int64_t value) const {
    const JsonValue* found = find(keys);
    if (found != nullptr && (found->integer() == nullptr || *found->integer() != value)) {
      unsupported("expected " + name(keys) + " " + std::to_string(value) + ", found " + found->describe());
    }
  }

  void only_string(Spellings keys, std::string_view value) const {
    const JsonValue* found = find(keys);
    if (found != nullptr && (found->string() == nullptr || *found->string() != value)) {
      unsupported("expected " + name(keys) + " " + in_quotes(value) + ", found " + found->describe());
    }
  }

  void only_boolean(Spellings keys, bool value) const {
    const JsonValue* found = find(keys);
    if (found != nullptr && (found->boolean() == nullptr || *found->boolean() != value)) {
      unsupported("expected " + name(keys) + (value ? " true" : " false") + ", found " + found->describe());
    }
  }

  /// A list of `size` or more items, or null when absent.
  const JsonValue::Array* list(Spellings keys, size_t size) const {
    const JsonValue* found = find(keys);
    if (found == nullptr) return nullptr;
    if (found->array() == nullptr || found->array()->size() < size) {
      bad("expected " + name(keys) + " to be a list of at least " + std::to_string(size) + ", found " + found->describe());
    }
    return found->array();
  }

  /// A nested object, or null when absent.
  const JsonValue* object(Spellings keys) const {
    const JsonValue* found = find(keys);
    if (found != nullptr && found->object() == nullptr) {
      bad("expected " + name(keys) + " to be an object, found " + found->describe());
    }
    return found;
  }

  ConfigReader inside(const JsonValue& nested, Spellings keys) const { return {nested, where_, name(keys) + "."}; }

 private:
  int whole(const JsonValue& value, Spellings keys, int64_t low, int64_t high) const {
    double real = 0;
    const bool is_whole = value.number(real) && real == std::floor(real);
    if (!is_whole || real < static_cast<double>(low) || real > static_cast<double>(high)) {
      bad("expected " + name(keys) + " to be a whole number from " + std::to_string(low) + " to " + std::to_string(high) +
          ", found " + value.describe());
    }
    return static_cast<int>(real);
  }

  const JsonValue& object_;
  const std::string& where_;
  std::string path_;
};

}  // namespace twelvex
