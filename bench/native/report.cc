// SPDX-License-Identifier: MIT
#include "report.h"

#include <algorithm>
#include <cstring>

namespace twelvex::bench {

namespace {

constexpr double kMarkFlops = 350e12;  // "at 350 TFLOP/s", the mark's reference rate

/// What a layer does beside attention proper.
bool attends(const std::string& op) { return op == "attend"; }
bool selects(const std::string& op) { return op == "select"; }

}  // namespace

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

double layers_of(const ModelConfig& config, Group group) {
  if (group > Group::kHca) return 1;
  return static_cast<double>(std::count(config.layers.begin(), config.layers.end(), static_cast<LayerKind>(group)));
}

OpTotal& OpTable::total(const Sample& sample) {
  for (OpTotal& t : totals_) {
    if (t.op == sample.op && t.group == sample.group) return t;
  }
  OpTotal fresh;
  fresh.op = sample.op;
  fresh.group = sample.group;
  totals_.push_back(fresh);
  return totals_.back();
}

void OpTable::add(const BenchEngine& engine, const std::vector<std::vector<Sample>>& runs) {
  for (size_t i = 0; i < runs.front().size(); ++i) {
    std::vector<double> times;
    for (const auto& run : runs) {
      if (run.size() == runs.front().size()) times.push_back(run[i].us);
    }
    const Sample& sample = runs.front()[i];
    OpTotal& t = total(sample);
    t.us += median(times);
    t.calls += 1;
    t.cost += op_cost(engine.config(), engine.rank_shape(), sample, engine.shape());
  }
}

double OpTable::total_us() const {
  double us = 0;
  for (const OpTotal& t : totals_) us += t.us;
  return us;
}

Cost OpTable::layer_cost(const BenchEngine& engine, Group group) const {
  Cost sum;
  for (const OpTotal& t : totals_) {
    if (t.group == group) sum += t.cost;
  }
  const double layers = layers_of(engine.config(), group);
  return {.flops = sum.flops / layers, .bytes = sum.bytes / layers};
}

double OpTable::whole_model_us(const BenchEngine& engine) const {
  double us = 0;
  for (const OpTotal& t : totals_) {
    const double measured = layers_of(engine.config(), t.group);
    if (measured > 0) us += t.us / measured * layers_of(engine.whole_config(), t.group);
  }
  return us;
}

void OpTable::print_marks(const BenchEngine& engine, Group group, double copy) const {
  const double layers = layers_of(engine.config(), group);
  double us = 0, bytes = 0, beside_us = 0, beside_flops = 0, rest_us = 0, rest_flops = 0;
  for (const OpTotal& t : totals_) {
    if (t.group != group) continue;
    us += t.us / layers;
    bytes += t.cost.bytes / layers;
    if (attends(t.op)) continue;
    beside_us += t.us / layers;
    beside_flops += t.cost.flops / layers;
    if (selects(t.op)) continue;
    rest_us += t.us / layers;
    rest_flops += t.cost.flops / layers;
  }
  if (us == 0) return;
  std::printf("  %-11s layer %9.1f us, %.1f MB at %.1f %% of the copy", group_name(group), us, bytes / 1e6,
              bytes / (us * 1e-6) / copy * 100);
  if (beside_flops / kMarkFlops > 0.1 * beside_us * 1e-6) {  // else bytes bound it
    std::printf("; without attend %.1f us = %.2f x its FLOPs at 350 T, also without select %.1f us = %.2f x", beside_us,
                beside_us * 1e-6 * kMarkFlops / beside_flops, rest_us, rest_us * 1e-6 * kMarkFlops / rest_flops);
  }
  std::printf("\n");
}

void OpTable::print(const BenchEngine& engine, double copy) const {
  std::printf("  %-11s %-17s %6s %10s %9s %9s %9s %8s %6s\n", "layer", "operation", "calls", "us a layer", "GFLOP", "TFLOP/s",
              "MB", "GB/s", "% copy");
  std::vector<OpTotal> sorted = totals_;
  std::stable_sort(sorted.begin(), sorted.end(), [](const OpTotal& a, const OpTotal& b) { return a.group < b.group; });
  for (const OpTotal& t : sorted) {
    const double n = layers_of(engine.config(), t.group), us = t.us / n;
    if (us < 0.05) continue;  // nothing was queued
    std::printf("  %-11s %-17s %6.0f %10.1f %9.2f %9.1f %9.1f %8.0f %6.1f\n", group_name(t.group), t.op.c_str(), t.calls, us,
                t.cost.flops / n / 1e9, t.cost.flops / t.us * 1e-6, t.cost.bytes / n / 1e6, t.cost.bytes / t.us * 1e-3,
                t.cost.bytes / (t.us * 1e-6) / copy * 100);
  }
  for (const Group group : {Group::kSwa, Group::kCsa, Group::kHca, Group::kDraftLayer}) print_marks(engine, group, copy);
  std::printf("  sum of operations %.2f ms for %d layers; model: %.2f ms for %d layers\n", total_us() / 1e3,
              engine.config().num_layers, whole_model_us(engine) / 1e3, engine.whole_config().num_layers);
}

void OpTable::write_json(std::FILE* file, const BenchEngine& engine, const std::string& labels) const {
  if (file == nullptr) return;
  for (const OpTotal& t : totals_) {
    const double n = layers_of(engine.config(), t.group);
    std::fprintf(file, "{\"kind\":\"op\",%s,\"layer\":\"%s\",\"layers\":%.0f,\"whole\":%.0f,", labels.c_str(),
                 group_name(t.group), n, layers_of(engine.whole_config(), t.group));
    std::fprintf(file, "\"op\":\"%s\",\"us\":%.2f,\"flops\":%.6g,\"bytes\":%.6g}\n", t.op.c_str(), t.us / n, t.cost.flops / n,
                 t.cost.bytes / n);
  }
}

}  // namespace twelvex::bench
