// SPDX-License-Identifier: MIT
// Totals are those of the released files' headers: spec/checkpoint.md (b).
#include "runtime/inventory.h"

#include <map>
#include <set>

#include "check.h"
#include "fixtures.h"
#include "runtime/inspect.h"

using namespace twelvex;
using namespace twelvex::check;

namespace {

std::vector<TensorSpec> inventory_of(const std::string& model) {
  return make_inventory(ModelConfig::parse(read_file(project_path("models/" + model + "/config.json")), model));
}

struct Totals {
  int64_t tensors = 0, elements = 0;
  uint64_t bytes = 0;
};

Totals totals(const std::vector<TensorSpec>& specs, const std::string& prefix = "") {
  Totals sum;
  for (const TensorSpec& spec : specs) {
    if (!spec.name.starts_with(prefix)) continue;
    ++sum.tensors;
    sum.elements += spec.elements();
    sum.bytes += spec.bytes();
  }
  return sum;
}

std::map<Dtype, int64_t> by_dtype(const std::vector<TensorSpec>& specs) {
  std::map<Dtype, int64_t> counts;
  for (const TensorSpec& spec : specs) ++counts[spec.dtype];
  return counts;
}

std::string layer(int index) { return "layers." + std::to_string(index) + "."; }

}  // namespace

TEST("Flash has the released number of tensors, elements and bytes") {
  const std::vector<TensorSpec> specs = inventory_of("flash");
  const Totals all = totals(specs);
  CHECK_EQ(all.tensors, 69187);
  CHECK_EQ(all.bytes, 159609485896u);
  CHECK_EQ(all.elements, 158069433298);
  const std::map<Dtype, int64_t> expected = {{Dtype::kBF16, 433},     {Dtype::kF32, 417}, {Dtype::kF8E4M3, 375},
                                             {Dtype::kF8E8M0, 34167}, {Dtype::kI64, 3},   {Dtype::kI8, 33792}};
  CHECK(by_dtype(specs) == expected);
}

TEST("Pro has the released number of tensors, elements and bytes") {
  const Totals all = totals(inventory_of("pro"));
  CHECK_EQ(all.tensors, 145116);
  CHECK_EQ(all.bytes, 864704792696u);
  CHECK_EQ(all.elements, 861608274846);
}

TEST("layers of each kind have the released number of tensors and bytes") {
  const std::vector<TensorSpec> flash = inventory_of("flash"), pro = inventory_of("pro");
  CHECK_EQ(totals(flash, layer(0)).tensors, 1565);
  CHECK_EQ(totals(flash, layer(4)).tensors, 1576);
  CHECK_EQ(totals(flash, layer(3)).tensors, 1569);
  CHECK_EQ(totals(flash, "mtp.0.").tensors, 1575);
  CHECK_EQ(totals(pro, layer(60)).tensors, 2344);
  CHECK_EQ(totals(pro, layer(59)).tensors, 2337);
  CHECK_EQ(totals(pro, "mtp.0.").tensors, 2343);
  CHECK_EQ(totals(flash, layer(0)).bytes, 3566148952u);
  CHECK_EQ(totals(flash, layer(1)).bytes, 3566148952u);
  CHECK_EQ(totals(flash, layer(2)).bytes, 3596055640u);
  CHECK_EQ(totals(flash, layer(3)).bytes, 3568596312u);
  CHECK_EQ(totals(flash, layer(42)).bytes, 3589851224u);
  CHECK_EQ(totals(flash, "mtp.0.").bytes, 3593787756u);
}

TEST("every tensor has its own name and a known kind") {
  std::set<std::string> names;
  for (const TensorSpec& spec : inventory_of("flash")) {
    CHECK(names.insert(spec.name).second);
    CHECK(spec.kind != TensorKind::kOther);
  }
  CHECK(tensor_kind("layers.0.attn.indexer.wq_b.weight") == TensorKind::kIndexer);
  CHECK(tensor_kind("layers.0.attn.indexer.compressor.ape") == TensorKind::kIndexer);
  CHECK(tensor_kind("layers.0.attn.compressor.norm.weight") == TensorKind::kCompressor);
  CHECK(tensor_kind("layers.0.attn.q_norm.weight") == TensorKind::kNorm);
  CHECK(tensor_kind("mtp.0.ffn.experts.3.w1.scale") == TensorKind::kMtp);
  CHECK(tensor_kind("something.else") == TensorKind::kOther);
}

TEST("the demo checkpoint is exactly its inventory") {
  std::map<std::string, std::string> expected, found;
  for (const TensorSpec& spec : inventory_of("demo")) expected[spec.name] = describe_tensor(spec.dtype, spec.shape);
  for (const FileTensor& tensor : read_tensors(project_path("models/demo/model.safetensors"))) {
    found[tensor.name] = describe_tensor(tensor.dtype, tensor.shape);
  }
  CHECK_EQ(found.size(), expected.size());
  CHECK(found == expected);
}

TEST("FP8 experts have no inventory") {
  ModelConfig config = ModelConfig::parse(read_file(project_path("models/flash/config.json")), "flash");
  config.fp8_experts = true;
  CHECK_THROWS_CODE(make_inventory(config), ErrorCode::kUnsupported, "fp8");
}

TEST("inspect sums tensors from config.json alone") {
  const CheckpointInfo info = inspect_checkpoint(project_path("models/flash"));
  CHECK(!info.weights_present);
  Totals sum;
  int64_t parameters = 0, expert_parameters = 0;
  for (const TensorStatistics& row : info.tensors) {
    sum.tensors += row.tensors;
    sum.bytes += static_cast<uint64_t>(row.bytes);
    parameters += row.parameters;
    if (row.kind == "routed experts") expert_parameters += row.parameters;
  }
  CHECK_EQ(sum.tensors, 69187);
  CHECK_EQ(sum.bytes, 159609485896u);
  CHECK_EQ(expert_parameters, int64_t{43} * 256 * 3 * 2048 * 4096);
  // 158,069,433,298 stored elements; each of the 44 * 256 experts' packed bytes holds two, scales and tables none.
  int64_t expected = 158069433298;
  for (const TensorSpec& spec : inventory_of("flash")) {
    if (spec.dtype == Dtype::kI8) expected += spec.elements();
    if (spec.dtype == Dtype::kF8E8M0 || spec.dtype == Dtype::kI64) expected -= spec.elements();
  }
  CHECK_EQ(parameters, expected);
  CHECK_EQ(info.cache.size(), 6u);
}

TEST("inspect reads a checkpoint's headers") {
  const CheckpointInfo info = inspect_checkpoint(project_path("models/demo"));
  CHECK(info.weights_present);
  int64_t tensors = 0, bytes = 0;
  for (const TensorStatistics& row : info.tensors) {
    tensors += row.tensors;
    bytes += row.bytes;
  }
  CHECK_EQ(tensors, 753);
  CHECK_EQ(bytes, 32642260 - 8 - 76552);
  const CacheStatistics& fp8 = info.cache[4];
  CHECK(fp8.row_format == RowFormat::kFp8 && !fp8.mtp);
  // Two csa layers with 32 rows of 584 bytes and 32 indexer rows of 132, two hca layers with one row, aligned to 256.
  CHECK_EQ(fp8.context_block_bytes, 2 * (18688 + 4352) + 2 * 768);
}
