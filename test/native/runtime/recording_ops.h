// SPDX-License-Identifier: MIT
// A backend that only keeps what the loader hands it, dequantised.
#pragma once

#include <deque>
#include <string>
#include <vector>

#include "runtime/ops.h"

namespace twelvex::check {

struct RecordedMatrix {
  int64_t rows = 0, cols = 0;
  std::vector<float> values;  // [rows, cols]

  float at(int64_t row, int64_t col) const { return values[static_cast<size_t>(row * cols + col)]; }
};

/// Decodes a view element by element, from the encodings of spec/checkpoint.md (b).
RecordedMatrix dequantised(const MatrixView& view);

struct RecordedExpert {
  RecordedMatrix w1, w3;
  Parts<RecordedMatrix> w2;
};

class RecordingOps : public Ops {
 public:
  static const RecordedMatrix& of(const Linear& linear) { return *static_cast<const RecordedMatrix*>(linear.data); }
  static const RecordedMatrix& of(const Array& array) { return *static_cast<const RecordedMatrix*>(array.data); }
  static const std::vector<RecordedExpert>& of(const Experts& experts) {
    return *static_cast<const std::vector<RecordedExpert>*>(experts.extra);
  }

  Linear linear(const MatrixView& view) override {
    return {view.format, view.rows, view.cols, keep(dequantised(view)), nullptr};
  }
  Array vector(const MatrixView& view) override { return {keep(dequantised(view)), 0}; }
  Array matrix_f32(const MatrixView& view) override { return {keep(dequantised(view)), 0}; }
  Array hyper_matrix(const MatrixView& view) override { return matrix_f32(view); }
  Array token_table(std::span<const int32_t> table) override {
    return {keep({1, static_cast<int64_t>(table.size()), std::vector<float>(table.begin(), table.end())}), 0};
  }
  Experts experts(std::span<const ExpertView> views) override {
    std::vector<RecordedExpert>& kept = experts_.emplace_back();
    for (const ExpertView& view : views) {
      kept.push_back({dequantised(view.w1), dequantised(view.w3), {dequantised(view.w2[0]), dequantised(view.w2[1])}});
    }
    return {static_cast<int>(views.size()), {}, {}, &kept};
  }

  Memory memory() override { return {}; }
  Activations reserve(const Limits&) override { return {}; }
  void allocate_cache(const CacheLayout&, const CachePlan&) override {}
  Batch begin_step(const StepInput&) override { return {}; }
  Batch draft_batch(int) override { return {}; }
  void finish_step(StepOutput&) override {}
  void embed(const Batch&, const ModelWeights&, Array) override {}
  void spread(const Batch&, Array, Array) override {}
  void hyper_enter(const Batch&, const HyperWeights&, Array, Array, Array, Array) override {}
  void hyper_leave(const Batch&, Array, Array, Array) override {}
  void project_query_kv(const Batch&, int, const AttentionWeights&, Array, Array, Array, Array) override {}
  void store_window(const Batch&, int, Array) override {}
  void compress(const Batch&, int, const CompressorWeights&, Array) override {}
  void select(const Batch&, int, const IndexerWeights&, Array, Array, Array) override {}
  void attend(const Batch&, int, const AttentionWeights&, Array, Array, Array) override {}
  void project_output(const Batch&, const AttentionWeights&, Array, Array) override {}
  void route(const Batch&, const MoeWeights&, Array, Array) override {}
  void run_experts(const Batch&, const MoeWeights&, Array, Array, Array) override {}
  void all_reduce(const Batch&, Array) override {}
  void keep_streams(const Batch&, Array) override {}
  void logits(const Batch&, const HeadWeights&, const Linear&, Array, Array) override {}
  void sample(const Batch&, Array) override {}
  void draft_input(const Batch&, const MtpWeights&, Array, Array, Array) override {}

 private:
  RecordedMatrix* keep(RecordedMatrix matrix) { return &matrices_.emplace_back(std::move(matrix)); }

  std::deque<RecordedMatrix> matrices_;
  std::deque<std::vector<RecordedExpert>> experts_;
};

/// How a weight is shared by ranks.
enum class Split { kNone, kRows, kCols };

struct RecordedWeight {
  std::string name;  // of the checkpoint, without ".weight"
  Split split = Split::kNone;
  std::vector<const RecordedMatrix*> parts;  // of this rank: one, or those of Parts that are not empty
};

/// Parts put together again. Throws kInternal when replicas differ.
RecordedMatrix joined(const std::vector<const RecordedMatrix*>& parts, Split split);

/// Every weight of a model that was loaded into a RecordingOps, under its checkpoint name.
std::vector<RecordedWeight> recorded_weights(const ModelWeights& weights, bool with_mtp);

}  // namespace twelvex::check
