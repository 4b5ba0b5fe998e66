// SPDX-License-Identifier: MIT
#include "runtime/safetensors.h"

#include "check.h"
#include "fixtures.h"

using namespace twelvex;
using namespace twelvex::check;

namespace {

std::vector<SafetensorsEntry> parse(const std::string& bytes) {
  return parse_safetensors_header({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}, bytes.size(), "x.safetensors");
}

void refuse(const std::string& bytes, std::string_view part, std::string_view part2 = "") {
  CHECK_THROWS_CODE(parse(bytes), ErrorCode::kBadCheckpoint, "x.safetensors: ", part, part2);
}

/// A file with this header text and 16 bytes of payload.
std::string with_header(const std::string& header) { return safetensors_bytes(header, std::string(16, 'p')); }

const std::string kTwo = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                         R"("b":{"dtype":"BF16","shape":[2,2],"data_offsets":[8,16]}})";

}  // namespace

TEST("a header gives dtype, shape and place of every tensor in payload order") {
  const std::string bytes = with_header(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]},)"
                                        R"("b":{"dtype":"BF16","shape":[2,2],"data_offsets":[0,8]}})");
  const std::vector<SafetensorsEntry> entries = parse(bytes);
  REQUIRE(entries.size() == 2);
  CHECK_EQ(entries[0].name, "b");
  CHECK(entries[0].dtype == Dtype::kBF16);
  CHECK(entries[0].shape == (std::vector<int64_t>{2, 2}));
  CHECK_EQ(entries[0].offset, bytes.size() - 16);
  CHECK_EQ(entries[0].bytes, 8u);
  CHECK_EQ(entries[1].name, "a");
  CHECK_EQ(entries[1].offset, bytes.size() - 8);
}

TEST("scalars, empty tensors, metadata and padding are part of the format") {
  const std::vector<SafetensorsEntry> entries = parse(safetensors_bytes(
      R"({"__metadata__":{"format":"pt"},"s":{"dtype":"I64","shape":[],"data_offsets":[0,8]},)"
      R"("e":{"dtype":"F8_E8M0","shape":[0,7],"data_offsets":[8,8]}}     )",
      std::string(8, '\0')));
  REQUIRE(entries.size() == 2);
  CHECK_EQ(element_count(entries[0].shape), 1);
  CHECK_EQ(element_count(entries[1].shape), 0);
  CHECK(parse(safetensors_bytes("{}", "")).empty());
}

TEST("every dtype of the format has its size") {
  for (Dtype dtype : {Dtype::kF64, Dtype::kF32, Dtype::kF16, Dtype::kBF16, Dtype::kF8E4M3, Dtype::kF8E5M2, Dtype::kF8E8M0,
                      Dtype::kI64, Dtype::kU64, Dtype::kI32, Dtype::kU32, Dtype::kI16, Dtype::kU16, Dtype::kI8, Dtype::kU8,
                      Dtype::kBool}) {
    const std::vector<SafetensorsEntry> entries =
        parse(safetensors_bytes({{"t", dtype, {3}, std::string(3 * dtype_bytes(dtype), 'x')}}));
    REQUIRE(entries.size() == 1);
    CHECK(entries[0].dtype == dtype);
  }
  refuse(with_header(replaced(kTwo, "F32", "F31")), "tensor \"a\"", "found the string \"F31\"");
}

TEST("a file cut anywhere is refused") {
  const std::string whole = with_header(kTwo);
  CHECK_EQ(parse(whole).size(), 2u);
  for (size_t size = 0; size < whole.size(); ++size) refuse(whole.substr(0, size), "");
  refuse(whole.substr(0, 7), "expected at least 8 bytes, found 7");
  refuse(whole.substr(0, 20), "expected a header of", "truncated");
  refuse(whole.substr(0, whole.size() - 1), "tensor \"b\": ends at byte 16 of a payload of 15 bytes", "truncated");
}

TEST("an oversized file and holes are refused") {
  refuse(with_header(kTwo) + "x", "1 bytes behind tensor \"b\" belong to no tensor", "oversized");
  refuse(safetensors_bytes("{}", "xyz"), "3 bytes behind the header");
  refuse(with_header(R"({"b":{"dtype":"I8","shape":[8],"data_offsets":[8,16]}})"), "8 bytes before tensor \"b\"");
}

TEST("a header length beyond the file or the format's limit is refused") {
  std::string bytes = with_header(kTwo);
  bytes[7] = '\x7f';
  refuse(bytes, "expected a header of at most 100000000 bytes");
  bytes = with_header(kTwo);
  bytes[1] = '\x10';
  refuse(bytes, "expected a header of", "truncated");
  refuse(with_header(" {}"), "begin with '{'");
  refuse(safetensors_bytes("", ""), "begin with '{'");
  refuse(with_header("{\"a\":"), "header: byte 5");
}

TEST("overlapping tensors are refused by name") {
  refuse(with_header(replaced(kTwo, "[8,16]", "[0,8]")), "overlaps", "by 8 bytes");
  const std::string nested = R"({"a":{"dtype":"I8","shape":[16],"data_offsets":[0,16]},)"
                             R"("b":{"dtype":"I8","shape":[4],"data_offsets":[4,8]}})";
  refuse(with_header(nested), "tensor \"b\" overlaps \"a\" by 12 bytes");
}

TEST("a duplicate name is refused") {
  refuse(with_header(replaced(kTwo, "\"b\":", "\"a\":")), "key \"a\" more than once");
}

TEST("a size that does not follow from dtype and shape is refused") {
  refuse(with_header(replaced(kTwo, "\"shape\":[2],", "\"shape\":[3],")),
         "tensor \"a\": F32 [3] takes 12 bytes, data_offsets give 8");
  refuse(with_header(replaced(kTwo, "BF16", "F64")), "tensor \"b\": F64 [2, 2] takes 32 bytes");
  for (const char* shape : {"[4611686018427387904,4]", "[3037000500,3037000500]", "[9223372036854775807]"}) {
    refuse(with_header(replaced(kTwo, "\"shape\":[2],", std::string("\"shape\":") + shape + ",")), "tensor \"a\"");
  }
  refuse(with_header(replaced(kTwo, "\"shape\":[2],", "\"shape\":[4294967296,4294967296],")), "overflows");
}

TEST("a mistyped entry is refused with what was found") {
  const auto refuse_a = [](const std::string& from, const std::string& to, std::string_view part) {
    refuse(with_header(replaced(kTwo, from, to)), "tensor \"a\": ", part);
  };
  refuse_a("\"F32\"", "32", "expected a dtype of the format, found 32");
  refuse_a("\"dtype\":\"F32\",", "", "\"dtype\" is missing");
  refuse_a("\"shape\":[2],", "", "\"shape\" is missing");
  refuse_a(",\"data_offsets\":[0,8]", "", "\"data_offsets\" is missing");
  refuse_a("\"shape\":[2],", "\"shape\":2,", "expected a list as shape, found 2");
  refuse_a("\"shape\":[2],", "\"shape\":[-2],", "expected a dimension >= 0, found -2");
  refuse_a("\"shape\":[2],", "\"shape\":[2.0],", "expected a dimension >= 0, found 2");
  refuse_a("\"shape\":[2],", "\"shape\":[1,1,1,1,1,1,1,1,2],", "at most 8 dimensions, found 9");
  refuse_a("[0,8]", "[8,0]", "data_offsets [begin, end]");
  refuse_a("[0,8]", "[-8,0]", "data_offsets [begin, end]");
  refuse_a("[0,8]", "[0]", "data_offsets [begin, end]");
  refuse_a("[0,8]", "[0,8,8]", "data_offsets [begin, end]");
  refuse_a("[0,8]", "[0,9223372036854775807]", "of a payload of 16 bytes");
  refuse_a("{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}", "[]", "expected an object, found a list of 0");
  refuse(with_header("{\"__metadata__\":[]}"), "__metadata__");
  refuse(with_header("{\"__metadata__\":{\"k\":1}}"), "\"k\" to be a string, found 1");
}
