// SPDX-License-Identifier: MIT
#include "runtime/json.h"

#include "check.h"

using namespace twelvex;

namespace {

JsonValue parse(std::string_view text) { return parse_json(text, "text", ErrorCode::kBadConfig); }

void refuse(std::string_view text, std::string_view part) {
  CHECK_THROWS_CODE(parse(text), ErrorCode::kBadConfig, "text: byte", part);
}

double number(std::string_view text) {
  double value = 0;
  CHECK(parse(text).number(value));
  return value;
}

}  // namespace

TEST("integers up to int64 are exact, larger ones become doubles") {
  CHECK_EQ(*parse("9223372036854775807").integer(), INT64_MAX);
  CHECK_EQ(*parse("-9223372036854775808").integer(), INT64_MIN);
  CHECK_EQ(*parse("9007199254740993").integer(), 9007199254740993);
  CHECK(parse("9223372036854775808").integer() == nullptr);
  CHECK_EQ(number("9223372036854775808"), 9223372036854775808.0);
  CHECK(parse("1.0").integer() == nullptr);
  CHECK(parse("1e3").integer() == nullptr);
}

TEST("numbers are the nearest double") {
  CHECK_EQ(number("1e-06"), 1e-6);
  CHECK_EQ(number("-0.1"), -0.1);
  CHECK_EQ(number("2.2250738585072014e-308"), 2.2250738585072014e-308);
  CHECK_EQ(number("1.5E+2"), 150.0);
}

TEST("strings keep Unicode and decode escapes") {
  CHECK_EQ(*parse(R"("a\"\\\/\b\f\n\r\tz")").string(), "a\"\\/\b\f\n\r\tz");
  CHECK_EQ(*parse(R"("\u00e9\u4e2d\ud83d\ude00")").string(), "é中😀");
  CHECK_EQ(*parse("\"é中😀\"").string(), "é中😀");
  CHECK_EQ(*parse(R"("\u0000")").string(), std::string(1, '\0'));
}

TEST("members keep their order and are found by key") {
  const JsonValue value = parse(R"( {"b" : [1, true, null, {}], "a" : "x"} )");
  REQUIRE(value.object() != nullptr && value.object()->size() == 2);
  CHECK_EQ(value.object()->front().first, "b");
  REQUIRE(value.find("b")->array() != nullptr);
  CHECK_EQ(value.find("b")->array()->size(), 4u);
  CHECK((*value.find("b")->array())[2].is_null());
  CHECK_EQ(*value.find("a")->string(), "x");
  CHECK(value.find("c") == nullptr);
}

TEST("equality is by value and sees 1 and 1.0 as the same") {
  CHECK(parse("[1, {\"a\": 2.0}]") == parse("[1.0, {\"a\": 2}]"));
  CHECK(!(parse("[1]") == parse("[1, 1]")));
  CHECK(!(parse("1") == parse("\"1\"")));
}

TEST("an error gives the byte, what was expected and what was found") {
  CHECK_THROWS_CODE(parse("{\"a\" 1}"), ErrorCode::kBadConfig, "text: byte 5: expected ':' behind the key \"a\", found '1'");
  CHECK_THROWS_CODE(parse("[1, 2"), ErrorCode::kBadConfig, "byte 5: expected ',' or ']', found the end of the text");
  CHECK_THROWS_CODE(parse_json("[", "w", ErrorCode::kBadCheckpoint), ErrorCode::kBadCheckpoint, "w: byte 1");
}

TEST("text that is not JSON is refused") {
  for (const char* text : {"", " ", "nul", "tru", "+1", "01", "1.", ".5", "1e", "-", "'a'", "NaN", "Infinity", "{a:1}", "[1,]",
                           "{\"a\":1,}", "[1 2]", "1 2", "{} x", "// c", "\"a", "[", "{\"a\":", "\xef\xbb\xbf{}"}) {
    refuse(text, "");
  }
  refuse(std::string_view("[\0]", 3), "expected a value");
}

TEST("duplicate keys are refused at any depth") {
  refuse(R"({"a":1,"b":2,"a":3})", "key \"a\" more than once");
  refuse(R"([{"x":{"a":1,"\u0061":1}}])", "key \"a\" more than once");
}

TEST("malformed UTF-8 and lone surrogates are refused") {
  for (const char* text : {"\"\x80\"", "\"\xc0\xaf\"", "\"\xc2\"", "\"\xe0\x80\xaf\"", "\"\xed\xa0\x80\"", "\"\xf0\x80\x80\x80\"",
                           "\"\xf4\x90\x80\x80\"", "\"\xf5\x80\x80\x80\"", "\"\xff\""}) {
    refuse(text, "expected valid UTF-8");
  }
  refuse(R"("\ud800")", "surrogate");
  refuse(R"("\ud800\u0041")", "surrogate");
  refuse(R"("\udc00")", "surrogate");
  refuse("\"a\nb\"", "control character");
  refuse(R"("\x")", "escape");
  refuse(R"("\u12g4")", "hexadecimal");
}

TEST("nesting is bounded") {
  const auto nested = [](size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  CHECK(parse(nested(kJsonMaxDepth + 1)).array() != nullptr);
  refuse(nested(kJsonMaxDepth + 2), "nested deeper than 64");
  refuse(std::string(1 << 20, '['), "nested deeper");
  refuse(std::string(1 << 20, '{'), "expected a key");
}

TEST("the number of values is bounded") {
  std::string text = "[0";
  for (int i = 0; i < kJsonMaxValues; ++i) text += ",0";
  refuse(text + "]", "more than 8388608 values");
}

TEST("a number beyond the range of a double is refused") {
  refuse("1e999", "range of a double");
  refuse("-1e999", "range of a double");
}
