// SPDX-License-Identifier: MIT
// Ranks, the model's failures and the order of operations, over a backend that computes nothing.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "runtime/model.h"

namespace twelvex {
namespace {

/// What the scripted backends of this program do and note.
struct Script {
  std::vector<std::string> calls;                   // of rank 0
  int failing_rank = -1;
  ErrorCode failure = ErrorCode::kInternal;
  bool fail_allocation = false;
  int draft_tokens = 1;
  std::vector<DecodeShape> shapes;
};
Script script;

class ScriptedOps : public Ops {
 public:
  explicit ScriptedOps(const BackendOptions& options) : shape_(options.shape), group_(options.group) {}

  Linear linear(const MatrixView& view) override { return {.rows = view.rows, .cols = view.cols}; }
  Array vector(const MatrixView&) override { return {}; }
  Array matrix_f32(const MatrixView&) override { return {}; }
  Array hyper_matrix(const MatrixView&) override { return {}; }
  Array token_table(std::span<const int32_t>) override { return {}; }
  Experts experts(std::span<const ExpertView>) override { return {}; }
  Memory memory() override { return {.free_bytes = 1, .total_bytes = size_t{1} << 30}; }
  Activations reserve(const Limits&) override {
    Activations a;
    a.streams.data = &trunk_streams_;
    a.draft_streams.data = &draft_streams_;
    return a;
  }
  void allocate_cache(const CacheLayout&, const CachePlan&) override {
    if (script.fail_allocation) throw Error(ErrorCode::kOutOfMemory, "no room");
  }
  std::vector<DecodeShape> decode_shapes() const override { return script.shapes; }

  Batch begin_step(const StepInput& input) override {
    note("begin_step");
    return {.tokens = static_cast<int>(input.tokens.size()), .rows = static_cast<int>(input.slot.size())};
  }
  Batch draft_batch(int pass) override {
    note("draft_batch " + std::to_string(pass));
    return {.tokens = pass == 1 ? 1 : script.draft_tokens, .rows = 1, .pass = pass};
  }
  void finish_step(StepOutput&) override { note("finish_step"); }
  void embed(const Batch&, const ModelWeights&, Array) override { note("embed"); }
  void spread(const Batch&, Array, Array) override { note("spread"); }
  void hyper_enter(const Batch&, const HyperWeights&, Array, Array streams, Array, Array) override { note("enter", streams); }
  void hyper_leave(const Batch&, Array, Array, Array streams) override { note("leave", streams); }
  void hyper_cross(const Batch&, const HyperWeights&, Array, Array, Array streams, Array, Array) override {
    note("cross", streams);
  }
  void project_query_kv(const Batch&, int, const AttentionWeights&, Array, Array, Array, Array) override { note("project"); }
  void store_window(const Batch&, int layer, Array) override { note("store " + std::to_string(layer)); }
  void compress(const Batch&, int layer, const CompressorWeights& weights, Array) override {
    note("compress " + std::to_string(layer) + " to " + std::to_string(weights.dim));
  }
  void begin_gather(const Batch&, int, LayerKind) override { note("gather"); }
  void select(const Batch&, int, const IndexerWeights&, Array, Array, Array) override { note("select"); }
  void attend(const Batch&, int, const AttentionWeights&, Array, Array, Array) override { note("attend"); }
  void project_output(const Batch&, const AttentionWeights&, Array, Array) override { note("project_output"); }
  void route(const Batch&, const MoeWeights&, Array, Array) override {
    note("route");
    if (script.failing_rank == shape_.rank) throw Error(script.failure, "the script says so");
  }
  void run_experts(const Batch&, const MoeWeights&, Array, Array, Array) override { note("experts"); }
  void all_reduce(const Batch&, Array) override {
    note("reduce");
    group_->enter(shape_.rank, this);
    group_->leave();
  }
  void keep_streams(const Batch&, Array streams) override { note("keep", streams); }
  void logits(const Batch&, const HeadWeights&, const Linear&, Array streams, Array) override { note("logits", streams); }
  void sample(const Batch&, Array) override { note("sample"); }
  void draft_input(const Batch&, const MtpWeights&, Array, Array from, Array to) override {
    note(std::string("draft_input ") + name(from) + " to " + name(to));
  }

 private:
  const char* name(Array streams) const { return streams.data == &trunk_streams_ ? "trunk" : "draft"; }
  void note(const std::string& call, Array streams) { note(call + " " + name(streams)); }
  void note(const std::string& call) {
    if (shape_.rank == 0) script.calls.push_back(call);
  }

  RankShape shape_;
  std::shared_ptr<RankGroup> group_;
  char trunk_streams_ = 0, draft_streams_ = 0;
};

std::unique_ptr<Model> load_tiny(LoadOptions options) {
  script = Script{};
  options.max_rows = 4;
  options.context_tokens = 256;
  return Model::load(std::string(TWELVEX_ROOT) + "/test/oracle/tiny", options, {});
}

const CachePlan kPlan{.slots = 2, .window_blocks = 4, .context_blocks = 4};

/// One greedy row of three tokens.
StepInput small_step() {
  StepInput input;
  input.slot = {0};
  input.position = {0};
  input.count = {3};
  input.drafts = {0};
  input.next_token = {-1};
  input.flags = {kRowSample};
  input.window_base = {0};
  input.window_offset = {0, 1};
  input.window_blocks = {0};
  input.context_offset = {0, 1};
  input.context_blocks = {0};
  input.tokens = {5, 6, 7};
  input.sampling.resize(1);
  input.penalty_offset = {0, 0};
  input.bias_offset = {0, 0};
  input.mask_row = {-1};
  return input;
}

/// The calls of one layer's two sub-layers, its entry excluded.
std::vector<std::string> layer_calls(int layer, LayerKind kind, const std::string& streams) {
  const std::string number = std::to_string(layer);
  std::vector<std::string> calls{"project", "store " + number};
  if (kind != LayerKind::kSwa) calls.push_back("compress " + number + " to 512");
  calls.push_back("gather");
  if (kind == LayerKind::kCsa) calls.insert(calls.end(), {"compress " + number + " to 128", "select"});
  calls.insert(calls.end(), {"attend", "project_output", "reduce", "cross " + streams, "route", "experts", "reduce"});
  return calls;
}

void append(std::vector<std::string>& calls, const std::vector<std::string>& more) {
  calls.insert(calls.end(), more.begin(), more.end());
}

std::vector<std::string> draft_pass(int pass) {
  std::vector<std::string> calls{"draft_batch " + std::to_string(pass), "embed", "reduce",
                                 std::string("draft_input ") + (pass == 1 ? "trunk" : "draft") + " to draft", "enter draft"};
  append(calls, layer_calls(4, LayerKind::kSwa, "draft"));
  append(calls, {"leave draft", "logits draft", "sample"});
  return calls;
}

}  // namespace

std::unique_ptr<Ops> make_cpu_backend(const BackendOptions& options) { return std::make_unique<ScriptedOps>(options); }
std::unique_ptr<Ops> make_cuda_backend(const BackendOptions& options) { return std::make_unique<ScriptedOps>(options); }

TEST("a step runs trunk and draft passes in the model's order") {
  const auto model = load_tiny({.mtp = 2});
  model->allocate_cache(kPlan);
  model->step(small_step());
  std::vector<std::string> expected{"begin_step", "embed", "reduce", "spread", "enter trunk"};
  const std::vector<LayerKind> kinds{LayerKind::kSwa, LayerKind::kCsa, LayerKind::kHca, LayerKind::kCsa};
  for (int layer = 0; layer < 4; ++layer) {
    append(expected, layer_calls(layer, kinds[static_cast<size_t>(layer)], "trunk"));
    if (layer < 3) expected.push_back("cross trunk");
  }
  append(expected, {"leave trunk", "keep trunk", "logits trunk", "sample"});
  append(expected, draft_pass(1));
  append(expected, draft_pass(2));
  expected.push_back("finish_step");
  REQUIRE(script.calls.size() == expected.size());
  for (size_t i = 0; i < expected.size(); ++i) CHECK_EQ(script.calls[i], expected[i]);
}

TEST("draft passes behind the first are left out when no row samples") {
  const auto model = load_tiny({.mtp = 3});
  model->allocate_cache(kPlan);
  script.draft_tokens = 0;
  model->step(small_step());
  int drafted = 0;
  for (const std::string& call : script.calls) drafted += call.starts_with("draft_input") ? 1 : 0;
  CHECK_EQ(drafted, 1);
  CHECK_EQ(script.calls.back(), std::string("finish_step"));
}

TEST("warming up runs every shape of decode step that the cache has room for") {
  const auto model = load_tiny({.mtp = 2});
  model->allocate_cache({.slots = 3, .window_blocks = 4, .context_blocks = 4});
  // Positions 127 and 200 need blocks behind and before; four rows need more slots, three at 127 more blocks.
  script.shapes = {{1, 0}, {3, 0}, {2, 127}, {1, 200}, {2, 200}, {4, 0}, {3, 127}};
  model->warm_up();
  CHECK_EQ(std::count(script.calls.begin(), script.calls.end(), "finish_step"), 5);
}

TEST("a rank that fails ends the step on all ranks with its own error") {
  for (int failing = 0; failing < 4; ++failing) {
    const auto model = load_tiny({.tp = 4, .mtp = 1});
    model->allocate_cache(kPlan);
    model->step(small_step());
    script.failing_rank = failing;
    script.failure = ErrorCode::kDeviceLost;
    CHECK_THROWS_CODE(model->step(small_step()), ErrorCode::kDeviceLost, "the script says so");
    script.failing_rank = -1;
    CHECK_THROWS_CODE(model->step(small_step()), ErrorCode::kDeviceLost, "failed earlier", "the script says so");
  }
}

TEST("a refused plan and a refused allocation leave the model usable") {
  const auto model = load_tiny({.tp = 2});
  CHECK_THROWS_CODE(model->step(small_step()), ErrorCode::kInvalidPlan, "before the cache");
  script.fail_allocation = true;
  CHECK_THROWS_CODE(model->allocate_cache(kPlan), ErrorCode::kOutOfMemory, "no room");
  script.fail_allocation = false;
  model->allocate_cache(kPlan);
  StepInput wrong = small_step();
  wrong.tokens[1] = -1;
  CHECK_THROWS_CODE(model->step(wrong), ErrorCode::kInvalidPlan, "tokens[1] -1");
  CHECK(model->step(small_step()).micros >= 0);
}

TEST("ranks run jobs together and report the first failure") {
  RankSet ranks(3);
  std::atomic<int> ran = 0;
  ranks.run([&](int rank, RankState&) {
    ran += 1 << rank;
    ranks.group()->wait();
  });
  CHECK_EQ(ran.load(), 7);
  const auto failing = [&](int rank, RankState&) {
    if (rank == 1) throw std::bad_alloc();
    ranks.group()->wait();  // rank 1 never comes
  };
  CHECK_THROWS_CODE(ranks.run(failing), ErrorCode::kOutOfMemory, "rank 1");
  ran = 0;
  ranks.run([&](int, RankState&) {
    ranks.group()->wait();
    ++ran;
  });
  CHECK_EQ(ran.load(), 3);
}

TEST("collectives exchange pointers round after round") {
  RankSet ranks(3);
  std::atomic<int> wrong = 0;
  ranks.run([&](int rank, RankState&) {
    for (int round = 0; round < 2000; ++round) {
      int value = 3 * round + rank;
      const std::vector<void*>& all = ranks.group()->enter(rank, &value);
      for (int other = 0; other < 3; ++other) wrong += *static_cast<int*>(all[static_cast<size_t>(other)]) != 3 * round + other;
      ranks.group()->leave();
    }
  });
  CHECK_EQ(wrong.load(), 0);
}

TEST("a failure is told to listeners once, and so is that it is forgotten") {
  RankSet ranks(2);
  std::vector<bool> heard;
  const int listener = ranks.group()->listen([&](bool failed) { heard.push_back(failed); });
  const auto failing = [&](int rank, RankState&) {
    if (rank == 1) throw Error(ErrorCode::kOutOfMemory, "no room");
    ranks.group()->wait();
  };
  CHECK_THROWS_CODE(ranks.run(failing), ErrorCode::kOutOfMemory, "no room");
  CHECK(heard == (std::vector<bool>{true, false}));
  ranks.group()->leave_alone(listener);
  CHECK_THROWS_CODE(ranks.run(failing), ErrorCode::kOutOfMemory, "no room");
  CHECK_EQ(heard.size(), 2);
}

TEST("weights that a device has no room for are refused before they are loaded, with both numbers") {
  const std::string tiny = std::string(TWELVEX_ROOT) + "/test/oracle/tiny";
  script = Script{};
  bool loading = false;
  const Model::Progress note = [&](double, const std::string&) { loading = true; };
  CHECK_THROWS_CODE(Model::load(tiny, {.device = Device::kCuda, .devices = {3, 3}, .tp = 2}, note), ErrorCode::kOutOfMemory,
                    "weights of 2 of 2 ranks need 5 MiB on device 3", "0 of 1024 MiB are free");
  CHECK(!loading);
}

TEST("a load that is abandoned from its progress report ends with that error") {
  const Model::Progress abandon = [](double, const std::string&) { throw Error(ErrorCode::kClosed, "enough"); };
  const std::string tiny = std::string(TWELVEX_ROOT) + "/test/oracle/tiny";
  CHECK_THROWS_CODE(Model::load(tiny, {.tp = 2}, abandon), ErrorCode::kClosed, "enough");
}

}  // namespace twelvex
