// SPDX-License-Identifier: MIT
#include "bench_engine.h"

#include <algorithm>
#include <chrono>

#include "bench_kernels.h"
#include "cuda/backend.h"
#include "runtime/checkpoint.h"
#include "runtime/dummy.h"
#include "runtime/error.h"
#include "runtime/shard.h"
#include "runtime/weights.h"

namespace twelvex::bench {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

/// A rank of several whose exchanges are left out: its group has one member, so they have nothing to do.
class AloneOps final : public cuda::CudaOps {
 public:
  explicit AloneOps(const BackendOptions& options) : CudaOps(options) { overlap_reductions_ = false; }

  Activations reserve(const Limits& limits) override {
    const Activations activations = CudaOps::reserve(limits);
    for (cuda::PeerPointers* peers : {&output_peers_, &logits_peers_, &selection_peers_}) {
      peers->at[options_.shape.rank] = peers->at[0];  // the group's only member
    }
    return activations;
  }
};

int first_window_block(const Sequence& s) { return std::max(0, s.done - (kWindow - 1)) / kBlockTokens; }

double sum_of(const std::map<std::string, size_t>& purposes, int ranks) {
  double bytes = 0;
  for (const auto& [purpose, count] : purposes) bytes += static_cast<double>(count);
  return bytes / ranks;
}

}  // namespace

BenchEngine::BenchEngine(const EngineOptions& options) : options_(options), ranks_(options.alone ? 1 : options.tp) {
  whole_ = read_config(options.model);
  config_ = whole_.first_layers(options.layers);
  limits_ = {.step_tokens = options.step_tokens, .rows = options.max_rows, .context_tokens = options.context_tokens,
             .mtp = options.mtp};
  layout_ = CacheLayout::make(config_, options.rows, options.mtp > 0, 2);
  outputs_.resize(static_cast<size_t>(ranks_.size()));
  timed_.resize(static_cast<size_t>(ranks_.size()));
  load();
  allocate_cache();
}

void BenchEngine::load() {
  const auto begin = Clock::now();
  source_ = make_dummy_source(config_, 0);
  ranks_.run([&](int rank, RankState& state) {
    const RankShape shape{.rank = options_.alone ? options_.tp - 1 : rank, .ranks = options_.tp};
    BackendOptions backend{.config = config_, .shape = shape, .group = ranks_.group(), .numerics = options_.numerics,
                           .rows = options_.rows, .with_mtp = options_.mtp > 0};
    backend.device = options_.devices.empty() ? rank : options_.devices[static_cast<size_t>(rank)];
    auto timed = options_.alone ? std::make_unique<TimedOps>(std::make_unique<AloneOps>(backend), config_, shape)
                                : std::make_unique<TimedOps>(make_cuda_backend(backend), config_, RankShape{});
    if (options_.stamps) timed->stamp_layers();
    timed_[static_cast<size_t>(rank)] = timed.get();
    state.ops = std::move(timed);
    state.weights = load_weights({.config = config_, .source = *source_, .shape = shape, .with_mtp = options_.mtp > 0,
                                  .progress = {}},
                                 *state.ops);
    ranks_.group()->wait();
    if (rank == 0) {
      load_seconds = seconds_since(begin);
      for (const auto& [purpose, bytes] : device_memory()) {
        if (purpose != "staging") memory_bytes["weights"] += static_cast<double>(bytes) / ranks_.size();
      }
    }
    ranks_.group()->wait();
    state.activations = state.ops->reserve(limits_);
  });
  const auto all = device_memory();
  for (const char* purpose : {"the KV gather workspace", "the scratch buffers", "indexer scores", "logits", "adjusted logits",
                              "residual streams", "draft streams", "queries", "attention outputs"}) {
    const auto at = all.find(purpose);
    if (at != all.end()) memory_bytes[purpose] = static_cast<double>(at->second) / ranks_.size();
  }
  double named = 0;
  for (const auto& [kind, bytes] : memory_bytes) named += bytes;
  const auto staging = all.find("staging");
  const double passing = staging == all.end() ? 0 : static_cast<double>(staging->second) / ranks_.size();
  memory_bytes["other buffers"] = sum_of(all, ranks_.size()) - passing - named;
}

void BenchEngine::allocate_cache() {
  const int tokens = options_.cached_tokens > 0 ? options_.cached_tokens : options_.context_tokens;
  const int window = options_.step_tokens / kBlockTokens + 4 + options_.max_rows * 4;
  const int context = tokens / kBlockTokens + options_.max_rows * 2;
  for (int i = window; i-- > 0;) free_window_.push_back(i);
  for (int i = context; i-- > 0;) free_context_.push_back(i);
  ranks_.run([&](int, RankState& state) {
    state.ops->allocate_cache(layout_, {.slots = options_.max_rows, .window_blocks = window, .context_blocks = context});
  });
  memory_bytes["cache: window blocks"] = static_cast<double>(layout_.window_block_bytes) * window;
  memory_bytes["cache: context blocks"] = static_cast<double>(layout_.context_block_bytes) * context;
  memory_bytes["cache: slots"] = static_cast<double>(layout_.slot_bytes) * options_.max_rows;
}

Sequence BenchEngine::start(int slot, uint64_t seed) const {
  if (slot >= options_.max_rows) {
    throw Error(ErrorCode::kBadOptions, "more than " + std::to_string(options_.max_rows) + " streams; raise --max-rows");
  }
  Sequence sequence;
  sequence.slot = slot;
  sequence.seed = seed;
  return sequence;
}

void BenchEngine::end(Sequence& s) {
  for (const auto& [logical, block] : s.window) free_window_.push_back(block);
  free_context_.insert(free_context_.end(), s.context.begin(), s.context.end());
  s = {};
}

void BenchEngine::drop_window(Sequence& s) {
  while (!s.window.empty() && s.window.begin()->first < first_window_block(s)) {
    free_window_.push_back(s.window.begin()->second);
    s.window.erase(s.window.begin());
  }
}

int32_t BenchEngine::token(const Sequence& sequence, int position) const {
  const ShardRange ids = options_.alone ? shard_vocab(config_, rank_shape()) : ShardRange{0, config_.vocab_size};
  uint64_t x = sequence.seed * 0x9e3779b97f4a7c15u + static_cast<uint64_t>(position) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 31)) * 0x94d049bb133111ebu;
  return static_cast<int32_t>(static_cast<uint64_t>(ids.begin) + (x ^ (x >> 29)) % static_cast<uint64_t>(ids.size()));
}

int32_t BenchEngine::take_block(std::vector<int32_t>& free, const char* what) {
  if (free.empty()) throw Error(ErrorCode::kOutOfMemory, std::string("no ") + what + " block is left; raise --cached");
  const int32_t block = free.back();
  free.pop_back();
  return block;
}

void BenchEngine::hold_blocks(StepInput& in, Sequence& s, int count) {
  const int base = first_window_block(s), last = (s.done + count - 1 + options_.mtp) / kBlockTokens;
  for (int b = base; b <= last; ++b) {
    if (!s.window.contains(b)) s.window[b] = take_block(free_window_, "window");
    in.window_blocks.push_back(s.window[b]);
  }
  while (static_cast<int>(s.context.size()) <= (s.done + count - 1) / kBlockTokens) {
    s.context.push_back(take_block(free_context_, "context"));
  }
  const auto used = static_cast<int64_t>((s.done + count - 1) / kBlockTokens + 1);
  in.context_blocks.insert(in.context_blocks.end(), s.context.begin(), s.context.begin() + used);
  in.window_base.push_back(base);
  in.window_offset.push_back(static_cast<int32_t>(in.window_blocks.size()));
  in.context_offset.push_back(static_cast<int32_t>(in.context_blocks.size()));
}

void BenchEngine::add_row(StepInput& in, const Row& row) {
  Sequence& s = *row.sequence;
  const bool decode = row.count == 0;
  const int drafts = decode ? static_cast<int>(s.drafts.size()) : 0, count = decode ? 1 + drafts : row.count;
  in.slot.push_back(s.slot);
  in.position.push_back(s.done);
  in.count.push_back(count);
  in.drafts.push_back(drafts);
  in.next_token.push_back(row.samples ? -1 : token(s, s.done + count));
  in.flags.push_back(row.samples ? kRowSample : 0);
  hold_blocks(in, s, count);
  if (decode) {
    in.tokens.push_back(s.last);
    in.tokens.insert(in.tokens.end(), s.drafts.begin(), s.drafts.end());
  } else {
    for (int i = 0; i < count; ++i) in.tokens.push_back(token(s, s.done + i));
  }
  shape_.rows.push_back({s.done, count});
  if (row.samples) shape_.sampled += 1 + drafts;
}

StepTimes BenchEngine::step(const std::vector<Row>& rows, bool graphs) {
  StepInput in;
  in.window_offset = in.context_offset = in.penalty_offset = in.bias_offset = {0};
  shape_ = {};
  for (const Row& row : rows) {
    add_row(in, row);
    if (!row.samples) continue;
    SamplingParams greedy;
    greedy.temperature = 0;
    greedy.logprobs = graphs ? -1 : 0;
    in.sampling.push_back(greedy);
    in.penalty_offset.push_back(0);
    in.bias_offset.push_back(0);
    in.mask_row.push_back(-1);
  }
  const auto begin = Clock::now();
  ranks_.run([&](int rank, RankState& state) {
    forward_step({.ops = *state.ops, .config = config_, .weights = state.weights, .activations = state.activations,
                  .mtp = options_.mtp},
                 in, outputs_[static_cast<size_t>(rank)]);
  });
  StepTimes times{.wall_ms = seconds_since(begin) * 1e3};
  const StepOutput& out = outputs_[0];
  const auto places = static_cast<size_t>(1 + options_.mtp), drafts = static_cast<size_t>(options_.mtp);
  size_t sampled = 0;
  for (const Row& row : rows) {
    Sequence& s = *row.sequence;
    s.done += row.count;
    drop_window(s);
    if (!row.samples) continue;
    const auto accepted = static_cast<size_t>(out.accepted_count[sampled]);
    if (row.count == 0) s.done += static_cast<int>(accepted);
    s.last = out.accepted[sampled * places + accepted - 1];
    const auto first = out.drafts.begin() + static_cast<int64_t>(sampled * drafts);
    s.drafts.assign(first, first + static_cast<int64_t>(drafts));
    times.accepted += static_cast<double>(accepted);
    ++sampled;
  }
  if (sampled > 0) times.accepted /= static_cast<double>(sampled);
  return times;
}

double BenchEngine::prefill(Sequence& sequence, int count, bool samples) {
  double ms = 0;
  while (count > 0) {
    const int chunk = std::min(count, options_.step_tokens);
    count -= chunk;
    ms += step({{&sequence, chunk, samples && count == 0}}).wall_ms;
  }
  return ms;
}

void BenchEngine::time_steps(bool on, double head_start_us) {
  for (TimedOps* timed : timed_) timed->time_steps(on, head_start_us);
}

const std::vector<Sample>& BenchEngine::samples() const { return timed_[0]->samples(); }

std::vector<Memory> BenchEngine::memory() {
  std::vector<Memory> all(static_cast<size_t>(ranks_.size()));
  ranks_.run([&](int rank, RankState& state) { all[static_cast<size_t>(rank)] = state.ops->memory(); });
  return all;
}

}  // namespace twelvex::bench
