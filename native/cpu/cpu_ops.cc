// SPDX-License-Identifier: MIT
// Loading, step bookkeeping and the reduction over ranks.
#include "cpu_ops.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "number_formats.h"

namespace twelvex {

std::unique_ptr<Ops> make_cpu_backend(const BackendOptions& options) { return std::make_unique<cpu::CpuOps>(options); }

namespace cpu {

CpuOps::CpuOps(const BackendOptions& options, const Kernels& kernels)
    : options_(options),
      config_(options_.config),
      kernels_(kernels),
      served_(options.numerics == Numerics::kServed),
      rope_(options.config),
      pool_(std::max(1, options.threads)) {
  // Panels hold 32 outputs; a group's rows of wo_a start on a panel. Vectors of 16 floats.
  if (config_.o_lora_rank % kPanel != 0 || config_.hidden_size % 16 != 0 || config_.moe_intermediate_size % 16 != 0) {
    throw Error(ErrorCode::kUnsupported,
                "the CPU backend needs o_lora_rank in multiples of 32, hidden_size and moe_intermediate_size "
                "in multiples of 16; got " +
                    std::to_string(config_.o_lora_rank) + ", " + std::to_string(config_.hidden_size) + ", " +
                    std::to_string(config_.moe_intermediate_size));
  }
}

Array CpuOps::floats(size_t count) { return {heap_.bytes(count * sizeof(float)), count * sizeof(float)}; }

Linear CpuOps::linear(const MatrixView& view) { return pack(heap_, view); }

Array CpuOps::vector(const MatrixView& view) { return matrix_f32(view); }

Array CpuOps::matrix_f32(const MatrixView& view) {
  const Array array = floats(static_cast<size_t>(view.rows * view.cols));
  for (int64_t row = 0; row < view.rows; ++row) read_row(view, row, floats_of(array) + row * view.cols);
  return array;
}

Array CpuOps::token_table(std::span<const int32_t> table) {
  const Array array{heap_.bytes(table.size_bytes()), table.size_bytes()};
  std::memcpy(array.data, table.data(), table.size_bytes());
  return array;
}

Experts CpuOps::experts(std::span<const ExpertView> views) { return pack_experts(heap_, views); }

Memory CpuOps::memory() {
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return {static_cast<size_t>(sysconf(_SC_AVPHYS_PAGES)) * page, static_cast<size_t>(sysconf(_SC_PHYS_PAGES)) * page};
}

Activations CpuOps::reserve(const Limits& limits) {
  limits_ = limits;
  const auto tokens = static_cast<size_t>(limits.step_tokens + limits.rows);  // of the first draft pass
  const auto hidden = static_cast<size_t>(config_.hidden_size), heads = static_cast<size_t>(config_.num_heads);
  const auto logit_rows = static_cast<size_t>(std::max(limits.rows * (1 + limits.mtp), limits.logit_slice));
  Activations a;
  a.streams = floats(tokens * kStreams * hidden);
  if (limits.mtp > 0) a.draft_streams = floats(tokens * kStreams * hidden);
  a.mix = floats(tokens * 20);
  a.hidden = floats(tokens * hidden);
  a.latent = floats(tokens * static_cast<size_t>(config_.q_lora_rank));
  a.query = floats(tokens * heads * kHeadDim);
  a.kv = floats(tokens * kHeadDim);
  a.selection = floats(tokens * static_cast<size_t>(config_.index_topk));
  a.attended = floats(tokens * heads * kHeadDim);
  a.output = floats(tokens * hidden);
  a.routing = floats(tokens * static_cast<size_t>(config_.experts_per_token) * 2);
  a.logits = floats(logit_rows * static_cast<size_t>(config_.vocab_size));
  batches_ = std::make_unique<StepBatches>(config_, limits);
  reserve_rank_scratch(tokens, logit_rows);
  reserve_worker_scratch(limits);
  return a;
}

void CpuOps::reserve_rank_scratch(size_t tokens, size_t logit_rows) {
  const auto hidden = static_cast<size_t>(config_.hidden_size), width = static_cast<size_t>(config_.moe_intermediate_size);
  const auto pairs = tokens * static_cast<size_t>(config_.experts_per_token);
  const auto attended = static_cast<size_t>(config_.num_heads) * kHeadDim, index_heads = static_cast<size_t>(config_.index_heads);
  const auto low_rank = static_cast<size_t>(config_.o_groups) * static_cast<size_t>(config_.o_lora_rank);
  const size_t stream_rows = limits_.mtp > 0 ? kStreams * tokens : 0;
  RankScratch& s = scratch_;
  if (served_) {
    const size_t widest = std::max({kStreams * hidden, attended, low_rank, static_cast<size_t>(config_.q_lora_rank)});
    s.quantised = heap_.array<float>(std::max(tokens * widest, pairs * std::max(hidden, width)));
  }
  s.kv = heap_.array<float>(tokens * 2 * kHeadDim);
  s.gate = heap_.array<float>(tokens * 2 * kHeadDim);
  s.index_query = heap_.array<float>(tokens * index_heads * kIndexDim);
  s.index_weights = heap_.array<float>(tokens * index_heads);
  s.low_rank = heap_.array<float>(tokens * low_rank);
  s.router = heap_.array<float>(tokens * static_cast<size_t>(config_.num_experts));
  s.gathered = heap_.array<float>(pairs * hidden);
  s.expert_act = heap_.array<float>(pairs * width);
  s.shared_gate = heap_.array<float>(tokens * width);
  s.shared_up = heap_.array<float>(tokens * width);
  s.pair_token = heap_.array<int32_t>(pairs);
  s.pair_weight = heap_.array<float>(pairs);
  s.normed = heap_.array<float>(std::max(stream_rows, logit_rows) * hidden);
  s.projected = heap_.array<float>(tokens * hidden);
  s.part = heap_.array<float>(tokens * hidden);
  s.expert_begin.resize(static_cast<size_t>(config_.num_experts) + 1);
  s.jobs.reserve(kParts * (static_cast<size_t>(std::max(config_.num_experts, config_.o_groups)) + 2));
  s.emissions.reserve(tokens);
}

void CpuOps::reserve_worker_scratch(const Limits& limits) {
  const auto heads = static_cast<size_t>(std::max(config_.num_heads, config_.index_heads));
  const auto entries = static_cast<size_t>(limits.context_tokens / kCsaRatio + 1);
  workers_.resize(static_cast<size_t>(pool_.threads()));
  for (WorkerScratch& w : workers_) {
    w.rows = heap_.array<float>(size_t{2 * kAttendChunk} * kHeadDim);
    w.row_pointers = heap_.array<const float*>(2 * kAttendChunk);
    w.scores = heap_.array<float>(heads * kAttendChunk);
    w.running = heap_.array<float>(3 * heads);
    w.entry = heap_.array<float>(kHeadDim);
    w.mixes = heap_.array<float>(size_t{kHyperTile} * 24);
    w.index_scores = heap_.array<float>(entries);
    w.index_order = heap_.array<int32_t>(entries);
    w.logits = heap_.array<float>(static_cast<size_t>(config_.vocab_size));
    w.candidates = heap_.array<int32_t>(static_cast<size_t>(config_.vocab_size));
  }
}

void CpuOps::allocate_cache(const CacheLayout& layout, const CachePlan& plan) {
  cache_.reset();  // of an attempt that found no room on another rank
  cache_ = std::make_unique<CacheStore>(layout, plan);
}

Batch CpuOps::begin_step(const StepInput& input) {
  started_ = std::chrono::steady_clock::now();
  result_.gathers_inline = result_.reductions_inline = 0;
  const Batch trunk = batches_->begin(input);
  begin_result();
  return trunk;
}

Batch CpuOps::draft_batch(int pass) { return batches_->draft(pass); }

void CpuOps::finish_step(StepOutput& output) {
  const auto taken = std::chrono::steady_clock::now() - started_;
  result_.micros = std::chrono::duration_cast<std::chrono::microseconds>(taken).count();
  output = result_;
}

/// Rank r sums slice r of everybody's array, always in rank order, and writes the sum to all: equal bits everywhere.
void CpuOps::all_reduce(const Batch& batch, Array array) {
  const auto& [rank, ranks] = options_.shape;
  if (ranks == 1) return;
  ++result_.reductions_inline;
  const auto count = static_cast<size_t>(batch.tokens) * static_cast<size_t>(config_.hidden_size);
  const std::vector<void*>& all = options_.group->enter(rank, array.data);
  const size_t first = count * static_cast<size_t>(rank) / static_cast<size_t>(ranks);
  const size_t end = count * static_cast<size_t>(rank + 1) / static_cast<size_t>(ranks);
  for (size_t i = first; i < end; ++i) {
    float sum = 0;
    for (void* other : all) sum += static_cast<const float*>(other)[i];
    for (void* other : all) static_cast<float*>(other)[i] = sum;
  }
  options_.group->leave();
}

const float* CpuOps::input_of(const Linear& weights, const float* x, int rows, int64_t cols) {
  if (!served_ || !takes_quantised_input(weights)) return x;
  for_tokens(rows, {2, 16}, [&](int first, int end, int) {
    for (int64_t row = first; row < end; ++row) fake_quantise_activations(x + row * cols, cols, scratch_.quantised + row * cols);
  });
  return scratch_.quantised;
}

GemmJob CpuOps::product(const Linear& weights, const float* x, int rows, float* out) const {
  GemmJob job = gemm_args(weights);
  job.x = x;
  job.x_stride = static_cast<size_t>(weights.cols);
  job.rows = rows;
  job.out = out;
  job.out_stride = static_cast<size_t>(weights.rows);
  return job;
}

Parts<float*> CpuOps::part_outputs(const Parts<Linear>& parts, float* output) const {
  return {output, parts[0].cols > 0 ? scratch_.part : output};
}

/// In the order of all_reduce.
void CpuOps::add_parts(const Parts<Linear>& parts, int tokens, float* output) {
  const int held = parts_held(parts);
  const auto dim = static_cast<size_t>(config_.hidden_size);
  if (held == 0) std::fill_n(output, static_cast<size_t>(tokens) * dim, 0.0f);
  if (held < 2) return;
  for_tokens(tokens, {16, 64}, [&](int first, int end, int) {
    for (size_t i = static_cast<size_t>(first) * dim; i < static_cast<size_t>(end) * dim; ++i) {
      float sum = 0;
      sum += output[i];
      sum += scratch_.part[i];
      output[i] = sum;
    }
  });
}

void CpuOps::rms_norm(const float* x, const float* weight, int dim, float* out) const {
  const float mean = kernels_.square_sum(x, dim) / static_cast<float>(dim);
  kernels_.scale_by(x, 1.0f / std::sqrt(mean + config_.rms_norm_eps), weight, dim, out);
}

}  // namespace cpu
}  // namespace twelvex
