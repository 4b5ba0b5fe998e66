// SPDX-License-Identifier: MIT
#include "runtime/checkpoint.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstring>

#include "check.h"
#include "fixtures.h"
#include "runtime/inventory.h"

using namespace twelvex;
using namespace twelvex::check;

namespace {

constexpr ErrorCode kBad = ErrorCode::kBadCheckpoint;

std::string tiny(const std::string& name) { return project_path("test/oracle/tiny/" + name); }

/// The tiny checkpoint's tensors, and a directory with its configuration to write variants of it into.
struct TinyCopy {
  std::vector<FileTensor> tensors = read_tensors(tiny("model.safetensors"));
  ScratchDirectory directory;
  ModelConfig config = read_config(project_path("test/oracle/tiny"));

  TinyCopy() { directory.write("config.json", read_file(tiny("config.json"))); }

  FileTensor& tensor(const std::string& name) {
    return *std::find_if(tensors.begin(), tensors.end(), [&](const FileTensor& tensor) { return tensor.name == name; });
  }

  std::unique_ptr<Checkpoint> open() const { return Checkpoint::open(directory.path(), config); }

  std::unique_ptr<Checkpoint> write_single_and_open() const {
    directory.write("model.safetensors", safetensors_bytes(tensors));
    return open();
  }

  /// Three shards and their index; tensor i goes to shard i mod 3.
  void write_shards() const {
    std::vector<FileTensor> parts[3];
    for (size_t i = 0; i < tensors.size(); ++i) parts[i % 3].push_back(tensors[i]);
    for (int part = 0; part < 3; ++part) directory.write(shard_name(part), safetensors_bytes(parts[part]));
    write_index(index());
  }

  std::string index() const {
    std::string map;
    for (size_t i = 0; i < tensors.size(); ++i) {
      map += (i > 0 ? ",\n" : "") + std::string("\"") + tensors[i].name + "\": \"" + shard_name(static_cast<int>(i % 3)) + "\"";
    }
    return "{\"metadata\": {\"total_size\": 1}, \"weight_map\": {" + map + "}}";
  }

  void write_index(const std::string& text) const { directory.write("model.safetensors.index.json", text); }

  static std::string shard_name(int part) { return "model-0000" + std::to_string(part + 1) + "-of-00003.safetensors"; }
};

void check_holds(const Checkpoint& checkpoint, const std::vector<FileTensor>& tensors) {
  for (const FileTensor& expected : tensors) {
    const TensorView view = checkpoint.tensor(expected.name);
    CHECK(view.dtype == expected.dtype && view.shape == expected.shape);
    CHECK_EQ(view.bytes, expected.bytes.size());
    CHECK(std::memcmp(view.data, expected.bytes.data(), view.bytes) == 0);
  }
}

}  // namespace

TEST("a single file is mapped and every tensor found") {
  const TinyCopy copy;
  check_holds(*copy.write_single_and_open(), copy.tensors);
}

TEST("shards are mapped through their index and every tensor found") {
  const TinyCopy copy;
  copy.write_shards();
  const auto checkpoint = copy.open();
  CHECK_EQ(checkpoint->files().file_count(), 3);
  check_holds(*checkpoint, copy.tensors);
  checkpoint->prefetch("layers.0.");
  checkpoint->release("layers.0.");
  check_holds(*checkpoint, copy.tensors);
}

TEST("a name that the checkpoint lacks is an error") {
  const TinyCopy copy;
  CHECK_THROWS_CODE(copy.write_single_and_open()->tensor("layers.9.x"), kBad, "\"layers.9.x\"");
}

TEST("absent files are named") {
  const ScratchDirectory empty;
  CHECK_THROWS_CODE(read_config(empty.path()), kBad, "config.json: cannot open: No such file");
  CHECK_THROWS_CODE(CheckpointFiles::open(empty.path()), kBad, empty.path(), "expected model.safetensors or");
  CHECK_THROWS_CODE(CheckpointFiles::open(empty.path("absent")), kBad, "absent");
  CHECK(!CheckpointFiles::present(empty.path()));
  std::filesystem::create_directory(empty.path("config.json"));
  CHECK_THROWS_CODE(read_config(empty.path()), kBad, "expected a regular file");
  std::filesystem::remove(empty.path("config.json"));
  empty.write("config.json", "");
  CHECK_THROWS_CODE(read_config(empty.path()), ErrorCode::kBadConfig, "config.json: byte 0", "found the end of the text");
  std::filesystem::resize_file(empty.path("config.json"), 100'000'001);
  CHECK_THROWS_CODE(read_config(empty.path()), kBad, "expected at most 100000000 bytes, found 100000001");
  empty.write("model.safetensors", "");
  CHECK_THROWS_CODE(CheckpointFiles::open(empty.path()), kBad, "model.safetensors", "found 0");
}

TEST("a pipe where a file should be is refused, not waited for") {
  const ScratchDirectory directory;
  REQUIRE(mkfifo(directory.path("config.json").c_str(), 0600) == 0);
  CHECK_THROWS_CODE(read_config(directory.path()), kBad, "config.json: expected a regular file");
}

TEST("a missing tensor is named with what was expected") {
  TinyCopy copy;
  std::erase_if(copy.tensors, [](const FileTensor& tensor) { return tensor.name == "layers.2.attn.wkv.scale"; });
  CHECK_THROWS_CODE(copy.write_single_and_open(), kBad, "\"layers.2.attn.wkv.scale\": expected F8_E8M0 [4, 1], found none");
}

TEST("a mistyped or misshapen tensor is named with file, expected and found") {
  TinyCopy copy;
  copy.tensor("layers.0.attn.kv_norm.weight").dtype = Dtype::kF16;
  CHECK_THROWS_CODE(copy.write_single_and_open(), kBad, copy.directory.path("model.safetensors"),
                    "\"layers.0.attn.kv_norm.weight\": expected BF16 [512], found F16 [512]");
  copy.tensor("layers.0.attn.kv_norm.weight").dtype = Dtype::kBF16;
  std::swap(copy.tensor("layers.3.attn.wo_b.weight").shape[0], copy.tensor("layers.3.attn.wo_b.weight").shape[1]);
  CHECK_THROWS_CODE(copy.write_single_and_open(), kBad,
                    "\"layers.3.attn.wo_b.weight\": expected F8_E4M3 [128, 256], found F8_E4M3 [256, 128]");
}

TEST("a tensor that the model has no place for is an error") {
  TinyCopy copy;
  copy.tensors.push_back({"layers.4.attn_norm.weight", Dtype::kBF16, {128}, std::string(256, 'x')});
  CHECK_THROWS_CODE(copy.write_single_and_open(), kBad, "model.safetensors", "\"layers.4.attn_norm.weight\" has no place");
  copy.tensors.back().name = "mtp.0.extra";
  CHECK_THROWS_CODE(copy.write_single_and_open(), kBad, "\"mtp.0.extra\" has no place");
}

TEST("further draft blocks and repacked embeddings of a draft block are let through") {
  TinyCopy copy;
  for (const char* name : {"mtp.1.attn_norm.weight", "mtp.0.emb.tok_emb.weight", "mtp.0.head.weight"}) {
    copy.tensors.push_back({name, Dtype::kBF16, {128}, std::string(256, 'x')});
  }
  check_holds(*copy.write_single_and_open(), copy.tensors);
}

TEST("a DSpark checkpoint opens for its trunk, whatever its draft blocks hold") {
  TinyCopy copy;
  copy.config.dspark = true;
  copy.config.num_mtp_layers = 0;
  copy.tensors.push_back({"mtp.0.main_proj.weight", Dtype::kF8E4M3, {128, 384}, std::string(128 * 384, 'x')});
  std::erase_if(copy.tensors, [](const FileTensor& tensor) { return tensor.name == "mtp.0.e_proj.weight"; });
  check_holds(*copy.write_single_and_open(), copy.tensors);
}

TEST("FP8 routed experts are refused as unsupported") {
  TinyCopy copy;
  FileTensor& expert = copy.tensor("layers.0.ffn.experts.0.w1.weight");
  expert = {expert.name, Dtype::kF8E4M3, {128, 128}, std::string(128 * 128, 'x')};
  CHECK_THROWS_CODE(copy.write_single_and_open(), ErrorCode::kUnsupported, "\"layers.0.ffn.experts.0.w1.weight\"",
                    "expected I8 [128, 64], found F8_E4M3 [128, 128]", "Base");
}

TEST("a truncated and an oversized shard are named") {
  const TinyCopy copy;
  copy.write_shards();
  const std::string name = TinyCopy::shard_name(1), bytes = read_file(copy.directory.path(name));
  copy.directory.write(name, bytes.substr(0, bytes.size() - 1));
  CHECK_THROWS_CODE(copy.open(), kBad, copy.directory.path(name), "truncated");
  copy.directory.write(name, bytes + "x");
  CHECK_THROWS_CODE(copy.open(), kBad, copy.directory.path(name), "oversized");
  std::filesystem::remove(copy.directory.path(name));
  CHECK_THROWS_CODE(copy.open(), kBad, copy.directory.path(name), "cannot open");
}

TEST("a tensor in two shards is an error naming both files") {
  TinyCopy copy;
  copy.write_shards();
  std::vector<FileTensor> third = read_tensors(copy.directory.path(TinyCopy::shard_name(2)));
  third.push_back(copy.tensors[0]);
  copy.directory.write(TinyCopy::shard_name(2), safetensors_bytes(third));
  CHECK_THROWS_CODE(copy.open(), kBad, "\"" + copy.tensors[0].name + "\" is also in", TinyCopy::shard_name(0),
                    TinyCopy::shard_name(2));
}

TEST("an index that disagrees with its files is an error") {
  const TinyCopy copy;
  copy.write_shards();
  const std::string index = copy.index(), first = "\"" + copy.tensors[0].name + "\": \"" + TinyCopy::shard_name(0) + "\"";
  const auto refuse = [&](const std::string& text, std::string_view part, std::string_view part2 = "") {
    copy.write_index(text);
    CHECK_THROWS_CODE(copy.open(), kBad, part, part2);
  };
  refuse(replaced(index, first, "\"" + copy.tensors[0].name + "\": \"" + TinyCopy::shard_name(1) + "\""), "expected in",
         "found in " + copy.directory.path(TinyCopy::shard_name(0)));
  refuse(replaced(index, first, "\"nowhere\": \"" + TinyCopy::shard_name(0) + "\""), "\"nowhere\"", "found in no file");
  refuse(replaced(index, first + ",\n", ""), "\"" + copy.tensors[0].name + "\" is not listed in");
  refuse(replaced(index, first, first + ",\n" + first), "more than once");
  refuse(replaced(index, first, "\"" + copy.tensors[0].name + "\": \"../outside.safetensors\""), "expected a file name");
  refuse(replaced(index, first, "\"" + copy.tensors[0].name + "\": 3"), "expected a file name, found 3");
  refuse("{\"metadata\": {}}", "weight_map", "found nothing");
  refuse("{\"weight_map\": []}", "weight_map", "found a list");
  refuse("[]", "weight_map");
  refuse("{", "index.json: byte 1");
}
