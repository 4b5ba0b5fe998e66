// SPDX-License-Identifier: MIT
// One block of 1,024 threads a place: adjust a copy of the logits, exponentiate it in place, cut by top_k, top_p and min_p, draw.
#include "common/check.h"
#include "runtime/sampling.h"
#include "sampling/sampling.h"
#include "sampling/select.cuh"

namespace twelvex::cuda {

namespace {

using select::kThreads;
using select::Scratch;

constexpr float kWeightUnit = 0x1p40f;

/// Which weights are still in: larger keys than `key`, and those equal to it up to index `last`; none below `least`.
struct Kept {
  uint32_t key = 0;
  int last = 0;
  float least = 0;
};

struct Draw {
  const SampleParams& p;
  const SampleRowInfo& info;
  const int place;
  float* values;  // [V] of this place
  Scratch& s;

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
    for (int i = threadIdx.x; i < p.vocab; i += kThreads) {
      values[i] = mask != nullptr && (mask[i / 32] >> (i % 32) & 1) == 0 ? -INFINITY : raw[i];
    }
    __syncthreads();
    if (penalised()) {
      for (int i = info.penalty_begin + threadIdx.x; i < info.penalty_end; i += kThreads) {
        penalise(p.penalty_tokens[i], p.penalty_counts[i] + drafted(p.penalty_tokens[i]));
      }
      __syncthreads();
      for (int d = 0; d < place; ++d) {  // drafts that the sequence had not seen
        const int token = draft(d);
        bool seen = false;
        for (int i = 0; i < d; ++i) seen |= draft(i) == token;
        for (int i = info.penalty_begin + threadIdx.x; i < info.penalty_end; i += kThreads) seen |= p.penalty_tokens[i] == token;
        if (!__syncthreads_or(seen) && threadIdx.x == 0) penalise(token, drafted(token));
        __syncthreads();
      }
    }
    // Biases of one token add up in list order.
    if (threadIdx.x == 0) {
      for (int i = info.bias_begin; i < info.bias_end; ++i) values[p.bias_tokens[i]] += p.bias_values[i];
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
    const select::Cut cut = select::cut_at(p.vocab, key, inside, target, s);
    // Of the tokens equal to the cut, the lowest ids that make up the rest: the running sum passes remaining - 1.
    const auto equal = [&](int i) { return key(i) == cut.key ? inside(i) : uint64_t{0}; };
    const int last = select::crossing(p.vocab, equal, cut.remaining - 1, s);
    kept.key = cut.key;
    kept.last = last;
  }

  __device__ int sample() const {
    const auto ordered = [&](int i) { return select::ordered_key(values[i]); };
    const int best = select::largest(p.vocab, ordered, s);
    const float top = values[best];
    if (info.temperature == 0 || !isfinite(top)) return best;
    const float scale = 1.0f / info.temperature;
    __syncthreads();
#pragma unroll 8
    for (int i = threadIdx.x; i < p.vocab; i += kThreads) {
      const float shifted = values[i] - top;
      values[i] = isnan(shifted) ? 0 : expf(shifted * scale);
    }
    __syncthreads();
    Kept kept{0, p.vocab, 0};
    if (info.top_k > 0 && info.top_k < p.vocab) narrow(kept, [](int) { return uint64_t{1}; }, info.top_k);
    const auto weight = [&](int i) { return units(values[i]); };
    if (info.top_p < 1.0f) {
      const uint64_t sum = select::total(p.vocab, [&](int i) { return in(i, kept) ? weight(i) : uint64_t{0}; }, s);
      const double goal = ceil(static_cast<double>(sum) * static_cast<double>(info.top_p));
      narrow(kept, weight, goal < 1 ? 1 : static_cast<uint64_t>(goal));
    }
    kept.least = info.min_p;
    const auto inside = [&](int i) { return in(i, kept) ? weight(i) : uint64_t{0}; };
    const uint64_t sum = select::total(p.vocab, inside, s);
    // sum * uniform, uniform = u / 2^24: the high bits of a 128-bit product.
    const uint64_t position = static_cast<uint64_t>(info.position + 1 + place);
    const uint64_t u = static_cast<uint64_t>(philox_word(info.seed, position) >> 8) << 40;
    const int drawn = select::crossing(p.vocab, inside, __umul64hi(sum, u), s);
    return drawn < p.vocab ? drawn : best;
  }
};

__global__ void __launch_bounds__(kThreads, 1) draw_kernel(const SampleParams p) {
  __shared__ Scratch s;
  const int row = blockIdx.y, place = blockIdx.x;
  const SampleRowInfo& info = p.info[row];
  const int64_t at = static_cast<int64_t>(row) * p.places + place;
  if (info.first_logit < 0 || place > info.drafts) {
    if (threadIdx.x == 0) p.drawn[at] = -1;
    return;
  }
  const float* raw = p.logits + static_cast<int64_t>(info.first_logit + place) * p.vocab;
  const Draw draw{p, info, place, p.adjusted + at * p.vocab, s};
  int token = 0;
  if (info.temperature == 0 && draw.plain()) {
    token = select::largest(p.vocab, [&](int i) { return select::ordered_key(raw[i]); }, s);
  } else {
    draw.adjust(raw);
    token = draw.sample();
  }
  if (threadIdx.x == 0) p.drawn[at] = token;
}

__global__ void accept_kernel(const SampleParams p) {
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

__global__ void __launch_bounds__(kThreads, 1) argmax_kernel(const ArgmaxParams p) {
  __shared__ Scratch s;
  const float* logits = p.logits + static_cast<int64_t>(blockIdx.x) * p.vocab;
  const int token = select::largest(p.vocab, [&](int i) { return select::ordered_key(logits[i]); }, s);
  if (threadIdx.x == 0) p.token[blockIdx.x] = token;
}

/// log(sum(exp(logits))), in a fixed order of additions.
__device__ float log_normaliser(const float* logits, int n, float top, Scratch& s) {
  float sum = 0;
#pragma unroll 8
  for (int i = threadIdx.x; i < n; i += kThreads) sum += expf(logits[i] - top);
  __syncthreads();
  return top + logf(block_sum<kThreads>(sum, s.real));
}

__global__ void __launch_bounds__(kThreads, 1) logprobs_kernel(const LogprobParams p) {
  __shared__ Scratch s;
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
  const int best = select::largest(p.vocab, key, s);
  const float normaliser = log_normaliser(logits, p.vocab, logits[best], s);
  if (threadIdx.x == 0 && token >= 0) p.logprob[entry] = logits[token] - normaliser;
  if (p.width == 0) return;
  const int width = min(p.width, p.vocab);
  const select::Cut cut = select::cut_at(p.vocab, key, [](int) { return uint64_t{1}; }, width, s);
  const int last = select::crossing(p.vocab, [&](int i) { return uint64_t{key(i) == cut.key}; }, cut.remaining - 1, s);
#pragma unroll 8
  for (int i = threadIdx.x; i < p.vocab; i += kThreads) {
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
  draw_kernel<<<dim3(p.places, p.rows), kThreads, 0, p.stream>>>(p);
  check_launch("draw_kernel");
  accept_kernel<<<(p.rows + 63) / 64, 64, 0, p.stream>>>(p);
  check_launch("accept_kernel");
}

void run_logprobs(const LogprobParams& p) {
  if (p.count == 0) return;
  TWELVEX_NEED_LE(p.width, kMaxTopLogprobs);
  logprobs_kernel<<<p.count, kThreads, 0, p.stream>>>(p);
  check_launch("logprobs_kernel");
}

void run_argmax(const ArgmaxParams& p) {
  if (p.rows == 0) return;
  argmax_kernel<<<p.rows, kThreads, 0, p.stream>>>(p);
  check_launch("argmax_kernel");
}

}  // namespace twelvex::cuda
