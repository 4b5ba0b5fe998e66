// SPDX-License-Identifier: MIT
#include "json.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>

namespace twelvex {

namespace {

constexpr size_t kShownString = 120;  // bytes of a string in a message

std::string format_number(double value) {
  char buffer[32];
  std::snprintf(buffer, sizeof buffer, "%.10g", value);
  return buffer;
}

/// Length of the well-formed UTF-8 sequence at `at` (Unicode table 3-7: no overlong forms, no surrogates), or 0.
size_t utf8_length(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) { return at + i < text.size() ? static_cast<unsigned char>(text[at + i]) : 0u; };
  const auto continues = [&](size_t i) { return (byte(i) & 0xc0) == 0x80; };
  const unsigned first = byte(0), second = byte(1);
  if (first < 0x80) return 1;
  if (first >= 0xc2 && first <= 0xdf) return continues(1) ? 2 : 0;
  if (first >= 0xe0 && first <= 0xef) {
    const bool in_range = (first != 0xe0 || second >= 0xa0) && (first != 0xed || second <= 0x9f);
    return in_range && continues(1) && continues(2) ? 3 : 0;
  }
  if (first >= 0xf0 && first <= 0xf4) {
    const bool in_range = (first != 0xf0 || second >= 0x90) && (first != 0xf4 || second <= 0x8f);
    return in_range && continues(1) && continues(2) && continues(3) ? 4 : 0;
  }
  return 0;
}

void append_utf8(std::string& out, uint32_t point) {
  const auto put = [&](uint32_t byte) { out += static_cast<char>(byte); };
  if (point < 0x80) {
    put(point);
  } else if (point < 0x800) {
    put(0xc0 | point >> 6), put(0x80 | (point & 0x3f));
  } else if (point < 0x10000) {
    put(0xe0 | point >> 12), put(0x80 | (point >> 6 & 0x3f)), put(0x80 | (point & 0x3f));
  } else {
    put(0xf0 | point >> 18), put(0x80 | (point >> 12 & 0x3f)), put(0x80 | (point >> 6 & 0x3f)), put(0x80 | (point & 0x3f));
  }
}

class Parser {
 public:
  Parser(std::string_view text, const std::string& where, ErrorCode code) : text_(text), where_(where), code_(code) {}

  JsonValue document() {
    JsonValue result = value(0);
    skip_space();
    if (at_ != text_.size()) expected("the end of the text");
    return result;
  }

 private:
  [[noreturn]] void fail(size_t offset, const std::string& problem) const {
    throw Error(code_, where_ + ": byte " + std::to_string(offset) + ": " + problem);
  }

  [[noreturn]] void expected(const std::string& what) const {
    if (at_ >= text_.size()) fail(at_, "expected " + what + ", found the end of the text");
    const auto c = static_cast<unsigned char>(text_[at_]);
    char shown[8];
    std::snprintf(shown, sizeof shown, c >= 0x20 && c < 0x7f ? "'%c'" : "0x%02x", c);
    fail(at_, "expected " + what + ", found " + shown);
  }

  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }

  bool take(char c) {
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }

  void skip_space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\r' || text_[at_] == '\t')) ++at_;
  }

  JsonValue value(int depth) {
    if (depth > kJsonMaxDepth) fail(at_, "nested deeper than " + std::to_string(kJsonMaxDepth) + " levels");
    if (++values_ > kJsonMaxValues) fail(at_, "more than " + std::to_string(kJsonMaxValues) + " values");
    skip_space();
    switch (peek()) {
      case '{': return JsonValue(object(depth));
      case '[': return JsonValue(array(depth));
      case '"': return JsonValue(string());
      case 't': literal("true"); return JsonValue(true);
      case 'f': literal("false"); return JsonValue(false);
      case 'n': literal("null"); return JsonValue();
      default: return number();
    }
  }

  void literal(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) expected("a value");
    at_ += word.size();
  }

  JsonValue::Object object(int depth) {
    const size_t start = at_++;
    JsonValue::Object members;
    skip_space();
    if (take('}')) return members;
    do {
      skip_space();
      if (peek() != '"') expected("a key");
      std::string key = string();
      skip_space();
      if (!take(':')) expected("':' behind the key " + in_quotes(key));
      members.emplace_back(std::move(key), value(depth + 1));
      skip_space();
    } while (take(','));
    if (!take('}')) expected("',' or '}'");
    refuse_duplicates(members, start);
    return members;
  }

  void refuse_duplicates(const JsonValue::Object& members, size_t start) const {
    std::vector<std::string_view> keys;
    keys.reserve(members.size());
    for (const auto& member : members) keys.push_back(member.first);
    std::sort(keys.begin(), keys.end());
    const auto twice = std::adjacent_find(keys.begin(), keys.end());
    if (twice != keys.end()) fail(start, "the object that starts here has the key " + in_quotes(*twice) + " more than once");
  }

  JsonValue::Array array(int depth) {
    ++at_;
    JsonValue::Array items;
    skip_space();
    if (take(']')) return items;
    do {
      items.push_back(value(depth + 1));
      skip_space();
    } while (take(','));
    if (!take(']')) expected("',' or ']'");
    return items;
  }

  std::string string() {
    const size_t start = at_++;
    std::string out;
    while (!take('"')) {
      if (at_ >= text_.size()) fail(start, "the string that starts here does not end");
      const auto c = static_cast<unsigned char>(text_[at_]);
      if (c < 0x20) fail(at_, "a control character in a string");
      if (c == '\\') {
        escape(out);
        continue;
      }
      const size_t length = utf8_length(text_, at_);
      if (length == 0) expected("valid UTF-8");
      out.append(text_, at_, length);
      at_ += length;
    }
    return out;
  }

  void escape(std::string& out) {
    static constexpr std::string_view kLetters = "\"\\/bfnrt", kMeanings = "\"\\/\b\f\n\r\t";
    const size_t start = at_++;
    if (take('u')) {
      uint32_t point = hex4();
      if (point >= 0xdc00 && point <= 0xdfff) fail(start, "the second half of a surrogate pair stands alone");
      if (point >= 0xd800 && point <= 0xdbff) {
        const uint32_t low = take('\\') && take('u') ? hex4() : 0;
        if (low < 0xdc00 || low > 0xdfff) fail(start, "the first half of a surrogate pair stands alone");
        point = 0x10000 + ((point - 0xd800) << 10) + (low - 0xdc00);
      }
      append_utf8(out, point);
      return;
    }
    const size_t letter = at_ < text_.size() ? kLetters.find(text_[at_]) : std::string_view::npos;
    if (letter == std::string_view::npos) expected("an escape letter");
    out += kMeanings[letter];
    ++at_;
  }

  uint32_t hex4() {
    uint32_t point = 0;
    const char* first = text_.data() + at_;
    const char* last = text_.data() + std::min(at_ + 4, text_.size());
    const auto [end, error] = std::from_chars(first, last, point, 16);
    if (error != std::errc{} || end != first + 4) expected("four hexadecimal digits");
    at_ += 4;
    return point;
  }

  bool digits() {
    const size_t start = at_;
    while (peek() >= '0' && peek() <= '9') ++at_;
    return at_ > start;
  }

  JsonValue number() {
    const size_t start = at_;
    take('-');
    if (!take('0') && !digits()) expected("a value");
    bool whole = true;
    if (take('.')) {
      whole = false;
      if (!digits()) expected("a digit");
    }
    if (peek() == 'e' || peek() == 'E') {
      whole = false;
      ++at_;
      if (!take('+')) take('-');
      if (!digits()) expected("a digit");
    }
    const char* first = text_.data() + start;
    const char* last = text_.data() + at_;
    int64_t integer = 0;
    if (whole && std::from_chars(first, last, integer).ec == std::errc{}) return JsonValue(integer);
    double real = 0;
    const auto parsed = std::from_chars(first, last, real);
    if (parsed.ec != std::errc{} || !std::isfinite(real)) fail(start, "a number beyond the range of a double");
    return JsonValue(real);
  }

  std::string_view text_;
  const std::string& where_;
  ErrorCode code_;
  size_t at_ = 0;
  int values_ = 0;
};

}  // namespace

std::string in_quotes(std::string_view text) {
  size_t shown = std::min(text.size(), kShownString);
  while (shown < text.size() && shown > 0 && (static_cast<unsigned char>(text[shown]) & 0xc0) == 0x80) --shown;
  std::string out = "\"";
  for (char c : text.substr(0, shown)) out += static_cast<unsigned char>(c) < 0x20 ? '?' : c;
  return out + (shown < text.size() ? "...\"" : "\"");
}

bool JsonValue::number(double& out) const {
  if (const int64_t* whole = integer()) {
    out = static_cast<double>(*whole);
    return true;
  }
  if (const double* real = std::get_if<double>(&value_)) {
    out = *real;
    return true;
  }
  return false;
}

bool JsonValue::operator==(const JsonValue& other) const {
  double mine = 0, theirs = 0;
  const bool mixed = value_.index() != other.value_.index();
  return mixed ? number(mine) && other.number(theirs) && mine == theirs : value_ == other.value_;
}

const JsonValue* JsonValue::find(std::string_view key) const {
  const Object* members = object();
  if (members == nullptr) return nullptr;
  for (const Member& member : *members) {
    if (member.first == key) return &member.second;
  }
  return nullptr;
}

std::string JsonValue::describe() const {
  double real = 0;
  if (const bool* flag = boolean()) return *flag ? "true" : "false";
  if (const int64_t* whole = integer()) return std::to_string(*whole);
  if (number(real)) return format_number(real);
  if (const std::string* text = string()) return "the string " + in_quotes(*text);
  if (array() != nullptr) return "a list of " + std::to_string(array()->size());
  return object() != nullptr ? "an object" : "null";
}

JsonValue parse_json(std::string_view text, const std::string& where, ErrorCode code) {
  return Parser(text, where, code).document();
}

}  // namespace twelvex
