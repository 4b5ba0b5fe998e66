// SPDX-License-Identifier: MIT
#include "layer_times.h"

#include <algorithm>
#include <memory>
#include <numeric>

#include "report.h"
#include "runtime/checkpoint.h"
#include "runtime/error.h"

namespace twelvex::bench {

namespace {

constexpr int kRounds = 6, kSteps = 200;

/// The first layers of the model, with streams to decode.
struct Cut {
  std::unique_ptr<BenchEngine> engine;
  std::vector<Sequence> sequences;
  std::vector<BenchEngine::Row> rows;  // of those, wherever a cut is moved to
  std::vector<double> rounds;  // microseconds of all its layers
  double us = 0;
};

Cut make_cut(EngineOptions options, int layers, int streams, int context) {
  options.layers = layers;
  options.stamps = true;
  Cut cut;
  cut.engine = std::make_unique<BenchEngine>(options);
  for (int s = 0; s < streams; ++s) cut.sequences.push_back(cut.engine->start(s, 1000 + static_cast<uint64_t>(s)));
  for (Sequence& s : cut.sequences) {
    cut.engine->prefill(s, context);
    cut.rows.push_back({&s, 0, true});
  }
  for (int i = 0; i < 8; ++i) cut.engine->step(cut.rows);  // captures the graph
  return cut;
}

/// The middle half of so many steps, its mean. Every round computes the same positions.
double time_round(Cut& cut, int context) {
  for (Sequence& s : cut.sequences) s.done = context;
  std::vector<double> us;
  for (int i = 0; i < kSteps; ++i) {
    cut.engine->step(cut.rows);
    us.push_back(cut.engine->layers_us());
  }
  std::sort(us.begin(), us.end());
  return std::accumulate(us.begin() + kSteps / 4, us.end() - kSteps / 4, 0.0) / (kSteps / 2);
}

/// What a layer of that kind moves in the last step.
double bytes_of(Cut& cut, Group group) {
  cut.engine->time_steps(true, 0);
  cut.engine->step(cut.rows, false);
  OpTable table;
  table.add(*cut.engine, {cut.engine->samples()});
  cut.engine->time_steps(false, 0);
  return table.layer_cost(*cut.engine, group).bytes;
}

/// Cuts needed: until every kind that the model has is the last layer of one that is not the first.
int count_cuts(const ModelConfig& config) {
  int last = 0;
  for (const LayerKind kind : {LayerKind::kSwa, LayerKind::kCsa, LayerKind::kHca}) {
    const auto found = std::find(config.layers.begin() + 1, config.layers.end(), kind);
    if (found != config.layers.end()) last = std::max(last, static_cast<int>(found - config.layers.begin()) + 1);
  }
  return last;
}

}  // namespace

void run_layer_times(EngineOptions options, int streams, int context, double copy, std::FILE* json, const std::string& labels) {
  const ModelConfig config = read_config(options.model);
  if (config.num_layers < 2) throw Error(ErrorCode::kBadOptions, "layers: needs a model of two layers or more, this one has one");
  std::vector<Cut> cuts;
  for (int layers = 1; layers <= count_cuts(config); ++layers) cuts.push_back(make_cut(options, layers, streams, context));
  for (int round = 0; round < kRounds; ++round) {
    for (Cut& cut : cuts) cut.rounds.push_back(time_round(cut, context));
  }
  for (size_t i = 0; i < cuts.size(); ++i) {
    Cut& cut = cuts[i];
    cut.us = median(cut.rounds);
    const auto [low, high] = std::minmax_element(cut.rounds.begin(), cut.rounds.end());
    std::printf("  %zu layer%s %9.2f us (%d rounds of %d steps, %.2f to %.2f)", i + 1, i == 0 ? ", " : "s,", cut.us, kRounds,
                kSteps, *low, *high);
    if (i > 0) {
      const auto group = static_cast<Group>(config.layers[i]);
      const double us = cut.us - cuts[i - 1].us, bytes = bytes_of(cut, group), share = bytes / (us * 1e-6) / copy * 100;
      std::printf("; the last, %s: %.2f us, %.1f MB at %.1f %% of the copy", group_name(group), us, bytes / 1e6, share);
      if (json) {
        std::fprintf(json, "{\"kind\":\"layer\",%s,\"streams\":%d,\"context\":%d,\"layers\":%zu,\"layer\":\"%s\",",
                     labels.c_str(), streams, context, i + 1, group_name(group));
        std::fprintf(json, "\"layers_us\":%.3f,\"us\":%.3f,\"bytes\":%.0f}\n", cut.us, us, bytes);
      }
    }
    std::printf("\n");
  }
}

}  // namespace twelvex::bench
