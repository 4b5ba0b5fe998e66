// SPDX-License-Identifier: MIT
#include "runtime/dummy.h"

#include <cmath>
#include <cstring>
#include <set>

#include "check.h"
#include "fixtures.h"
#include "recording_ops.h"
#include "runtime/checkpoint.h"
#include "runtime/inventory.h"
#include "runtime/weights.h"

using namespace twelvex;
using namespace twelvex::check;

namespace {

ModelConfig demo_config() { return read_config(project_path("models/demo")); }

bool same(const TensorView& a, const TensorView& b) {
  return a.bytes == b.bytes && std::memcmp(a.data, b.data, a.bytes) == 0;
}

double deviation(const RecordedMatrix& matrix) {
  double sum = 0, squares = 0;
  for (float value : matrix.values) {
    sum += value;
    squares += double{value} * value;
  }
  const auto count = static_cast<double>(matrix.values.size());
  return std::sqrt(squares / count - sum / count * (sum / count));
}

}  // namespace

TEST("a tensor's bytes follow from its name and the seed") {
  const ModelConfig config = demo_config();
  const auto source = make_dummy_source(config, 1), again = make_dummy_source(config, 1), other = make_dummy_source(config, 2);
  for (const char* name : {"embed.weight", "layers.1.attn.wq_a.weight", "layers.2.ffn.experts.3.w1.weight",
                           "layers.2.attn.compressor.ape", "layers.0.ffn.gate.tid2eid", "norm.weight"}) {
    CHECK(same(source->tensor(name), source->tensor(name)));
    CHECK(same(source->tensor(name), again->tensor(name)));
    CHECK(!same(source->tensor(name), other->tensor(name)));
  }
  CHECK(!same(source->tensor("layers.2.ffn.experts.3.w1.weight"), source->tensor("layers.2.ffn.experts.4.w1.weight")));
  CHECK_THROWS_CODE(source->tensor("layers.77.attn_norm.weight"), ErrorCode::kBadCheckpoint, "layers.77.attn_norm.weight");
}

TEST("every tensor has the dtype, shape and size of the inventory") {
  const ModelConfig config = demo_config();
  const auto source = make_dummy_source(config, 1);
  for (const TensorSpec& spec : make_inventory(config)) {
    const TensorView view = source->tensor(spec.name);
    CHECK(view.dtype == spec.dtype && view.shape == spec.shape && view.bytes == spec.bytes() && view.data != nullptr);
  }
}

TEST("matrices have variance 1 / columns, norms are near one, nothing is NaN") {
  const ModelConfig config = demo_config();
  const auto source = make_dummy_source(config, 5);
  RecordingOps ops;
  const WeightsRequest request{.config = config, .source = *source, .shape = {}, .with_mtp = true, .progress = {}};
  const ModelWeights weights = load_weights(request, ops);
  for (const RecordedWeight& weight : recorded_weights(weights, true)) {
    const RecordedMatrix matrix = joined(weight.parts, weight.split);
    if (weight.name.ends_with("tid2eid")) continue;
    for (float value : matrix.values) CHECK(std::isfinite(value) && std::abs(value) < 16);
    if (matrix.rows < 8 || matrix.values.size() < 4096 || weight.name.ends_with("ape")) continue;
    const double expected = weight.name == "embed" ? 1 : 1 / std::sqrt(static_cast<double>(matrix.cols));
    const double ratio = deviation(matrix) / expected;
    const bool sane = ratio > 0.6 && ratio < 1.5;
    if (!sane) fail(CHECK_PLACE_, weight.name + ": deviation is " + show(ratio) + " times what it should be");
  }
  const RecordedMatrix& norm = RecordingOps::of(weights.head.norm);
  for (float value : norm.values) CHECK(value > 0.5f && value < 1.5f);
}

TEST("expert tables name distinct experts") {
  const ModelConfig config = demo_config();
  const TensorView view = make_dummy_source(config, 9)->tensor("layers.0.ffn.gate.tid2eid");
  std::vector<int64_t> table(view.bytes / 8);
  std::memcpy(table.data(), view.data, view.bytes);
  std::set<int64_t> used;
  for (size_t i = 0; i < table.size(); i += 2) {
    CHECK(table[i] >= 0 && table[i] < 12 && table[i + 1] >= 0 && table[i + 1] < 12 && table[i] != table[i + 1]);
    used.insert(table[i]);
  }
  CHECK_EQ(used.size(), 12u);
}

TEST("a full-size layer costs no more memory than its tiles") {
  const ModelConfig flash = read_config(project_path("models/flash"));
  const auto source = make_dummy_source(flash, 1);
  std::set<const uint8_t*> tiles;
  for (int e = 0; e < 256; ++e) {
    const TensorView view = source->tensor("layers.0.ffn.experts." + std::to_string(e) + ".w1.weight");
    CHECK_EQ(view.bytes, size_t{2048} * 2048);
    CHECK(view.owner == nullptr);  // a window, not a copy
    tiles.insert(view.data);
  }
  CHECK(tiles.size() > 200);
}

TEST("a tensor larger than a tile is a copy whose rows differ") {
  ModelConfig config = demo_config();
  config.vocab_size = 129280;
  config.hidden_size = 384;
  const TensorView embed = make_dummy_source(config, 1)->tensor("embed.weight");
  CHECK(embed.owner != nullptr);
  CHECK_EQ(embed.bytes, size_t{129280} * 384 * 2);
  std::set<std::string> rows;
  const size_t row_bytes = 384 * 2;
  for (size_t row = 0; row < 129280; row += 101) {
    rows.insert(std::string(reinterpret_cast<const char*>(embed.data + row * row_bytes), row_bytes));
  }
  CHECK_EQ(rows.size(), (129280u + 100) / 101);
}
