// SPDX-License-Identifier: MIT
// The whole expert sub-layer against a host reference; rows do not depend on the batch. With --bench: time by number of tokens at
// Flash's shapes for a rank of two.
#include <utility>

#include "../gemm/fp8_roof.h"
#include "../gemm/gemm_reference.h"
#include "arch/dependent_launch.cuh"
#include "common/device.h"
#include "gemm/quantise.h"
#include "moe/experts.h"
#include "runtime/matrix_view.h"
#include "weights.h"

using namespace twelvex;
using namespace twelvex::test;
using bf16 = __nv_bfloat16;

namespace {

/// A layer's experts on the host and on the device.
struct Layer {
  int hidden, width, experts, picks;
  std::vector<HostMatrix> w1, w3, w2;
  HostMatrix shared_gate, shared_up, shared_down;
  MoeWeights weights;

  Layer(cuda::WeightStore& store, int d, int i, int e, int k)
      : hidden(d),
        width(i),
        experts(e),
        picks(k),
        shared_gate(WeightFormat::kFp8Block128, i, d),
        shared_up(WeightFormat::kFp8Block128, i, d),
        shared_down(WeightFormat::kFp8Block128, d, i) {
    std::vector<ExpertView> views;
    for (int n = 0; n < e; ++n) {
      w1.emplace_back(WeightFormat::kFp4Group32, i, d);
      w3.emplace_back(WeightFormat::kFp4Group32, i, d);
      w2.emplace_back(WeightFormat::kFp4Group32, d, i);
    }
    for (int n = 0; n < e; ++n) views.push_back({w1[n].view(), w3[n].view(), {w2[n].view()}});
    weights.experts = store.experts(views);
    weights.gate.cols = d;
    weights.shared_gate = store.linear(shared_gate.view());
    weights.shared_up = store.linear(shared_up.view());
    weights.shared_down = {store.linear(shared_down.view())};
  }
};

/// Exact numerics, served ones, or served ones on FP8 tensor cores (which Hopper computes from bf16 products).
enum class Mode { kExact, kServed, kFp8 };

struct Inputs {
  const bf16* x;
  const int32_t* ids;
  const float* routing;
  const bf16* quantised = nullptr;  // x, where it is wanted
};

cuda::MoeParams params_of(const MoeWeights& weights, const cuda::MoeShape& shape, const Inputs& in, Mode mode, void* workspace,
                          bf16* y) {
  return {.tokens = shape.tokens,
          .picks = shape.picks,
          .limit = 10,
          .quantise = mode != Mode::kExact,
          .arch = mode == Mode::kFp8 ? 120 : wide_arch(),
          .weights = &weights,
          .hidden = in.x,
          .hidden_quantised = in.quantised,
          .ids = in.ids,
          .routing = in.routing,
          .output = y,
          .workspace = cuda::carve_moe_workspace(workspace, shape),
          .num_sms = cuda::device_info().multiprocessors};
}

std::vector<float> run(const MoeWeights& weights, cuda::MoeShape shape, const Inputs& in, Mode mode, int decode_tokens = 0) {
  const DeviceArray<uint8_t> workspace(cuda::moe_workspace_bytes(shape));
  const DeviceArray<bf16> y(static_cast<size_t>(shape.tokens) * shape.hidden);
  workspace.poison(), y.poison();
  cuda::MoeParams p = params_of(weights, shape, in, mode, workspace, y);
  p.decode_tokens = decode_tokens;
  cuda::run_experts(p);
  sync("run_experts");
  return to_floats(y.download());
}

constexpr uint32_t kWriters = 3;

/// Lets the next kernel start, and writes what it reads a while later.
__global__ void write_late(const bf16* from, bf16* to, int count, uint32_t* written) {
  cuda::wait_for_previous_kernel();
  cuda::let_next_kernel_start();
  for (const long long begin = clock64(); clock64() - begin < 100'000;) {
  }
  for (int i = threadIdx.x; i < count; i += blockDim.x) to[i] = from[i];
  __syncthreads();
  if (threadIdx.x < kWriters) cuda::count_up(written);
}

/// The input in.quantised, written by a launch beside which the first product begins.
std::vector<float> run_late(const Layer& layer, int tokens, Inputs in) {
  const cuda::MoeShape shape{tokens, layer.hidden, layer.experts, layer.picks, layer.width, layer.width};
  const int count = tokens * layer.hidden;
  const DeviceArray<uint8_t> workspace(cuda::moe_workspace_bytes(shape));
  const DeviceArray<bf16> y(static_cast<size_t>(count)), late(static_cast<size_t>(count));
  const DeviceArray<uint32_t> written(std::vector<uint32_t>{0});
  workspace.poison(), y.poison(), late.poison();
  const bf16* const from = std::exchange(in.quantised, late.get());
  cuda::MoeParams p = params_of(layer.weights, shape, in, Mode::kServed, workspace, y);
  p.dispatched = true;
  p.hidden_ready = written;
  p.ready_count = kWriters;
  cuda::run_dispatch(cuda::dispatch_of(p));
  cuda::launch_dependent({1, 256}, write_late, from, late.get(), count, written.get());
  cuda::run_experts(p);
  sync("run_experts");
  return to_floats(y.download());
}

std::vector<float> run(const Layer& layer, int tokens, const Inputs& in, Mode mode, int decode_tokens = 0) {
  const cuda::MoeShape shape{tokens, layer.hidden, layer.experts, layer.picks, layer.width, layer.width};
  return run(layer.weights, shape, in, mode, decode_tokens);
}

/// y += weight * expert(x) with the roundings of the specification.
void add_expert(const HostMatrix& w1, const HostMatrix& w3, const HostMatrix& w2, const std::vector<float>& x, float weight,
                bool quantise, std::vector<double>& y) {
  std::vector<float> act(w1.rows);
  for (int64_t i = 0; i < w1.rows; ++i) {
    const std::vector<float> g = w1.row(i), u = w3.row(i);
    act[i] = bf16_round(static_cast<float>(
        twelvex::test::swiglu(dot(g.data(), x.data(), w1.cols), dot(u.data(), x.data(), w1.cols), 10) * weight));
  }
  if (quantise) quantise_row(act.data(), static_cast<int>(act.size()));
  for (int64_t d = 0; d < w2.rows; ++d) {
    const std::vector<float> row = w2.row(d);
    y[d] += dot(row.data(), act.data(), w2.cols);
  }
}

/// Tokens of decode keep the bits that they have without FP8, whatever else the step holds.
void test_decode_apart(const Layer& layer, int tokens, const Inputs& in, const std::vector<float>& all) {
  const std::vector<float> wide = run(layer, tokens, in, Mode::kServed);
  for (const int decode : {1, 9, tokens / 2, tokens}) {  // apart or, where others are few, none of them in FP8
    if (decode == 0 || decode > tokens) continue;
    const std::vector<float> mixed = run(layer, tokens, in, Mode::kFp8, decode);
    const auto at = static_cast<std::ptrdiff_t>(decode) * layer.hidden;
    Difference d;
    for (size_t i = static_cast<size_t>(at); i < mixed.size(); ++i) d.add(mixed[i], all[i]);
    expect(std::equal(mixed.begin(), mixed.begin() + at, wide.begin()) && d.relative() < 1e-2,
           "  " + std::to_string(decode) + " tokens of decode keep their bits");
  }
}

void test_experts(const Layer& layer, int tokens, Mode mode) {
  const bool quantise = mode != Mode::kExact;
  const std::vector<bf16> x = random_bf16(static_cast<size_t>(tokens) * layer.hidden, 0.5f);
  std::vector<int32_t> ids(static_cast<size_t>(tokens) * layer.picks);
  std::vector<float> routing(ids.size());
  for (int t = 0; t < tokens; ++t) {
    const int first = below(layer.experts);
    for (int k = 0; k < layer.picks; ++k) {
      ids[t * layer.picks + k] =
          t == 1 ? -1 : (first + k * k) % layer.experts;  // a padding token; expert counts uneven, some empty
      routing[t * layer.picks + k] = 0.1f + 0.2f * k;
    }
  }
  const DeviceArray<bf16> d_x(x);
  const DeviceArray<int32_t> d_ids(ids);
  const DeviceArray<float> d_routing(routing);
  const Inputs in_device = {d_x, d_ids, d_routing};
  const std::vector<float> y = run(layer, tokens, in_device, mode);
  Difference d;
  for (int t = 0; t < tokens; t += std::max(1, tokens / 6)) {
    std::vector<float> in(layer.hidden);
    for (int c = 0; c < layer.hidden; ++c) in[c] = __bfloat162float(x[static_cast<size_t>(t) * layer.hidden + c]);
    if (quantise) quantise_row(in.data(), layer.hidden);
    std::vector<double> expected(layer.hidden, 0);
    for (int k = 0; k < layer.picks; ++k) {
      const int e = ids[t * layer.picks + k];
      if (e >= 0) add_expert(layer.w1[e], layer.w3[e], layer.w2[e], in, routing[t * layer.picks + k], quantise, expected);
    }
    add_expert(layer.shared_gate, layer.shared_up, layer.shared_down, in, 1, quantise, expected);
    for (int c = 0; c < layer.hidden; ++c) d.add(y[static_cast<size_t>(t) * layer.hidden + c], expected[c]);
  }
  // Served: an activation on a rounding border may fall to the other side; exact: roundings to bf16 alone.
  expect_close(d, quantise ? 1e-2 : 5e-3,
               "experts D=" + std::to_string(layer.hidden) + " I=" + std::to_string(layer.width) +
                   " E=" + std::to_string(layer.experts) + " T=" + std::to_string(tokens) +
                   (mode == Mode::kExact ? " exact" : mode == Mode::kServed ? " served" : " served, FP8"));
  expect(std::none_of(y.begin(), y.end(), [](float v) { return std::isnan(v); }), "  every output written");
  if (mode == Mode::kFp8) return test_decode_apart(layer, tokens, in_device, y);
  if (mode == Mode::kServed && tokens <= 8) {
    const DeviceArray<bf16> quantised(x.size());
    cuda::run_quantise({.rows = tokens, .cols = layer.hidden, .ldx = layer.hidden, .x = d_x, .y = quantised});
    sync("run_quantise");
    expect(run(layer, tokens, {d_x, d_ids, d_routing, quantised}, mode) == y, "  an input quantised before gives the same bits");
    expect(run_late(layer, tokens, {d_x, d_ids, d_routing, quantised}) == y, "  so does one that is written meanwhile");
  }
  for (const int fewer : {1, 3, tokens / 3}) {
    if (fewer == 0 || fewer >= tokens) continue;
    const std::vector<float> some = run(layer, fewer, in_device, mode);
    expect(std::equal(some.begin(), some.end(), y.begin()), "  the first " + std::to_string(fewer) + " alone give the same bits");
  }
}

/// One rank with both parts of the width gives the bits of two ranks with a part each, added.
void test_parts(cuda::WeightStore& store, const Layer& layer, int first, int tokens, Mode mode) {
  const ShardRange columns[] = {{0, first}, {first, layer.width}};
  MoeWeights both = layer.weights, parts[kParts];
  for (size_t i = 0; i < kParts; ++i) {
    std::vector<ExpertView> views;
    for (int e = 0; e < layer.experts; ++e) {
      views.push_back({cut_rows(layer.w1[e].view(), columns[i]), cut_rows(layer.w3[e].view(), columns[i]),
                       {cut_cols(layer.w2[e].view(), columns[i])}});
    }
    parts[i].gate.cols = layer.hidden;
    parts[i].experts = store.experts(views);
    parts[i].shared_gate = store.linear(cut_rows(layer.shared_gate.view(), columns[i]));
    parts[i].shared_up = store.linear(cut_rows(layer.shared_up.view(), columns[i]));
    parts[i].shared_down[0] = store.linear(cut_cols(layer.shared_down.view(), columns[i]));
    both.experts.down[i] = parts[i].experts.down[0];
    both.shared_down[i] = parts[i].shared_down[0];
  }
  std::vector<int32_t> ids(static_cast<size_t>(tokens) * layer.picks);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i % layer.experts);
  const DeviceArray<bf16> x(random_bf16(static_cast<size_t>(tokens) * layer.hidden, 0.5f));
  const DeviceArray<int32_t> d_ids(ids);
  const DeviceArray<float> routing(random_f32(ids.size()));
  const Inputs in = {x, d_ids, routing};
  cuda::MoeShape shape{tokens, layer.hidden, layer.experts, layer.picks, layer.width, layer.width, 2};
  const std::vector<float> y = run(both, shape, in, mode);
  shape.parts = 1;
  shape.width = shape.shared_width = first;
  const std::vector<float> a = run(parts[0], shape, in, mode);
  shape.width = shape.shared_width = layer.width - first;
  const std::vector<float> b = run(parts[1], shape, in, mode);
  size_t different = 0;
  for (size_t i = 0; i < y.size(); ++i) different += y[i] != bf16_round(a[i] + b[i]);
  expect(different == 0, "parts of " + std::to_string(first) + " and " + std::to_string(layer.width - first) + " columns, " +
                             std::to_string(tokens) + " tokens" +
                             (mode == Mode::kExact ? " exact" : mode == Mode::kServed ? " served" : " served, FP8") + ": " +
                             std::to_string(different) + " values differ from what two ranks sum");
}

void bench() {
  constexpr int kHidden = 4096, kWidth = 1024, kExperts = 256, kPicks = 6;  // Flash, one rank of two
  const size_t up_bytes = cuda::weight_bytes(WeightFormat::kFp4Group32, 2 * kWidth, kHidden) * kExperts;
  const size_t up_scales = cuda::scale_bytes(WeightFormat::kFp4Group32, 2 * kWidth, kHidden) * kExperts;
  const size_t shared_bytes = static_cast<size_t>(kWidth) * kHidden;
  // Any bytes are valid fp4; one random block repeated.
  const auto filled = [](size_t bytes, uint8_t low, int spread) {
    std::vector<uint8_t> block(size_t{1} << 20);
    for (uint8_t& b : block) b = static_cast<uint8_t>(low + below(spread));
    DeviceArray<uint8_t> array(bytes);
    for (size_t at = 0; at < bytes; at += block.size()) {
      check(cudaMemcpy(array + at, block.data(), std::min(block.size(), bytes - at), cudaMemcpyHostToDevice), "fill");
    }
    return array;
  };
  const DeviceArray<uint8_t> up = filled(up_bytes, 0, 256), down = filled(up_bytes / 2, 0, 256),
                             up_scale = filled(up_scales, 117, 4), down_scale = filled(up_scales / 2, 117, 4),
                             shared = filled(3 * shared_bytes, 0, 120), shared_scale = filled(3 * shared_bytes / 16384, 112, 4);
  MoeWeights weights;
  weights.gate.cols = kHidden;
  weights.experts = {kExperts,
                     {WeightFormat::kFp4Group32, 2 * kWidth, kHidden, up, up_scale},
                     {Linear{WeightFormat::kFp4Group32, kHidden, kWidth, down, down_scale}},
                     nullptr};
  weights.shared_gate = {WeightFormat::kFp8Block128, kWidth, kHidden, shared, shared_scale};
  weights.shared_up = {WeightFormat::kFp8Block128, kWidth, kHidden, shared + shared_bytes, shared_scale + shared_bytes / 16384};
  weights.shared_down = {Linear{WeightFormat::kFp8Block128, kHidden, kWidth, shared + 2 * shared_bytes,
                                shared_scale + 2 * shared_bytes / 16384}};
  for (const int tokens : {1, 3, 8, 24, 64, 192, 512, 1024, 4096, 8192}) {
    const cuda::MoeShape shape{tokens, kHidden, kExperts, kPicks, kWidth, kWidth};
    const DeviceArray<uint8_t> workspace(cuda::moe_workspace_bytes(shape));
    const DeviceArray<bf16> x(random_bf16(static_cast<size_t>(tokens) * kHidden)), y(static_cast<size_t>(tokens) * kHidden);
    // Eight routings in turn, so that decode reads other experts than the ones just left in L2.
    constexpr int kTurns = 8;
    std::vector<int32_t> ids(static_cast<size_t>(tokens) * kPicks * kTurns);
    double hit = 0;
    for (int turn = 0; turn < kTurns; ++turn) {
      std::vector<bool> seen(kExperts);
      for (int t = 0; t < tokens; ++t) {
        const int first = below(kExperts), step = 1 + 2 * below(100);
        for (int k = 0; k < kPicks; ++k) {
          const int e = (first + k * step) % kExperts;
          ids[(static_cast<size_t>(turn) * tokens + t) * kPicks + k] = e;
          seen[e] = true;
        }
      }
      hit += static_cast<double>(std::count(seen.begin(), seen.end(), true)) / kTurns;
    }
    const DeviceArray<int32_t> d_ids(ids);
    const DeviceArray<float> routing(random_f32(static_cast<size_t>(tokens) * kPicks));
    const double us = time_graph_us(kTurns, [&](int i, cudaStream_t stream) {
      cuda::run_experts({.tokens = tokens, .picks = kPicks, .limit = 10, .quantise = true, .arch = cuda::device_info().arch,
                         .weights = &weights, .hidden = x, .ids = d_ids + static_cast<size_t>(i) * tokens * kPicks,
                         .routing = routing, .output = y,
                         .workspace = cuda::carve_moe_workspace(workspace, shape), .num_sms = cuda::device_info().multiprocessors,
                         .stream = stream});
    });
    const double flops = 2.0 * tokens * (kPicks + 1) * 3 * kHidden * kWidth;
    const double bytes = hit * 3 * kHidden * kWidth * (0.5 + 1.0 / 32) + 3.0 * shared_bytes;
    std::printf("  experts T=%4d  %5.1f experts hit  %9.1f us  %6.1f TFLOP/s  %6.0f GB/s of weights", tokens, hit, us,
                flops / us / 1e6, bytes / us / 1e3);
    if (has_fp8() && tokens * kPicks > 8 * kExperts) {
      std::vector<int> counts(kExperts);
      for (int i = 0; i < tokens * kPicks; ++i) ++counts[ids[i]];
      std::printf("  predicted %9.1f us", predicted_experts_us(Card::current(), counts, tokens, kHidden, kWidth));
    }
    std::printf("\n");
  }
}

}  // namespace

int main(int argc, char** argv) {
  const bool timed = start("moe", argc, argv);
  {
    cuda::WeightStore store(nullptr);
    const int wide = brief ? 10 : 24;  // preparing an expert's weights is six launches, and each of them has its price
    const Layer small(store, 384, 128, 12, 2), narrow(store, 256, 64, 8, 2), large(store, 1024, 384, wide, 6),
        even(store, 512, 512, wide, 6), many(store, 256, 64, brief ? 8 : 256, 6), deep(store, 4096, 64, 6, 2);
    for (const Mode mode : {Mode::kExact, Mode::kServed, Mode::kFp8}) {
      if (brief && mode != Mode::kServed) continue;  // the products of the others are run below and by gemm
      for (const int tokens : cases({7, 40, 1, 12, 400}, 2)) {
        if (!brief || tokens == 7) test_parts(store, large, 128, tokens, mode);
        test_parts(store, even, 256, tokens, mode);  // in one launch
        if (!brief) test_parts(store, large, 256, tokens, mode);
      }
    }
    for (const Mode mode : {Mode::kExact, Mode::kServed}) {
      if (brief && mode == Mode::kExact) continue;
      for (const int tokens : cases({2, 13, 150, 1, 7, 30, 500}, 3)) test_experts(small, tokens, mode);
      for (const int tokens : cases({40, 3, 400}, 1)) test_experts(narrow, tokens, mode);
      for (const int tokens : cases({8, 33, 1, 64, 700}, 2)) test_experts(large, tokens, mode);
      for (const int tokens : cases({8}, 0)) test_experts(many, tokens, mode);  // more tiles than a warp has lanes
      for (const int tokens : cases({1, 5}, 1)) test_experts(deep, tokens, mode);  // a chunk for every warp of a block
    }
    for (const int tokens : cases({150, 17, 1, 60, 500, 3000}, 1)) test_experts(small, tokens, Mode::kFp8);
    // 64 columns of an expert: bf16 products.
    for (const int tokens : cases({40, 400}, 1)) test_experts(narrow, tokens, Mode::kFp8);
    for (const int tokens : cases({33, 9, 100, 700}, 1)) test_experts(large, tokens, Mode::kFp8);
  }
  if (timed) bench();
  return finish("moe");
}
