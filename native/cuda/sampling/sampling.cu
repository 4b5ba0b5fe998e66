// SPDX-License-Identifier: MIT
// A team of blocks a place: adjust a copy of the logits, exponentiate it in place, cut by top_k, top_p and min_p, draw. Every
// block works on its part of the vocabulary and touches nothing else in memory; what all have to know goes through shared memory
// (select.cuh). A few places take a cluster each, many a block each: the result is the same.
#include "arch/dependent_launch.cuh"
#include "common/check.h"
#include "runtime/sampling.h"
#include "sampling/sampling.h"
#include "sampling/select.cuh"

namespace twelvex::cuda {

namespace {

constexpr int kClusterBlocks = 8;  // what every architecture with clusters gives
using Cluster = select::Team<512, kClusterBlocks>;
using Block = select::Team<1024, 1>;
constexpr int kFewPlaces = 48;     // their clusters are resident at the same time

constexpr float kWeightUnit = 0x1p40f;

/// Which weights are still in: larger keys than `key`, and those equal to it up to index `last`; none below `least`.
struct Kept {
  uint32_t key = 0;
  int last = 0;
  float least = 0;
};

template <class Team>
struct Draw {
  const SampleParams& p;
  const SampleRowInfo& info;
  const int place;
  float* values;  // [V] of this place
  const Team& team;

  __device__ bool penalised() const {
    return info.repetition_penalty != 1.0f || info.presence_penalty != 0 || info.frequency_penalty != 0;
  }
  __device__ bool plain() const { return info.mask_row < 0 && !penalised() && info.bias_begin == info.bias_end; }

  __device__ int draft(int i) const { return p.token_id[info.first_token + 1 + i]; }
  /// Times that drafts before this place are `token`.
  __device__ int drafted(int token) const {
    int count = 0;
    for (int i = 0; i < place; ++i) count += draft(i) == token;
    return count;
  }

  __device__ void penalise(int token, int count) const {
    if (token < team.begin || token >= team.end) return;
    float logit = values[token];
    if (info.repetition_penalty != 1.0f) logit = logit > 0 ? logit / info.repetition_penalty : logit * info.repetition_penalty;
    logit -= info.frequency_penalty * static_cast<float>(count);
    if (count > 0) logit -= info.presence_penalty;
    values[token] = logit;
  }

  __device__ void adjust(const float* raw) const {
    const uint32_t* mask =
        info.mask_row < 0 ? nullptr : p.masks + static_cast<int64_t>(info.mask_row + place) * ((p.vocab + 31) / 32);
#pragma unroll 8
    for (int i = team.begin + static_cast<int>(threadIdx.x); i < team.end; i += Team::kThreads) {
      values[i] = mask != nullptr && (mask[i / 32] >> (i % 32) & 1) == 0 ? -INFINITY : raw[i];
    }
    __syncthreads();
    if (penalised()) {
      for (int i = info.penalty_begin + threadIdx.x; i < info.penalty_end; i += Team::kThreads) {
        penalise(p.penalty_tokens[i], p.penalty_counts[i] + drafted(p.penalty_tokens[i]));
      }
      __syncthreads();
      for (int d = 0; d < place; ++d) {  // drafts that the sequence had not seen
        const int token = draft(d);
        bool seen = false;
        for (int i = 0; i < d; ++i) seen |= draft(i) == token;
        for (int i = info.penalty_begin + threadIdx.x; i < info.penalty_end; i += Team::kThreads) {
          seen |= p.penalty_tokens[i] == token;
        }
        if (!__syncthreads_or(seen) && threadIdx.x == 0) penalise(token, drafted(token));
        __syncthreads();
      }
    }
    // Biases of one token add up in list order.
    if (threadIdx.x == 0) {
      for (int i = info.bias_begin; i < info.bias_end; ++i) {
        const int token = p.bias_tokens[i];
        if (token >= team.begin && token < team.end) values[token] += p.bias_values[i];
      }
    }
    __syncthreads();
  }

  __device__ static uint64_t units(float weight) { return static_cast<uint64_t>(weight * kWeightUnit); }

  __device__ bool in(int i, const Kept& kept) const {
    const float w = values[i];
    const uint32_t key = __float_as_uint(w);
    return (key > kept.key || (key == kept.key && i <= kept.last)) && w >= kept.least;
  }

  /// Narrows `kept` to the falling prefix whose weights (`count`: numbers of tokens) reach `target`.
  template <class Weight>
  __device__ void narrow(Kept& kept, const Weight& weight, uint64_t target) const {
    const auto key = [&](int i) { return __float_as_uint(values[i]); };
    const auto inside = [&](int i) { return in(i, kept) ? weight(i) : uint64_t{0}; };
    const select::Cut cut = team.cut_at(key, inside, target);
    // Of the tokens equal to the cut, the lowest ids that make up the rest: the running sum passes remaining - 1.
    const auto equal = [&](int i) { return key(i) == cut.key ? inside(i) : uint64_t{0}; };
    const int last = team.crossing(equal, cut.remaining - 1);
    kept.key = cut.key;
    kept.last = last;
  }

  __device__ int sample() const {
    const select::Largest best = team.largest([&](int i) { return select::ordered_key(values[i]); });
    const float top = select::of_ordered_key(best.key);
    if (info.temperature == 0 || !isfinite(top)) return best.index;
    const float scale = 1.0f / info.temperature;
#pragma unroll 8
    for (int i = team.begin + static_cast<int>(threadIdx.x); i < team.end; i += Team::kThreads) {
      const float shifted = values[i] - top;
      values[i] = isnan(shifted) ? 0 : expf(shifted * scale);
    }
    __syncthreads();
    Kept kept{0, p.vocab, 0};
    if (info.top_k > 0 && info.top_k < p.vocab) narrow(kept, [](int) { return uint64_t{1}; }, info.top_k);
    const auto weight = [&](int i) { return units(values[i]); };
    if (info.top_p < 1.0f) {
      const uint64_t sum = team.total([&](int i) { return in(i, kept) ? weight(i) : uint64_t{0}; });
      const double goal = ceil(static_cast<double>(sum) * static_cast<double>(info.top_p));
      narrow(kept, weight, goal < 1 ? 1 : static_cast<uint64_t>(goal));
    }
    kept.least = info.min_p;
    const auto inside = [&](int i) { return in(i, kept) ? weight(i) : uint64_t{0}; };
    const uint64_t sum = team.total(inside);
    // sum * uniform, uniform = u / 2^24: the high bits of a 128-bit product.
    const uint64_t position = static_cast<uint64_t>(info.position + 1 + place);
    const uint64_t u = static_cast<uint64_t>(philox_word(info.seed, position) >> 8) << 40;
    const int drawn = team.crossing(inside, __umul64hi(sum, u));
    return drawn < p.vocab ? drawn : best.index;
  }
};

// Grid (team, place, row).
template <class Team>
__global__ void __cluster_dims__(Team::kSize) __launch_bounds__(Team::kThreads, 1) draw_kernel(const SampleParams p) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  __shared__ typename Team::Memory memory;
  const int place = blockIdx.y, row = blockIdx.z;
  const SampleRowInfo& info = p.info[row];
  const int64_t at = static_cast<int64_t>(row) * p.places + place;
  if (info.first_logit < 0 || place > info.drafts) {
    if (threadIdx.x == 0 && blockIdx.x == 0) p.drawn[at] = -1;
    return;
  }
  const Team team(memory, p.vocab);
  const float* raw = p.logits + static_cast<int64_t>(info.first_logit + place) * p.vocab;
  const Draw<Team> draw{p, info, place, p.adjusted + at * p.vocab, team};
  int token = 0;
  if (info.temperature == 0 && draw.plain()) {
    token = team.largest([&](int i) { return select::ordered_key(raw[i]); }).index;
  } else {
    draw.adjust(raw);
    token = draw.sample();
  }
  if (threadIdx.x == 0 && team.rank == 0) p.drawn[at] = token;
}

__global__ void accept_kernel(const SampleParams p) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  const int row = blockIdx.x * blockDim.x + threadIdx.x;
  if (row >= p.rows) return;
  const SampleRowInfo& info = p.info[row];
  int count = 0;
  if (info.first_logit >= 0) {
    count = 1;
    while (count <= info.drafts && p.drawn[row * p.places + count - 1] == p.token_id[info.first_token + count]) ++count;
  }
  p.accepted_count[row] = count;
  for (int place = 0; place < p.places; ++place) {
    const int at = row * p.places + place;
    const int token = place < count ? p.drawn[at] : -1;
    p.accepted[at] = token;
    p.logprob_token[at] = token;
    p.logprob_row[at] = place < count && info.logprobs >= 0 ? info.first_logit + place : -1;
  }
}

// Grid (team, row).
template <class Team>
__global__ void __cluster_dims__(Team::kSize) __launch_bounds__(Team::kThreads, 1) argmax_kernel(const ArgmaxParams p) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  __shared__ typename Team::Memory memory;
  const Team team(memory, p.vocab);
  const float* logits = p.logits + static_cast<int64_t>(blockIdx.y) * p.vocab;
  const int token = team.largest([&](int i) { return select::ordered_key(logits[i]); }).index;
  if (threadIdx.x == 0 && team.rank == 0) p.token[blockIdx.y] = token;
}

/// log(sum(exp(logits))), in a fixed order of additions.
__device__ float log_normaliser(const float* logits, int n, float top, Block::Memory& s) {
  float sum = 0;
#pragma unroll 8
  for (int i = threadIdx.x; i < n; i += Block::kThreads) sum += expf(logits[i] - top);
  __syncthreads();
  return top + logf(block_sum<Block::kThreads>(sum, s.real));
}

__global__ void __launch_bounds__(Block::kThreads, 1) logprobs_kernel(const LogprobParams p) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  __shared__ Block::Memory s;
  __shared__ int found;
  __shared__ int candidates[kMaxTopLogprobs];
  const int64_t entry = blockIdx.x;
  const int row = p.row[entry], token = p.token[entry];
  int32_t* top_tokens = p.top_tokens + entry * p.width;
  float* top_logprobs = p.top_logprobs + entry * p.width;
  if (static_cast<int>(threadIdx.x) < p.width) top_tokens[threadIdx.x] = -1, top_logprobs[threadIdx.x] = NAN;
  if (threadIdx.x == 0) p.logprob[entry] = NAN, found = 0;
  if (row < 0) return;
  const float* logits = p.logits + static_cast<int64_t>(row) * p.vocab;
  const auto key = [&](int i) { return select::ordered_key(logits[i]); };
  const Block team(s, p.vocab);
  const float normaliser = log_normaliser(logits, p.vocab, logits[team.largest(key).index], s);
  if (threadIdx.x == 0 && token >= 0) p.logprob[entry] = logits[token] - normaliser;
  if (p.width == 0) return;
  const int width = min(p.width, p.vocab);
  const select::Cut cut = team.cut_at(key, [](int) { return uint64_t{1}; }, width);
  const int last = team.crossing([&](int i) { return uint64_t{key(i) == cut.key}; }, cut.remaining - 1);
#pragma unroll 8
  for (int i = threadIdx.x; i < p.vocab; i += Block::kThreads) {
    const uint32_t k = key(i);
    if (k > cut.key || (k == cut.key && i <= last)) candidates[atomicAdd(&found, 1)] = i;  // any order: ranked below
  }
  __syncthreads();
  if (static_cast<int>(threadIdx.x) < width) {
    const int mine = candidates[threadIdx.x];
    int rank = 0;
    for (int i = 0; i < width; ++i) {
      const int other = candidates[i];
      rank += key(other) > key(mine) || (key(other) == key(mine) && other < mine);
    }
    top_tokens[rank] = mine;
    top_logprobs[rank] = logits[mine] - normaliser;
  }
}

}  // namespace

void run_sample(const SampleParams& p) {
  if (p.rows == 0) return;
  const int places = p.rows * p.places;
  if (places <= kFewPlaces) {
    launch_dependent({dim3(Cluster::kSize, p.places, p.rows), Cluster::kThreads, 0, p.stream}, draw_kernel<Cluster>, p);
  } else {
    launch_dependent({dim3(1, p.places, p.rows), Block::kThreads, 0, p.stream}, draw_kernel<Block>, p);
  }
  launch_dependent({(p.rows + 63) / 64, 64, 0, p.stream}, accept_kernel, p);
}

void run_logprobs(const LogprobParams& p) {
  if (p.count == 0) return;
  TWELVEX_NEED_LE(p.width, kMaxTopLogprobs);
  launch_dependent({p.count, Block::kThreads, 0, p.stream}, logprobs_kernel, p);
}

void run_argmax(const ArgmaxParams& p) {
  if (p.rows == 0) return;
  if (p.rows <= kFewPlaces) {
    launch_dependent({dim3(Cluster::kSize, p.rows), Cluster::kThreads, 0, p.stream}, argmax_kernel<Cluster>, p);
  } else {
    launch_dependent({dim3(1, p.rows), Block::kThreads, 0, p.stream}, argmax_kernel<Block>, p);
  }
}

}  // namespace twelvex::cuda
