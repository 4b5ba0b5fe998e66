// SPDX-License-Identifier: MIT
// The plan in, logits and sampling, results out. The host waits once, in finish_step.
#include <algorithm>
#include <limits>

#include "backend.h"
#include "common/check.h"
#include "common/device.h"
#include "hyper/hyper.h"
#include "runtime/error.h"
#include "runtime/shard.h"

namespace twelvex::cuda {

namespace {

constexpr size_t kMaxBias = 2048;  // entries of one row's logit bias

bool asks_for_logprobs(const StepInput& input) {
  return std::any_of(input.sampling.begin(), input.sampling.end(), [](const SamplingParams& p) { return p.logprobs >= 0; });
}

bool has(uint8_t flags, uint8_t wanted) { return (flags & wanted) != 0; }

/// Sampling row i as the kernels see it.
SampleRowInfo sample_info(const SampleRow& row, const StepInput& input, size_t i) {
  const SamplingParams& from = input.sampling[i];
  SampleRowInfo info;
  info.first_logit = row.first_logit;
  info.first_token = row.first_token;
  info.position = row.position;
  info.drafts = row.drafts;
  info.temperature = from.temperature;
  info.top_p = from.top_p;
  info.min_p = from.min_p;
  info.top_k = from.top_k;
  info.repetition_penalty = from.repetition_penalty;
  info.presence_penalty = from.presence_penalty;
  info.frequency_penalty = from.frequency_penalty;
  info.logprobs = from.logprobs;
  info.seed = from.seed;
  info.penalty_begin = input.penalty_offset[i];
  info.penalty_end = input.penalty_offset[i + 1];
  info.bias_begin = input.bias_offset[i];
  info.bias_end = input.bias_offset[i + 1];
  info.mask_row = input.mask_row[i];
  return info;
}

}  // namespace

void CudaOps::reserve_sampling() {
  SamplingArrays& s = sampling_;
  const auto rows = static_cast<size_t>(limits_.rows), places = rows * static_cast<size_t>(1 + limits_.mtp);
  const auto vocab = static_cast<size_t>(config_.vocab_size), words = (vocab + 31) / 32;
  const size_t seen = rows * std::min(vocab, static_cast<size_t>(limits_.context_tokens));
  const size_t prompt = limits_.logit_slice > 0 ? static_cast<size_t>(limits_.step_tokens) : 0;
  for (auto* list : {&s.prompt_row, &s.prompt_token}) sampling_arena_.add(*list, prompt);
  for (auto* list : {&s.penalty_tokens, &s.penalty_counts}) sampling_arena_.add(*list, seen);
  sampling_arena_.add(s.bias_tokens, rows * kMaxBias);
  sampling_arena_.add(s.bias_values, rows * kMaxBias);
  sampling_arena_.add(s.masks, places * words);
  sampling_arena_.add(s.accepted_count, rows);
  sampling_arena_.add(s.accepted, places);
  sampling_arena_.add(s.drafts, rows * static_cast<size_t>(std::max(limits_.mtp, 1)));
  sampling_arena_.add(s.logprobs, places);
  sampling_arena_.add(s.top_tokens, places * kMaxTopLogprobs);
  sampling_arena_.add(s.top_logprobs, places * kMaxTopLogprobs);
  sampling_arena_.add(s.prompt_logprobs, prompt);
  sampling_arena_.add(s.prompt_top_tokens, prompt * kMaxTopLogprobs);
  sampling_arena_.add(s.prompt_top_logprobs, prompt * kMaxTopLogprobs);
  s.drawn = allocate<int32_t>(places, "sampling");
  s.logprob_row = allocate<int32_t>(places, "sampling");
  s.logprob_token = allocate<int32_t>(places, "sampling");
  scratch_.adjusted = allocate<float>(places * vocab, "adjusted logits");
}

void CudaOps::begin_sampling(const StepInput& input) {
  SamplingArrays& s = sampling_;
  const auto upload = [this](const auto& from, auto& to, const char* what) {
    if (from.size() > to.capacity) {
      throw Error(ErrorCode::kInvalidPlan, std::string(what) + ": " + std::to_string(from.size()) +
                                               " entries in a step, room for " + std::to_string(to.capacity));
    }
    std::copy(from.begin(), from.end(), to.host);
    StepArena::upload(to, from.size(), queue_);
  };
  upload(input.penalty_tokens, s.penalty_tokens, "penalty tokens");
  upload(input.penalty_counts, s.penalty_counts, "penalty counts");
  upload(input.bias_tokens, s.bias_tokens, "logit bias");
  upload(input.bias_values, s.bias_values, "logit bias");
  upload(input.masks, s.masks, "grammar masks");
  s.width = 0;
  for (size_t i = 0; i < batches_->samples().size(); ++i) {
    const SampleRow& row = batches_->samples()[i];
    s.width = std::max(s.width, input.sampling[i].logprobs);
    s.info.host[i] = sample_info(row, input, i);
  }
  for (int i = static_cast<int>(batches_->samples().size()); i < batches_->sample_count(); ++i) s.info.host[i] = {};  // padding
  list_prompt_tokens(input);
}

/// Tokens of rows with kRowAllLogprobs: which row of their slice they are, and what follows them.
void CudaOps::list_prompt_tokens(const StepInput& input) {
  SamplingArrays& s = sampling_;
  s.prompt_count = 0;
  int logit_row = 0;  // behind the sampled ones
  size_t token = 0;
  for (size_t r = 0; r < input.flags.size(); ++r) {
    const int count = input.count[r];
    if (has(input.flags[r], kRowAllLogprobs)) {
      // A part of a prompt that does not sample yet has no parameters that say how many alternatives are wanted.
      if (!has(input.flags[r], kRowSample)) s.width = kMaxTopLogprobs;
      for (int i = 0; i < count; ++i) {
        s.prompt_row.host[s.prompt_count] = (logit_row + i) % limits_.logit_slice;
        const size_t next = token + static_cast<size_t>(i) + 1;
        s.prompt_token.host[s.prompt_count++] = i + 1 < count ? input.tokens[next] : input.next_token[r];
      }
    }
    if (has(input.flags[r], kRowAllLogits | kRowAllLogprobs)) logit_row += count;
    token += static_cast<size_t>(count);
  }
  StepArena::upload(s.prompt_row, static_cast<size_t>(s.prompt_count), queue_);
  StepArena::upload(s.prompt_token, static_cast<size_t>(s.prompt_count), queue_);
}

bool CudaOps::fits_graph(int padded) const {
  return padded <= limits_.rows && padded * (1 + limits_.mtp) <= limits_.step_tokens;
}

std::vector<DecodeShape> CudaOps::decode_shapes() const {
  std::vector<DecodeShape> shapes;
  const int scored = config_.index_topk * kCsaRatio;  // the first position that sees more entries than are kept
  for (int rows = 1; fits_graph(padded_rows(rows)); rows = padded_rows(rows) + 1) {
    shapes.push_back({rows, 0});
    if (limits_.context_tokens / kCsaRatio > config_.index_topk) shapes.push_back({rows, scored});
  }
  return shapes;
}

Batch CudaOps::begin_step(const StepInput& input) {
  check(cudaSetDevice(options_.device), "cudaSetDevice");
  overlapped_ = inline_ = reductions_overlapped_ = reductions_inline_ = 0;
  reducing_ = false;
  gather_begun_ = false;
  all_logits_.clear();
  all_mtp_logits_.clear();
  graphs_.abandon(queue_);  // of a step that failed
  in_graph_ = replaying_ = false;
  const int padded = padded_rows(static_cast<int>(input.slot.size()));
  const bool graph = is_decode_step(input) && fits_graph(padded);
  const size_t bytes = batches_->begin(input, arena_, graph ? padded : 0);
  begin_sampling(input);
  arena_.upload(bytes, queue_);
  if (graph) {
    in_graph_ = true;
    replaying_ = graphs_.begin({padded, batches_->trunk_batch().context / kCsaRatio > config_.index_topk}, queue_);
  }
  return batches_->trunk(replaying_ ? nullptr : &queue_);
}

Batch CudaOps::draft_batch(int pass) {
  const SamplingArrays& s = sampling_;
  return batches_->draft(pass, replaying_ ? nullptr : &queue_,
                         {s.accepted_count.device, s.accepted.device, s.drafts.device, limits_.rows});
}

/// Logits rows [first, first + rows) of the batch, to the begin of the buffer.
void CudaOps::compute_logits(const DeviceBatch& b, const HeadPass& pass, int first, int rows) {
  if (rows == 0) return;
  HyperHeadParams p;
  p.rows = rows;
  p.dim = config_.hidden_size;
  p.norm_eps = config_.rms_norm_eps;
  p.hc_eps = config_.hc_eps;
  p.index = b.logit_tokens + first;
  p.streams = static_cast<const __nv_bfloat16*>(pass.streams.data);
  p.fn = static_cast<const float*>(pass.head.hyper.fn.data);
  p.base = static_cast<const float*>(pass.head.hyper.base.data);
  p.scale = static_cast<const float*>(pass.head.hyper.scale.data);
  p.norm = static_cast<const float*>(pass.head.norm.data);
  p.hidden = scratch_.head_rows;
  run_hyper_head(p, queue_);
  const ShardRange own = shard_vocab(config_, options_.shape);
  if (own.size() > 0) {
    GemmParams gemm = product(pass.lm_head, rows, 0, config_.hidden_size);
    auto* columns = static_cast<float*>(pass.logits.data) + own.begin;
    add_segment(gemm, pass.lm_head, scratch_.head_rows, columns, config_.vocab_size, true);
    run_gemm(gemm);
  }
  if (!comm_) return;
  AllGatherParams gather;
  gather.array = logits_peers_;
  gather.rows = rows;
  gather.row_bytes = static_cast<int64_t>(config_.vocab_size) * 4;
  gather.offset = own.begin * 4;
  gather.bytes = own.size() * 4;
  comm_->all_gather(gather, queue_);
}

void CudaOps::logits(const Batch& batch, const HeadWeights& head, const Linear& lm_head, Array streams, Array logits) {
  if (replaying_) return;
  const DeviceBatch& b = StepBatches::of(batch);
  const HeadPass pass{head, lm_head, streams, logits};
  for (int first = b.sampled; first < b.logit_rows; first += limits_.logit_slice) {
    const int rows = std::min(limits_.logit_slice, b.logit_rows - first);
    compute_logits(b, pass, first, rows);
    keep_slice(b, static_cast<const float*>(logits.data), first - b.sampled, rows);
  }
  compute_logits(b, pass, 0, b.sampled);
}

/// Takes what was asked for from tokens [first, first + rows) of rows with kRowAllLogits or (trunk) kRowAllLogprobs. Copying
/// logits makes the host wait.
void CudaOps::keep_slice(const DeviceBatch& batch, const float* logits, int first, int rows) {
  const StepInput& input = batches_->input();
  std::vector<float>& kept = batch.pass == 0 ? all_logits_ : all_mtp_logits_;
  const auto vocab = static_cast<size_t>(config_.vocab_size);
  int row_at = 0, entry = 0;  // of the row's first token among these tokens and among prompt log-probabilities
  for (size_t r = 0; r < input.flags.size(); ++r) {
    const bool all = has(input.flags[r], kRowAllLogits), prompt = batch.pass == 0 && has(input.flags[r], kRowAllLogprobs);
    if (!all && !prompt) continue;
    const int count = input.count[r], begin = std::max(first, row_at), end = std::min(first + rows, row_at + count);
    if (begin < end && prompt) prompt_logprobs(logits, entry + begin - row_at, end - begin);
    if (begin < end && all) {
      const size_t at = kept.size(), floats = static_cast<size_t>(end - begin) * vocab;
      kept.resize(at + floats);
      // The driver holds its locks while it copies to memory that is not pinned. Behind pending work of a rank that shares the
      // device with another one, it would keep the other from launching what this one waits for.
      check(cudaStreamSynchronize(queue_), "all logits");
      check(cudaMemcpyAsync(kept.data() + at, logits + static_cast<size_t>(begin - first) * vocab, floats * sizeof(float),
                            cudaMemcpyDeviceToHost, queue_),
            "all logits");
      check(cudaStreamSynchronize(queue_), "all logits");
    }
    row_at += count;
    if (prompt) entry += count;
  }
}

/// Prompt log-probabilities [first, first + count), whose slice of logits is there.
void CudaOps::prompt_logprobs(const float* logits, int first, int count) {
  SamplingArrays& s = sampling_;
  LogprobParams l;
  l.vocab = config_.vocab_size;
  l.width = s.width;
  l.logits = logits;
  l.stream = queue_;
  l.count = count;
  l.row = s.prompt_row.device + first;
  l.token = s.prompt_token.device + first;
  l.logprob = s.prompt_logprobs.device + first;
  l.top_tokens = s.prompt_top_tokens.device + first * s.width;
  l.top_logprobs = s.prompt_top_logprobs.device + first * s.width;
  run_logprobs(l);
}

void CudaOps::sample_trunk(const DeviceBatch& batch, const float* logits) {
  SamplingArrays& s = sampling_;
  const int rows = batches_->sample_count(), places = 1 + limits_.mtp;
  SampleParams p;
  p.rows = rows;
  p.places = places;
  p.vocab = config_.vocab_size;
  p.logits = logits;
  p.adjusted = scratch_.adjusted;
  p.info = s.info.device;
  p.token_id = batch.view.token_id;
  p.penalty_tokens = s.penalty_tokens.device;
  p.penalty_counts = s.penalty_counts.device;
  p.bias_tokens = s.bias_tokens.device;
  p.bias_values = s.bias_values.device;
  p.masks = s.masks.device;
  p.accepted_count = s.accepted_count.device;
  p.accepted = s.accepted.device;
  p.drawn = s.drawn;
  p.logprob_row = s.logprob_row;
  p.logprob_token = s.logprob_token;
  p.stream = queue_;
  if (rows > 0) run_sample(p);
  LogprobParams l;
  l.vocab = config_.vocab_size;
  l.width = s.width;
  l.logits = logits;
  l.stream = queue_;
  if (asks_for_logprobs(batches_->input())) {
    l.count = rows * places;
    l.row = s.logprob_row;
    l.token = s.logprob_token;
    l.logprob = s.logprobs.device;
    l.top_tokens = s.top_tokens.device;
    l.top_logprobs = s.top_logprobs.device;
    run_logprobs(l);
    StepArena::download(s.logprobs, static_cast<size_t>(l.count), queue_);
    StepArena::download(s.top_tokens, static_cast<size_t>(l.count * l.width), queue_);
    StepArena::download(s.top_logprobs, static_cast<size_t>(l.count * l.width), queue_);
  }
  const auto prompt = static_cast<size_t>(s.prompt_count), width = static_cast<size_t>(s.width);
  StepArena::download(s.prompt_logprobs, prompt, queue_);
  StepArena::download(s.prompt_top_tokens, prompt * width, queue_);
  StepArena::download(s.prompt_top_logprobs, prompt * width, queue_);
}

void CudaOps::sample(const Batch& batch, Array logits) {
  if (replaying_) return;
  const DeviceBatch& b = StepBatches::of(batch);
  const auto* raw = static_cast<const float*>(logits.data);
  if (batch.pass == 0) {
    sample_trunk(b, raw);
    return;
  }
  ArgmaxParams p;
  p.rows = b.sampled;
  p.vocab = config_.vocab_size;
  p.logits = raw;
  p.token = sampling_.drafts.device + static_cast<size_t>(batch.pass - 1) * static_cast<size_t>(limits_.rows);
  p.stream = queue_;
  if (p.rows > 0) run_argmax(p);
}

void CudaOps::finish_step(StepOutput& output) {
  SamplingArrays& s = sampling_;
  const auto rows = batches_->samples().size(), places = rows * static_cast<size_t>(1 + limits_.mtp);
  const auto width = static_cast<size_t>(s.width);
  const auto drafts = static_cast<size_t>(limits_.mtp), stride = static_cast<size_t>(limits_.rows);
  if (in_graph_) {
    if (graphs_.finish_capture(queue_) && comm_) options_.group->wait();
    graphs_.launch(queue_);
  }
  StepArena::download(s.accepted_count, rows, queue_);
  StepArena::download(s.accepted, places, queue_);
  if (rows > 0 && drafts > 0) StepArena::download(s.drafts, (drafts - 1) * stride + rows, queue_);
  check(cudaStreamSynchronize(queue_), "the step");
  if (comm_) comm_->check_alive();

  constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
  output.accepted_count.assign(s.accepted_count.host, s.accepted_count.host + rows);
  output.accepted.assign(s.accepted.host, s.accepted.host + places);
  output.drafts.assign(rows * drafts, -1);
  for (size_t i = 0; i < rows; ++i) {
    for (size_t k = 0; k < drafts; ++k) output.drafts[i * drafts + k] = s.drafts.host[k * stride + i];
  }
  output.top_width = s.width;
  const bool asked = asks_for_logprobs(batches_->input());
  const auto take = [](auto& to, const auto& from, size_t count, bool there, auto missing) {
    to.assign(count, missing);
    if (there) std::copy_n(from.host, count, to.begin());
  };
  take(output.logprobs, s.logprobs, places, asked, kNaN);
  take(output.top_tokens, s.top_tokens, places * width, asked, -1);
  take(output.top_logprobs, s.top_logprobs, places * width, asked, kNaN);
  const auto prompt = static_cast<size_t>(s.prompt_count);
  take(output.prompt_logprobs, s.prompt_logprobs, prompt, true, kNaN);
  take(output.prompt_top_tokens, s.prompt_top_tokens, prompt * width, true, -1);
  take(output.prompt_top_logprobs, s.prompt_top_logprobs, prompt * width, true, kNaN);
  output.logits = std::move(all_logits_);
  output.mtp_logits = std::move(all_mtp_logits_);
  output.gathers_overlapped = overlapped_;
  output.gathers_inline = inline_;
  output.reductions_overlapped = reductions_overlapped_;
  output.reductions_inline = reductions_inline_;
}

}  // namespace twelvex::cuda
