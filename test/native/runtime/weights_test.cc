// SPDX-License-Identifier: MIT
#include "runtime/weights.h"

#include <chrono>
#include <cmath>
#include <cstring>
#include <map>
#include <set>

#include "check.h"
#include "fixtures.h"
#include "recording_ops.h"
#include "runtime/checkpoint.h"
#include "runtime/dummy.h"
#include "runtime/inventory.h"
#include "runtime/shard.h"

using namespace twelvex;
using namespace twelvex::check;

namespace {

/// One rank's load and what it recorded.
struct Loaded {
  RecordingOps ops;
  ModelWeights weights;
  std::vector<RecordedWeight> list;

  Loaded(const ModelConfig& config, const TensorSource& source, RankShape shape, bool with_mtp = true) {
    weights = load_weights({.config = config, .source = source, .shape = shape, .with_mtp = with_mtp, .progress = {}}, ops);
    list = recorded_weights(weights, with_mtp);
  }

  RecordedMatrix operator[](const std::string& name) const {
    for (const RecordedWeight& weight : list) {
      if (weight.name == name) return joined(weight.parts, weight.split);
    }
    throw Error(ErrorCode::kInternal, name + " was not loaded");
  }
};

ModelConfig tiny_config() { return read_config(project_path("test/oracle/tiny")); }

/// Small, but with several units of everything that is split, not all divisible by two.
ModelConfig uneven_config() {
  ModelConfig config = tiny_config();
  config.vocab_size = 700;  // five whole units and a short one
  config.hidden_size = 256;
  config.num_heads = 12;
  config.o_groups = 6;
  config.moe_intermediate_size = 640;
  return config;
}

/// The whole tensor as a matrix, dequantised straight from the source.
RecordedMatrix whole(const TensorSource& source, const std::string& name, const TensorSpec& spec) {
  const TensorView weight = source.tensor(spec.name);
  MatrixView view;
  view.rows = spec.shape.size() > 1 ? spec.shape[0] : 1;
  view.cols = spec.shape.back();
  view.data = weight.data;
  view.row_bytes = static_cast<size_t>(view.cols) * dtype_bytes(spec.dtype);
  if (spec.dtype == Dtype::kBF16) view.format = WeightFormat::kBF16;
  if (spec.dtype != Dtype::kF8E4M3 && spec.dtype != Dtype::kI8) return dequantised(view);
  const TensorView scale = source.tensor(name + ".scale");
  view.format = spec.dtype == Dtype::kI8 ? WeightFormat::kFp4Group32 : WeightFormat::kFp8Block128;
  if (spec.dtype == Dtype::kI8) view.cols *= 2;
  view.scale = scale.data;
  view.scale_row_bytes = static_cast<size_t>(scale.shape[1]);
  return dequantised(view);
}

/// Loads `ranks` ranks; every weight put together again must be the source's, and every tensor of the inventory be used.
void check_ranks(const ModelConfig& config, const TensorSource& source, int ranks) {
  std::vector<std::unique_ptr<Loaded>> loaded;
  for (int rank = 0; rank < ranks; ++rank) loaded.push_back(std::make_unique<Loaded>(config, source, RankShape{rank, ranks}));
  std::map<std::string, TensorSpec> specs;
  for (TensorSpec& spec : make_inventory(config)) {
    const std::string name = spec.name.ends_with(".weight") ? spec.name.substr(0, spec.name.size() - 7) : spec.name;
    if (spec.dtype != Dtype::kF8E8M0) specs[name] = std::move(spec);
  }
  CHECK_EQ(loaded[0]->list.size(), specs.size());
  for (size_t i = 0; i < loaded[0]->list.size(); ++i) {
    const RecordedWeight& weight = loaded[0]->list[i];
    if (weight.name.ends_with("tid2eid")) continue;
    std::vector<const RecordedMatrix*> parts;
    for (const auto& rank : loaded) parts.insert(parts.end(), rank->list[i].parts.begin(), rank->list[i].parts.end());
    const RecordedMatrix actual = joined(parts, weight.split), expected = whole(source, weight.name, specs.at(weight.name));
    if (actual.rows != expected.rows || actual.cols != expected.cols || actual.values != expected.values) {
      fail(CHECK_PLACE_, weight.name + " differs from the checkpoint at " + std::to_string(ranks) + " ranks");
    }
  }
}

}  // namespace

TEST("shards are whole units that cover a dimension without overlap") {
  for (int64_t n : {1, 127, 128, 129, 256, 2048, 3072, 129280}) {
    for (int ranks : {1, 2, 3, 4, 8}) {
      int64_t reached = 0;
      for (int rank = 0; rank < ranks; ++rank) {
        const ShardRange range = shard_range(n, 128, {rank, ranks});
        CHECK_EQ(range.begin, reached);
        CHECK(range.size() == 0 || range.begin % 128 == 0);
        reached = range.end;
      }
      CHECK_EQ(reached, n);
    }
  }
  CHECK_EQ(shard_range(1010, {1, 2}).begin, 505);
}

TEST("elements of the tiny checkpoint decode to known values") {
  const ModelConfig config = tiny_config();
  const auto source = Checkpoint::open(project_path("test/oracle/tiny"), config);
  const Loaded loaded(config, *source, {0, 1});
  CHECK_EQ(loaded["embed"].at(200, 5), 1.6875f);
  CHECK_EQ(loaded["layers.1.attn.wq_b"].at(1024, 3), 0.203125f);
  CHECK_EQ(loaded["layers.1.attn.wo_b"].at(3, 128), -0.00390625f);
  CHECK_EQ(loaded["layers.2.attn.wo_a"].at(255, 1023), -0.04296875f);
  CHECK_EQ(loaded["layers.3.ffn.experts.3.w2"].at(0, 0), 0.1875f);
  CHECK_EQ(loaded["layers.3.ffn.experts.3.w2"].at(0, 1), -0.0625f);
  CHECK_EQ(loaded["layers.3.ffn.experts.3.w2"].at(77, 33), 0.09375f);
  CHECK_EQ(loaded["layers.0.ffn.experts.0.w1"].at(64, 96), -0.1875f);
  CHECK_EQ(loaded["layers.2.attn.attn_sink"].at(0, 3), 0.505759060382843f);
  CHECK_EQ(loaded["layers.2.attn.q_norm"].at(0, 127), 1.0703125f);
  const RecordedMatrix table = loaded["layers.0.ffn.gate.tid2eid"];
  CHECK_EQ(table.cols, 512);
  CHECK_EQ(table.at(0, 1), 3.0f);
  CHECK_EQ(table.at(0, 511), 3.0f);
}

TEST("the tiny checkpoint's ranks make up the whole at TP 1, 2 and 4, some of them empty") {
  const ModelConfig config = tiny_config();
  const auto source = Checkpoint::open(project_path("test/oracle/tiny"), config);
  for (int ranks : {1, 2, 4}) check_ranks(config, *source, ranks);
  const Loaded first(config, *source, {0, 4}), last(config, *source, {3, 4});
  CHECK_EQ(first.weights.layers[0].attn.groups, 0);
  CHECK_EQ(first["layers.0.attn.wq_b"].rows, 0);
  CHECK_EQ(parts_held(first.weights.layers[0].attn.wo_b), 0);
  CHECK_EQ(first["layers.0.ffn.experts.0.w2"].cols, 0);
  CHECK_EQ(last.weights.layers[0].attn.groups, 1);
  CHECK_EQ(last.weights.layers[0].attn.heads, 2);
  CHECK_EQ(last["layers.0.attn.wq_b"].rows, 1024);
  CHECK_EQ(last["layers.0.ffn.experts.0.w1"].rows, 128);
  CHECK_EQ(last.weights.vocab_begin, 128);
  CHECK_EQ(last.weights.embed.rows, 128);
}

TEST("one rank holds what is summed over ranks in the parts of two") {
  const ModelConfig config = uneven_config();
  const auto source = make_dummy_source(config, 7);
  const Loaded one(config, *source, {0, 1}), two[] = {{config, *source, {0, 2}}, {config, *source, {1, 2}}};
  for (size_t i = 0; i < one.list.size(); ++i) {
    if (one.list[i].parts.size() == 1) continue;
    REQUIRE(one.list[i].split == Split::kCols && one.list[i].parts.size() == kParts);
    for (size_t part = 0; part < kParts; ++part) {
      CHECK(one.list[i].parts[part]->values == joined(two[part].list[i].parts, Split::kCols).values);
    }
  }
  CHECK_EQ(one.weights.layers[0].attn.wo_b[0].cols, 3 * config.o_lora_rank);
  CHECK_EQ(one.weights.layers[0].moe.shared_down[0].cols, 2 * 128);
  CHECK_EQ(one.weights.layers[0].moe.shared_down[1].cols, 3 * 128);
  CHECK_EQ(parts_held(two[0].weights.layers[0].attn.wo_b), 1);
}

TEST("uneven dimensions are shared in whole units") {
  const ModelConfig config = uneven_config();
  const auto source = make_dummy_source(config, 7);
  for (int ranks : {1, 3}) check_ranks(config, *source, ranks);
  const Loaded last(config, *source, {3, 4});
  CHECK_EQ(last.weights.vocab_begin, 4 * 128);
  CHECK_EQ(last.weights.embed.rows, 700 - 4 * 128);
  CHECK_EQ(last.weights.layers[0].attn.groups, 2);
  CHECK_EQ(last.weights.layers[0].attn.sinks.data != nullptr ? last["layers.0.attn.attn_sink"].cols : 0, 4);
}

TEST("layer kinds decide what is loaded, and the MTP block is layer L") {
  const ModelConfig config = tiny_config();
  const auto source = Checkpoint::open(project_path("test/oracle/tiny"), config);
  const Loaded loaded(config, *source, {0, 1});
  const std::vector<LayerWeights>& layers = loaded.weights.layers;
  REQUIRE(layers.size() == 4);
  CHECK(layers[0].attn.kind == LayerKind::kSwa && layers[0].attn.compressor.ratio == 0);
  CHECK(layers[1].attn.kind == LayerKind::kCsa && layers[1].attn.compressor.ratio == 4 && layers[1].attn.compressor.dim == 512);
  CHECK(layers[1].attn.indexer.compressor.ratio == 4 && layers[1].attn.indexer.compressor.dim == 128);
  CHECK(layers[2].attn.kind == LayerKind::kHca && layers[2].attn.compressor.ratio == 128);
  CHECK(layers[0].moe.tid2eid.data != nullptr && layers[0].moe.bias.data == nullptr);
  CHECK(layers[1].moe.tid2eid.data == nullptr && layers[1].moe.bias.data != nullptr);
  CHECK_EQ(layers[3].index, 3);
  CHECK_EQ(loaded.weights.mtp.layer.index, 4);
  const Loaded without(config, *source, {0, 1}, false);
  CHECK_EQ(without.weights.mtp.layer.index, 0);
  CHECK(without.weights.mtp.e_proj.data == nullptr);
}

TEST("the first layers of a checkpoint load alone") {
  const ModelConfig config = tiny_config();
  const auto source = Checkpoint::open(project_path("test/oracle/tiny"), config);
  const Loaded loaded(config.first_layers(2), *source, {0, 1});
  CHECK_EQ(loaded.weights.layers.size(), 2u);
  CHECK_EQ(loaded.weights.mtp.layer.index, 2);
}

TEST("MTP cannot be asked of a checkpoint without it") {
  ModelConfig config = tiny_config();
  config.num_mtp_layers = 0;
  const auto source = make_dummy_source(config, 1);
  CHECK_THROWS_CODE(Loaded(config, *source, {0, 1}), ErrorCode::kBadOptions, "no MTP block");
}

TEST("an expert id out of range is named with tensor and token") {
  std::vector<FileTensor> tensors = read_tensors(project_path("test/oracle/tiny/model.safetensors"));
  for (FileTensor& tensor : tensors) {
    if (tensor.name == "layers.0.ffn.gate.tid2eid") tensor.bytes[(2 * 9 + 1) * 8] = 4;  // token 9, second choice
  }
  ScratchDirectory directory;
  directory.write("config.json", read_file(project_path("test/oracle/tiny/config.json")));
  directory.write("model.safetensors", safetensors_bytes(tensors));
  const ModelConfig config = tiny_config();
  const auto source = Checkpoint::open(directory.path(), config);
  CHECK_THROWS_CODE(Loaded(config, *source, {0, 1}), ErrorCode::kBadCheckpoint,
                    "\"layers.0.ffn.gate.tid2eid\": token 9: expected an expert from 0 to 3, found 4");
}

TEST("progress rises to one and is rate-limited") {
  const ModelConfig config = tiny_config();
  const auto source = make_dummy_source(config, 3);
  std::vector<double> fractions;
  std::string detail;
  const auto start = std::chrono::steady_clock::now();
  RecordingOps ops;
  const auto progress = [&](double fraction, const std::string& text) {
    CHECK(fraction >= (fractions.empty() ? 0 : fractions.back()) && fraction <= 1);
    CHECK(!text.empty());
    fractions.push_back(fraction);
  };
  load_weights({.config = config, .source = *source, .shape = {}, .with_mtp = true, .progress = progress}, ops);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  REQUIRE(!fractions.empty());
  CHECK_EQ(fractions.back(), 1.0);
  CHECK(static_cast<double>(fractions.size()) <= 2 + seconds * 10 + 1);
}
