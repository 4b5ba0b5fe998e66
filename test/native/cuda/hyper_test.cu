// SPDX-License-Identifier: MIT
// mHC, its head, norms with rotary embedding, against double precision; --bench: GB/s.
#include "hyper/hyper_cluster.h"

#include <deque>

#include "common/device.h"
#include "crossing_weights.h"
#include "elementwise/norm_rope.h"
#include "gemm/fp8_cells.h"
#include "gemm/quantise.h"
#include "runtime/model_config.h"
#include "support.h"

using namespace twelvex;
using namespace twelvex::test;

namespace {

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

struct Mix {
  double pre[4], post[4], comb[4][4];
};

Mix reference_mix(const std::vector<double>& streams, const std::vector<float>& fn, const std::vector<float>& base,
                  const std::vector<float>& scale, size_t dim) {
  double m[24], squares = 0;
  for (const double x : streams) squares += x * x;
  const double factor = 1 / std::sqrt(squares / (4.0 * dim) + 1e-6);
  for (int i = 0; i < 24; ++i) {
    m[i] = 0;
    for (size_t k = 0; k < 4 * dim; ++k) m[i] += streams[k] * fn[i * 4 * dim + k];
    m[i] = m[i] * factor * scale[i < 4 ? 0 : i < 8 ? 1 : 2] + base[i];
  }
  Mix mix;
  for (int i = 0; i < 4; ++i) mix.pre[i] = sigmoid(m[i]) + 1e-6, mix.post[i] = 2 * sigmoid(m[4 + i]);
  for (int j = 0; j < 4; ++j) {
    double sum = 0;
    for (int k = 0; k < 4; ++k) sum += mix.comb[j][k] = std::exp(m[8 + 4 * j + k]);
    for (int k = 0; k < 4; ++k) mix.comb[j][k] = mix.comb[j][k] / sum + 1e-6;
  }
  for (int turn = 0; turn < 39; ++turn)
    for (int a = 0; a < 4; ++a) {
      double sum = 1e-6;
      for (int b = 0; b < 4; ++b) sum += turn % 2 ? mix.comb[a][b] : mix.comb[b][a];
      for (int b = 0; b < 4; ++b) (turn % 2 ? mix.comb[a][b] : mix.comb[b][a]) /= sum;
    }
  return mix;
}

std::vector<double> reference_hidden(const std::vector<double>& streams, const double* weight, const std::vector<float>& norm,
                                     size_t dim) {
  std::vector<double> y(dim);
  double squares = 0;
  for (size_t d = 0; d < dim; ++d) {
    for (int s = 0; s < 4; ++s) y[d] += weight[s] * streams[s * dim + d];
    squares += y[d] * y[d];
  }
  for (size_t d = 0; d < dim; ++d) y[d] *= norm[d] / std::sqrt(squares / dim + 1e-6);
  return y;
}

void check_case(int tokens, int dim_i, bool late = false) {
  const size_t dim = dim_i;
  const CrossingWeights w(dim_i);
  const auto streams = random_bf16(tokens * 4 * dim), output = random_bf16(tokens * dim);
  const DeviceArray<float> mix(static_cast<size_t>(tokens) * 20);
  const DeviceArray<__nv_bfloat16> d_streams(streams), d_output(output), hidden(tokens * dim), quantised(tokens * dim),
      expected(tokens * dim);
  mix.poison(), w.partial.poison(), hidden.poison(), quantised.poison();
  cuda::HyperParams p = w.params(tokens);
  p.enter = true;
  p.late_comb = late;
  p.streams = d_streams;
  p.mix = mix;
  p.hidden = hidden;
  cuda::run_hyper(p, nullptr);
  sync("hyper");
  const auto entered = hidden.download();
  hidden.poison();
  p.leave = true;
  p.output = d_output;
  p.hidden_quantised = quantised;
  cuda::run_hyper(p, nullptr);  // cross
  cuda::run_quantise({.rows = tokens, .cols = dim_i, .ldx = dim_i, .x = hidden, .y = expected});
  sync("hyper");
  const auto rounded = quantised.download(), by_itself = expected.download();
  const auto left = d_streams.download(), crossed = hidden.download();
  const auto kept = mix.download();
  Difference enter, leave, cross, mixes;
  for (int n = 0; n < std::min(tokens, 12); ++n) {
    const int t = n == 0 ? tokens - 1 : below(tokens);
    std::vector<double> old(4 * dim), fresh(4 * dim);
    for (size_t i = 0; i < 4 * dim; ++i) old[i] = __bfloat162float(streams[t * 4 * dim + i]);
    const Mix m = reference_mix(old, w.fn, w.base, w.scale, dim);
    const auto y = reference_hidden(old, m.pre, w.norm, dim);
    for (size_t d = 0; d < dim; ++d) enter.add(__bfloat162float(entered[t * dim + d]), y[d]);
    for (int k = 0; k < 4; ++k)
      for (size_t d = 0; d < dim; ++d) {
        double v = m.post[k] * __bfloat162float(output[t * dim + d]);
        for (int j = 0; j < 4; ++j) v += m.comb[j][k] * old[j * dim + d];
        leave.add(__bfloat162float(left[(t * 4 + k) * dim + d]), v);
        fresh[k * dim + d] = __bfloat162float(left[(t * 4 + k) * dim + d]);
      }
    const Mix next = reference_mix(fresh, w.fn, w.base, w.scale, dim);
    const auto z = reference_hidden(fresh, next.pre, w.norm, dim);
    for (size_t d = 0; d < dim; ++d) cross.add(__bfloat162float(crossed[t * dim + d]), z[d]);
    for (int i = 0; i < 4; ++i) mixes.add(kept[t * 20 + i], next.post[i]);
    for (int i = 0; i < 16 && !late; ++i) mixes.add(kept[t * 20 + 4 + i], next.comb[i / 4][i % 4]);
  }
  char text[96];
  std::snprintf(text, sizeof text, "%d tokens, D %d: ", tokens, dim_i);
  expect_close(enter, 4e-3, std::string(text) + "enter");
  expect_close(leave, 4e-3, std::string(text) + "leave");
  expect_close(cross, 4e-3, std::string(text) + "cross, hidden");
  expect_close(mixes, 1e-4, std::string(text) + "cross, mix");
  expect(std::memcmp(rounded.data(), by_itself.data(), rounded.size() * 2) == 0, std::string(text) + "cross, hidden in FP8");
}

/// A token's bits do not depend on the number of tokens, nor on what kernels cross and when comb is computed.
void check_rows() {
  constexpr int kDim = 4096, kMost = 70;
  const CrossingWeights w(kDim), other(kDim);
  const auto streams = random_bf16(kMost * 4 * kDim), output = random_bf16(kMost * kDim);
  const DeviceArray<__nv_bfloat16> d_output(output);
  // Arrays after every step: enter, three crossings, leave.
  const auto run = [&](int tokens) {
    const auto count = static_cast<size_t>(tokens);
    const DeviceArray<__nv_bfloat16> state(streams), hidden(count * kDim), quantised(count * kDim);
    const DeviceArray<float> mix(count * 20);
    mix.poison(), hidden.poison(), quantised.poison();
    cuda::HyperParams p = w.params(tokens);
    p.late_comb = tokens <= cuda::kFewTokens;
    p.streams = state;
    p.mix = mix;
    p.hidden = hidden;
    p.hidden_quantised = quantised;
    p.output = d_output;
    std::vector<std::vector<__nv_bfloat16>> arrays;
    for (int step = 0; step < 5; ++step) {
      p.leave = step > 0;
      p.enter = step < 4;
      p.fn = step % 2 ? w.d_fn : other.d_fn;
      cuda::run_hyper(p, nullptr);
      sync("hyper");
      for (const auto* array : {&state, &hidden, &quantised}) arrays.push_back(array->download());
    }
    return arrays;
  };
  const auto all = run(kMost);
  for (const int tokens : cases({4, 1, 2, 3, 5, 64}, 1)) {
    const auto got = run(tokens);
    bool same = true;
    for (size_t i = 0; i < all.size(); ++i) {
      const size_t count = static_cast<size_t>(tokens) * kDim * (i % 3 == 0 ? 4 : 1);
      same &= std::memcmp(got[i].data(), all[i].data(), count * sizeof(__nv_bfloat16)) == 0;
    }
    expect(same, std::to_string(tokens) + " tokens cross to the bits that they have among " + std::to_string(kMost));
  }
}

/// Leaving with the experts' rows (`picks` of a token; 0: with two parts of an output) gives the bits of combining them first.
template <int kDim>
void check_parts(int tokens, int picks) {
  const auto count = static_cast<size_t>(tokens);
  std::vector<int32_t> rows(count * static_cast<size_t>(picks));
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = i % 7 == 3 ? -1 : static_cast<int32_t>(rows.size() - 1 - i);
  const auto streams = random_bf16(count * 4 * kDim);
  const CrossingWeights w(kDim);
  const DeviceArray<float> kept(random_f32(count * 20));
  const DeviceArray<int32_t> row_of_slot(rows);
  const DeviceArray<__nv_bfloat16> experts(random_bf16(std::max<size_t>(rows.size(), 1) * kDim)),
      shared(random_bf16(count * kDim)), other(random_bf16(count * kDim)), output(count * kDim);
  cuda::CombineParams parts;
  parts.tokens = tokens;
  parts.cols = kDim;
  parts.picks = picks;
  parts.shared[0] = shared;
  if (picks > 0) {
    parts.row_of_slot = row_of_slot;
    parts.rows[0] = experts;
  } else {
    parts.shared[1] = other;
  }
  parts.y = output;
  const auto cross = [&](bool together) {
    const DeviceArray<__nv_bfloat16> state(streams), hidden(count * kDim);
    const DeviceArray<float> mix(kept.download());
    output.poison(), hidden.poison();
    if (!together) cuda::run_combine(parts);
    cuda::HyperParams p = w.params(tokens);
    p.enter = p.leave = true;
    p.streams = state;
    p.output = output;
    if (together) p.parts = parts;
    p.mix = mix;
    p.hidden = hidden;
    p.late_comb = true;
    sync("combine");
    cuda::run_hyper(p, nullptr);
    sync("hyper");
    return std::pair{state.download(), hidden.download()};
  };
  const auto apart = cross(false), at_once = cross(true);
  const auto same = [](const auto& a, const auto& b) { return std::memcmp(a.data(), b.data(), a.size() * sizeof(a[0])) == 0; };
  expect(same(apart.first, at_once.first) && same(apart.second, at_once.second),
         std::to_string(tokens) + " tokens leave with the rows of " + std::to_string(picks) + " experts as with their sum");
}

void check_head(int dim_i) {
  const size_t dim = dim_i;
  const auto streams = random_bf16(9 * 4 * dim);
  const auto fn = random_f32(4 * 4 * dim, 1.0f / std::sqrt(4.0f * dim)), base = random_f32(4, 0.5f), norm = random_f32(dim, 0.2f);
  const std::vector<float> scale = {0.7f};
  const std::vector<int32_t> index = {8, 0, 3, 3};
  const DeviceArray<float> d_fn(fn), d_base(base), d_scale(scale), d_norm(norm);
  const DeviceArray<int32_t> d_index(index);
  const DeviceArray<__nv_bfloat16> d_streams(streams), hidden(index.size() * dim);
  hidden.poison();
  cuda::HyperHeadParams p;
  p.rows = static_cast<int>(index.size());
  p.dim = dim_i;
  p.index = d_index;
  p.streams = d_streams;
  p.fn = d_fn;
  p.base = d_base;
  p.scale = d_scale;
  p.norm = d_norm;
  p.hidden = hidden;
  cuda::run_hyper_head(p, nullptr);
  sync("hyper_head");
  const auto got = hidden.download();
  Difference difference;
  for (size_t n = 0; n < index.size(); ++n) {
    std::vector<double> x(4 * dim);
    double squares = 0, weight[4];
    for (size_t i = 0; i < 4 * dim; ++i) x[i] = __bfloat162float(streams[index[n] * 4 * dim + i]), squares += x[i] * x[i];
    for (int m = 0; m < 4; ++m) {
      double dot = 0;
      for (size_t i = 0; i < 4 * dim; ++i) dot += x[i] * fn[m * 4 * dim + i];
      weight[m] = sigmoid(dot / std::sqrt(squares / (4.0 * dim) + 1e-6) * scale[0] + base[m]) + 1e-6;
    }
    const auto y = reference_hidden(x, weight, norm, dim);
    for (size_t d = 0; d < dim; ++d) difference.add(__bfloat162float(got[n * dim + d]), y[d]);
  }
  expect_close(difference, 4e-3, "head, D " + std::to_string(dim_i));
}

void check_rope() {
  cuda::RopeTableParams p;
  std::vector<int32_t> positions = {0, 1, 127, 4095, 65536, 524287, 1048575};
  for (int i = 0; i < 32; ++i)
    p.plain.pair[i] = static_cast<float>(std::pow(10000.0, -i / 32.0)), p.compressed.pair[i] = p.plain.pair[i] / 16;
  const DeviceArray<int32_t> d_positions(positions);
  const DeviceArray<float2> plain(positions.size() * 32), longer(positions.size() * 32);
  p.position = d_positions;
  p.tokens = static_cast<int>(positions.size());
  p.rope_plain = plain;
  p.rope_long = longer;
  cuda::run_rope_table(p, nullptr);
  sync("rope_table");
  const auto got = plain.download();
  double worst = 0;
  for (size_t t = 0; t < positions.size(); ++t)
    for (int i = 0; i < 32; ++i) {
      const double angle =
          static_cast<float>(positions[t]) * p.plain.pair[i];  // the product is rounded to float, as in the reference
      worst = std::max({worst, std::abs(got[t * 32 + i].x - std::cos(angle)), std::abs(got[t * 32 + i].y - std::sin(angle))});
    }
  expect(worst < 1e-6, "rotary tables up to position 1,048,575: largest error " + std::to_string(worst * 1e6) + "e-6");
}

void check_query() {
  const int tokens = 5, heads = 3, dim = 384;
  auto query = random_bf16(static_cast<size_t>(tokens) * heads * kHeadDim, 2.0f),
       latent = random_bf16(static_cast<size_t>(tokens) * dim), kv = random_bf16(static_cast<size_t>(tokens) * kHeadDim);
  const auto q_norm = random_f32(dim), kv_norm = random_f32(kHeadDim);
  std::vector<float2> rope(tokens * 32);
  for (auto& r : rope) {
    const float a = gauss();
    r = make_float2(std::cos(a), std::sin(a));
  }
  const DeviceArray<__nv_bfloat16> d_query(query), d_latent(latent), d_kv(kv);
  const DeviceArray<float> d_q(q_norm), d_kvn(kv_norm);
  const DeviceArray<float2> d_rope(rope);
  const int index_heads = 5;
  const auto index = random_bf16(static_cast<size_t>(tokens) * index_heads * kIndexDim, 2.0f);
  const DeviceArray<__nv_bfloat16> d_index(index), d_cells(index), turned_cells(index.size());
  cuda::QueryParams q{.tokens = tokens, .heads = heads, .index_heads = index_heads, .query = d_query, .index_query = d_index};
  q.rope = d_rope;
  cuda::run_finish_queries(q, nullptr);
  q.heads = 0;
  q.index_query = d_cells;
  q.index_cells = true;
  cuda::run_finish_queries(q, nullptr);
  cuda::run_quantise_fp8({.rows = tokens * index_heads, .cols = kIndexDim, .ldx = kIndexDim, .x = d_index, .y = turned_cells});
  cuda::LatentKvParams p;
  p.tokens = tokens;
  p.latent_dim = dim;
  p.latent = d_latent;
  p.kv = d_kv;
  p.q_norm = d_q;
  p.kv_norm = d_kvn;
  p.rope = d_rope;
  cuda::run_latent_kv(p, nullptr);
  sync("norms");
  const auto row = [&](const __nv_bfloat16* in, const float* norm, int n, const float2* turns, const __nv_bfloat16* got,
                       Difference& d) {
    std::vector<double> v(n);
    double squares = 0;
    for (int i = 0; i < n; ++i) v[i] = __bfloat162float(in[i]), squares += v[i] * v[i];
    for (int i = 0; i < n; ++i) v[i] *= (norm ? norm[i] : 1.0) / std::sqrt(squares / n + 1e-6);
    for (int i = 0; turns && i < 32; ++i) {
      const double x = v[n - 64 + 2 * i], y = v[n - 63 + 2 * i];
      v[n - 64 + 2 * i] = x * turns[i].x - y * turns[i].y, v[n - 63 + 2 * i] = y * turns[i].x + x * turns[i].y;
    }
    for (int i = 0; i < n; ++i) d.add(__bfloat162float(got[i]), v[i]);
  };
  const auto g_query = d_query.download(), g_latent = d_latent.download(), g_kv = d_kv.download();
  Difference a, b, c;
  for (int t = 0; t < tokens; ++t) {
    for (int h = 0; h < heads; ++h)
      row(&query[(t * heads + h) * kHeadDim], nullptr, kHeadDim, &rope[t * 32], &g_query[(t * heads + h) * kHeadDim], a);
    row(&latent[t * dim], q_norm.data(), dim, nullptr, &g_latent[t * dim], b);
    row(&kv[t * kHeadDim], kv_norm.data(), kHeadDim, &rope[t * 32], &g_kv[t * kHeadDim], c);
  }
  const auto g_index = d_index.download(), cells = d_cells.download(), g_cells = turned_cells.download();
  Difference turned;
  bool same = true;
  for (int t = 0; t < tokens; ++t)
    for (int h = 0; h < index_heads; ++h) {
      const size_t at = static_cast<size_t>(t * index_heads + h) * kIndexDim;
      for (int i = 0; i < kIndexDim / 2; ++i) {
        const float2 turn = i < 32 ? make_float2(1, 0) : rope[t * 32 + i - 32];
        const double x = __bfloat162float(index[at + 2 * i]), y = __bfloat162float(index[at + 2 * i + 1]);
        turned.add(__bfloat162float(g_index[at + 2 * i]), x * turn.x - y * turn.y);
        turned.add(__bfloat162float(g_index[at + 2 * i + 1]), x * turn.y + y * turn.x);
      }
      same &= std::memcmp(&cells[at], &g_cells[at], cuda::kFp8CellScale + 1) == 0;  // the rest of a cell is not written
    }
  expect_close(turned, 4e-3, "index query rotation");
  expect(same, "rotated index queries as cells are the cells of the rotated ones");
  expect_close(a, 4e-3, "query norm and rotation");
  expect_close(b, 4e-3, "latent norm");
  expect_close(c, 4e-3, "kv norm and rotation");
}

void bench(int tokens) {
  const size_t dim = 4096;
  const int sets = tokens <= 64 ? 3 : 1;  // of a crossing's arrays in turn: what the launch before wrote is not read early
  const int calls = tokens <= 64 ? 40 : 6;
  std::deque<CrossingWeights> weights;
  for (int i = 0; i < (tokens <= 64 ? 20 : 1); ++i) weights.emplace_back(static_cast<int>(dim));
  std::vector<DeviceArray<__nv_bfloat16>> streams, output, hidden;
  std::vector<DeviceArray<float>> mix;
  for (int i = 0; i < sets; ++i) {
    streams.emplace_back(random_bf16(tokens * 4 * dim));
    output.emplace_back(random_bf16(tokens * dim));
    hidden.emplace_back(tokens * dim);
    mix.emplace_back(std::vector<float>(static_cast<size_t>(tokens) * 20, 0.25f));
  }
  const double us = time_graph_us(calls, [&](int i, cudaStream_t stream) {
    cuda::HyperParams p = weights[i % weights.size()].params(tokens);
    p.enter = p.leave = true;
    p.streams = streams[i % sets];
    p.output = output[i % sets];
    p.mix = mix[i % sets];
    p.hidden = hidden[i % sets];
    p.late_comb = tokens <= cuda::kFewTokens;
    cuda::run_hyper(p, stream);
  });
  std::printf("  cross, %5d tokens, D 4096: %8.2f us, %7.1f GB/s of streams once in, once out\n", tokens, us,
              tokens * (8 + 2) * dim * 2.0 / us * 1e-3);
}

}  // namespace

int main(int argc, char** argv) {
  const bool timed = start("hyper", argc, argv);
  check_case(1, 128);
  check_case(37, 384);
  check_case(1030, 256);
  check_case(19, 4096);
  for (const int tokens : cases({3, 1, 4, 19}, 1)) check_case(tokens, 4096, true);
  check_case(3, 7168);
  for (const int picks : {6, 0}) {
    for (const int tokens : {1, 5, 16, 40}) check_parts<1024>(tokens, picks);
    for (const int tokens : cases({3, 1, 4}, 1)) check_parts<4096>(tokens, picks);
  }
  check_rows();
  check_head(128);
  check_head(4096);
  check_rope();
  check_query();
  if (timed) {
    for (const int tokens : {2048, 64, 16, 8, 3, 1}) bench(tokens);
  }
  return finish("hyper");
}
