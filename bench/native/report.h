// SPDX-License-Identifier: MIT
// Times of a step's operations, summed by operation and layer kind, as tables and JSON lines.
#pragma once

#include <cstdio>
#include <string>
#include <vector>

#include "bench_engine.h"

namespace twelvex::bench {

/// One operation in the layers of one group.
struct OpTotal {
  std::string op;
  Group group = Group::kEnds;
  double calls = 0;
  double us = 0;
  Cost cost;
};

class OpTable {
 public:
  /// Adds a step: each operation's median over `runs` (the same operations every time).
  void add(const BenchEngine& engine, const std::vector<std::vector<Sample>>& runs);

  double total_us() const;
  /// Of one layer of the group.
  Cost layer_cost(const BenchEngine& engine, Group group) const;
  /// Microseconds that the whole model would take: layers by kind times their number, and what is outside of layers.
  double whole_model_us(const BenchEngine& engine) const;
  /// `copy`: bytes per second of a device copy.
  void print(const BenchEngine& engine, double copy) const;
  void write_json(std::FILE* file, const BenchEngine& engine, const std::string& labels) const;

 private:
  OpTotal& total(const Sample& sample);
  void print_marks(const BenchEngine& engine, Group group, double copy) const;

  std::vector<OpTotal> totals_;
};

double median(std::vector<double> values);

/// Layers of a group in a configuration; 1 for what is outside of layers.
double layers_of(const ModelConfig& config, Group group);

}  // namespace twelvex::bench
