// SPDX-License-Identifier: MIT
// Whether the gather of a csa layer really runs beside the indexer, by events on both queues, and what that gains: Flash's
// shapes with dummy weights, cut to its first csa layer, prompts in chunks. Run from the repository's root.
#include "backend.h"
#include "bare_model.h"
#include "runtime/error.h"
#include "support.h"

using namespace twelvex;
using namespace twelvex::test;

namespace {

class TimedEvent {
 public:
  TimedEvent() { check(cudaEventCreate(&event_), "cudaEventCreate"); }
  ~TimedEvent() { cudaEventDestroy(event_); }
  TimedEvent(const TimedEvent&) = delete;
  void record(cudaStream_t queue) { check(cudaEventRecord(event_, queue), "cudaEventRecord"); }
  double us_since(const TimedEvent& earlier) const {
    float ms = 0;
    check(cudaEventElapsedTime(&ms, earlier.event_, event_), "cudaEventElapsedTime");
    return ms * 1000;
  }

 private:
  cudaEvent_t event_;
};

enum class Way { kBeside, kInLine, kJoined };  // kJoined: on its own queue, with nothing beside it

/// Records when gather, indexer and the whole section of the (only) csa layer begin and end.
class TimedOps : public cuda::CudaOps {
 public:
  using CudaOps::CudaOps;

  void begin_gather(const Batch& batch, int layer, LayerKind kind) override {
    if (kind != LayerKind::kCsa) return CudaOps::begin_gather(batch, layer, kind);
    section_begin.record(queue_);
    gather_begun_ = false;
    if (way == Way::kInLine) return;
    // Behind the same wait as the gather, so at most as late as its begin.
    check(cudaEventRecord(rows_stored_, queue_), "cudaEventRecord");
    check(cudaStreamWaitEvent(gather_queue_, rows_stored_), "cudaStreamWaitEvent");
    gather_begin.record(gather_queue_);
    CudaOps::begin_gather(batch, layer, kind);
    gather_end.record(gather_queue_);
    if (way == Way::kJoined) check(cudaStreamWaitEvent(queue_, gathered_), "cudaStreamWaitEvent");
  }

  void compress(const Batch& batch, int layer, const CompressorWeights& weights, Array hidden) override {
    if (weights.dim == kIndexDim) indexer_begin.record(queue_);
    CudaOps::compress(batch, layer, weights, hidden);
  }

  void select(const Batch& batch, int layer, const IndexerWeights& weights, Array hidden, Array latent,
              Array selection) override {
    CudaOps::select(batch, layer, weights, hidden, latent, selection);
    indexer_end.record(queue_);
  }

  void attend(const Batch& batch, int layer, const AttentionWeights& weights, Array query, Array selection,
              Array attended) override {
    CudaOps::attend(batch, layer, weights, query, selection, attended);
    if (weights.kind == LayerKind::kCsa) section_end.record(queue_);
  }

  Way way = Way::kBeside;
  TimedEvent section_begin, section_end, gather_begin, gather_end, indexer_begin, indexer_end;
};

/// Microseconds.
struct Section {
  double whole = 0;    // begin_gather to the end of attention
  double gather = 0;
  double indexer = 0;  // its compressor, scores and selection
  double both = 0;     // in which gather and indexer both ran
};

Section section_of(const TimedOps& ops) {
  const TimedEvent& zero = ops.section_begin;
  Section s;
  s.whole = ops.section_end.us_since(zero);
  const double indexer_begin = ops.indexer_begin.us_since(zero), indexer_end = ops.indexer_end.us_since(zero);
  s.indexer = indexer_end - indexer_begin;
  if (ops.way == Way::kInLine) return s;
  const double gather_begin = ops.gather_begin.us_since(zero), gather_end = ops.gather_end.us_since(zero);
  s.gather = gather_end - gather_begin;
  s.both = std::min(gather_end, indexer_end) - std::max(gather_begin, indexer_begin);
  return s;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

}  // namespace

int main(int argc, char** argv) {
  start("overlap", argc, argv);
  try {
    BareOptions options;
    options.layers = 3;  // window, window, csa
    options.dummy = true;
    options.rows = RowFormat::kFp8;
    options.numerics = Numerics::kServed;
    const int chunk = brief ? 32 : 4096, steps = brief ? 1 : 16, rounds = brief ? 0 : 5, longest = steps * chunk;
    options.limits = {.step_tokens = chunk, .rows = 4, .context_tokens = longest, .mtp = 0};
    BareModel<TimedOps> model(brief ? "models/demo" : "models/flash", options);
    std::vector<int32_t> tokens;
    for (int i = 0; i < longest; ++i) tokens.push_back(below(model.config.vocab_size));
    std::vector<std::vector<Section>> sections[3];  // by way and step
    for (auto& of_way : sections) of_way.resize(static_cast<size_t>(steps));
    bool counted = true;
    for (int round = 0; round < 3 * (rounds + 1); ++round) {
      model.ops.way = static_cast<Way>(round % 3);
      const bool in_line = model.ops.way == Way::kInLine;
      for (int i = 0; i < steps; ++i) {
        const StepOutput out = model.prefill(tokens, i * chunk, chunk, 0);
        counted &= out.gathers_overlapped == !in_line && out.gathers_inline == in_line;
        if (round >= 3) sections[round % 3][i].push_back(section_of(model.ops));  // the first warm up
      }
    }
    expect(counted, "counters say which way each gather went");
    if (brief) return finish("overlap");
    std::printf("  medians in us: of gather and indexer alone, together, and of the layer from gather to attention\n");
    std::printf("  %8s %8s %8s | %8s %8s %8s | %8s %8s %8s\n", "context", "gather", "indexer", "gather", "indexer", "both",
                "in line", "beside", "gain");
    bool overlaps = true;
    for (int i = 0; i < steps; ++i) {
      const auto of = [&](Way way, double Section::* field) {
        std::vector<double> values;
        for (const Section& s : sections[static_cast<int>(way)][i]) values.push_back(s.*field);
        return median(values);
      };
      for (const Section& s : sections[0][i]) overlaps &= s.both > 0.9 * s.gather;
      for (const Section& s : sections[2][i]) overlaps &= s.both < 0.5 * s.gather;  // the events' own few microseconds
      if (((i + 1) & i) != 0) continue;  // print powers of two
      const double fast = of(Way::kBeside, &Section::whole), slow = of(Way::kInLine, &Section::whole);
      std::printf("  %8d %8.1f %8.1f | %8.1f %8.1f %8.1f | %8.1f %8.1f %7.2f%%\n", (i + 1) * chunk,
                  of(Way::kJoined, &Section::gather), of(Way::kJoined, &Section::indexer), of(Way::kBeside, &Section::gather),
                  of(Way::kBeside, &Section::indexer), of(Way::kBeside, &Section::both), slow, fast, (slow - fast) / slow * 100);
    }
    expect(overlaps, "gather and indexer of one layer run at the same time in every step, and never when joined at once");
  } catch (const Error& error) {
    expect(false, error.what());
  }
  return finish("overlap");
}
