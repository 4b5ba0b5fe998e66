// SPDX-License-Identifier: MIT
// Products on FP8 tensor cores, forced on any device (Hopper computes the one instruction it lacks from bf16 products): the
// instruction against its definition, cells against the quantiser, products against float64, and to the bit against the bf16
// kernels where every sum is exact. With --bench: TFLOP/s (a measure of the tensor cores on sm_12x only).
#include <array>

#include "arch/mma_fp8.cuh"
#include "common/device.h"
#include "fp8_roof.h"
#include "gemm/fp8_cells.h"
#include "gemm/fp8_gemm.h"
#include "gemm/gemm.h"
#include "gemm_reference.h"
#include "weights.h"

using namespace twelvex;
using namespace twelvex::test;
using cuda::ElementA;
using cuda::GemmParams;
using cuda::WeightStore;
using bf16 = __nv_bfloat16;

namespace {

constexpr int kForced = 120;

// ---- the instruction

struct Fragments {
  std::array<uint32_t, 32 * 4> a;
  std::array<uint32_t, 32 * 2> b;
  std::array<uint32_t, 32> scale_a, scale_b;
  std::array<float, 32 * 4> c;
};

template <ElementA kElement, int kByteA, int kPairA, int kLaneB>
__global__ void mma_kernel(const Fragments* in, float* out) {
  const int lane = threadIdx.x;
  uint32_t a[4];
  float c[4], d[4];
  for (int i = 0; i < 4; ++i) a[i] = in->a[lane * 4 + i], c[i] = in->c[lane * 4 + i];
  cuda::mma_scaled<kElement, kByteA, kPairA, kLaneB>(d, a, in->b[lane * 2], in->b[lane * 2 + 1], c, in->scale_a[lane],
                                                     in->scale_b[lane]);
  for (int i = 0; i < 4; ++i) out[lane * 4 + i] = d[i];
}

uint8_t byte_of(uint32_t word, int i) { return static_cast<uint8_t>(word >> (8 * i)); }

template <ElementA kElement, int kByteA, int kPairA, int kLaneB>
double error_of_mma() {
  Fragments f;
  for (uint32_t& w : f.a) {
    w = 0;
    for (int i = 0; i < 4; ++i) {
      uint32_t byte = rng()() & 0xffu;
      if (kElement == ElementA::kE2M1) byte &= 0x3cu;
      if ((byte & 0x7f) == 0x7f) byte = 1;
      w |= byte << (8 * i);
    }
  }
  for (uint32_t& w : f.b) {
    w = static_cast<uint32_t>(rng()());
    for (int i = 0; i < 4; ++i) {
      if ((byte_of(w, i) & 0x7f) == 0x7f) w ^= 1u << (8 * i);
    }
  }
  for (uint32_t& w : f.scale_a) {  // bytes and lanes that must not be read lie far off
    w = 0;
    for (int i = 0; i < 4; ++i) w |= static_cast<uint32_t>(i == kByteA ? 117 + below(8) : 160) << (8 * i);
  }
  for (int lane = 0; lane < 32; ++lane) {
    if (lane % 4 / 2 != kPairA) f.scale_a[lane] = 0xa0a0a0a0u;
    f.scale_b[lane] = lane % 4 == kLaneB ? 0xa0a0a000u + static_cast<uint32_t>(117 + below(8)) : 0xa0a0a0a0u;
  }
  for (float& c : f.c) c = gauss(100);
  const DeviceArray<Fragments> in(std::vector<Fragments>{f});
  const DeviceArray<float> out(32 * 4);
  out.poison();
  mma_kernel<kElement, kByteA, kPairA, kLaneB><<<1, 32>>>(in, out);
  sync("mma_kernel");
  const std::vector<float> d = out.download();
  const auto a_of = [&](int row, int k) {
    const uint8_t byte = byte_of(f.a[(row % 8 * 4 + k % 16 / 4) * 4 + row / 8 + k / 16 * 2], k % 4);
    const double value = kElement == ElementA::kE4M3 ? e4m3(byte) : e2m1(byte >> 2);
    return value * e8m0(byte_of(f.scale_a[row % 8 * 4 + 2 * kPairA + row / 8], kByteA));
  };
  const auto b_of = [&](int k, int column) {
    return static_cast<double>(e4m3(byte_of(f.b[(column * 4 + k % 16 / 4) * 2 + k / 16], k % 4))) *
           e8m0(byte_of(f.scale_b[column * 4 + kLaneB], 0));
  };
  Difference difference;
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
      double sum = f.c[lane * 4 + i];
      for (int k = 0; k < 32; ++k) sum += a_of(row, k) * b_of(k, column);
      difference.add(d[lane * 4 + i], sum);
    }
  }
  return difference.relative();
}

template <ElementA kElement, int kByteA, int kPairA>
double error_of_lanes() {
  return std::max(std::max(error_of_mma<kElement, kByteA, kPairA, 0>(), error_of_mma<kElement, kByteA, kPairA, 1>()),
                  std::max(error_of_mma<kElement, kByteA, kPairA, 2>(), error_of_mma<kElement, kByteA, kPairA, 3>()));
}

template <ElementA kElement>
void test_mma(const char* name) {
  double worst = 0;
  for (int i = 0; i < 8; ++i) {
    worst = std::max({worst, error_of_lanes<kElement, 0, 0>(), error_of_lanes<kElement, 1, 1>(), error_of_lanes<kElement, 2, 0>(),
                      error_of_lanes<kElement, 2, 1>(), error_of_lanes<kElement, 3, 0>(), error_of_lanes<kElement, 0, 1>()});
  }
  char what[128];
  std::snprintf(what, sizeof what, "%s x e4m3 with scales from the named lanes and bytes: error %.1e", name, worst);
  expect(worst < 1e-5, what);
}

// ---- activations

void test_cells() {
  constexpr int kRows = 37, kCols = 384;
  std::vector<bf16> x = random_bf16(kRows * kCols, 3.0f);
  for (int i = 0; i < kCols; ++i) x[i] = __float2bfloat16(0.0f), x[kCols + i] = __float2bfloat16(gauss(1e-6f));
  x[2 * kCols] = __float2bfloat16(448.0f);
  std::vector<float> expected = to_floats(x);
  for (int r = 0; r < kRows; ++r) quantise_row(&expected[r * kCols], kCols);
  const DeviceArray<bf16> cells(x);  // in place
  cuda::run_quantise_fp8({.rows = kRows, .cols = kCols, .ldx = kCols, .x = cells, .y = cells});
  sync("run_quantise_fp8");
  const std::vector<bf16> out = cells.download();
  const auto* bytes = reinterpret_cast<const uint8_t*>(out.data());
  bool same = true;
  for (int r = 0; r < kRows; ++r) {
    for (int c = 0; c < kCols; ++c) {
      const uint8_t* cell = bytes + (r * (kCols / 128) + c / 128) * cuda::kFp8CellBytes;
      same &= e4m3(cell[cuda::fp8_cell_byte(c % 128)]) * e8m0(cell[cuda::kFp8CellScale]) == expected[r * kCols + c];
    }
  }
  expect(same, "cells, quantised in place, hold what the rule on real numbers says");
}

// ---- dense products

/// Inputs and outputs of one product; `scratch` for quantised copies.
struct Problem {
  HostMatrix weights;
  Linear linear;
  std::vector<bf16> x;
  DeviceArray<bf16> device_x, scratch;

  /// `few_bits`: values of few bits, whose sums are exact in any order.
  Problem(WeightStore& store, int t, int n, int k, bool few_bits)
      : weights(WeightFormat::kFp8Block128, n, k), x(random_bf16(static_cast<size_t>(t) * k)) {
    if (few_bits) {
      for (uint8_t& b : weights.data) b = static_cast<uint8_t>((b & 0x80) | (b % 9 == 0 ? 0 : 0x38 + b % 24));  // 0, 1 .. 7.5
      for (uint8_t& s : weights.scale) s = static_cast<uint8_t>(127 + s % 3);
      for (bf16& v : x) v = __float2bfloat16(static_cast<float>(below(17) - 8));
    }
    linear = store.linear(weights.view());
    device_x = DeviceArray<bf16>(x);
    scratch = DeviceArray<bf16>(x.size());
  }

  GemmParams params(int t, void* y, bool f32, int arch, int decode_rows = 0) const {
    GemmParams p;
    p.format = weights.format;
    p.rows = t;
    p.cols = p.ldx = static_cast<int>(weights.cols);
    p.quantise = true;
    p.arch = arch;
    p.decode_rows = decode_rows;
    p.quantised = scratch;
    p.num_segments = 1;
    p.segments[0] = {.weights = static_cast<const uint8_t*>(linear.data),
                     .scales = static_cast<const uint8_t*>(linear.scale),
                     .x = device_x,
                     .y = y,
                     .rows = static_cast<int>(weights.rows),
                     .ldy = static_cast<int>(weights.rows),
                     .f32 = f32};
    p.num_sms = cuda::device_info().multiprocessors;
    return p;
  }
};

std::vector<float> run_f32(const Problem& problem, int t, int arch, int decode_rows = 0) {
  DeviceArray<float> y(static_cast<size_t>(t) * problem.weights.rows);
  y.poison();
  cuda::run_gemm(problem.params(t, y, true, arch, decode_rows));
  sync("run_gemm");
  return y.download();
}

bool same_bits(const float* a, const float* b, size_t count) { return std::memcmp(a, b, count * sizeof(float)) == 0; }

void test_dense(WeightStore& store, int t, int n, int k) {
  const Problem problem(store, t, n, k, false);
  std::vector<float> x = to_floats(problem.x);
  for (int r = 0; r < t; ++r) quantise_row(&x[static_cast<size_t>(r) * k], k);
  const std::vector<float> y = run_f32(problem, t, kForced);
  DeviceArray<bf16> rounded(static_cast<size_t>(t) * n);
  rounded.poison();
  cuda::run_gemm(problem.params(t, rounded, false, kForced));
  sync("run_gemm");
  const std::vector<float> z = to_floats(rounded.download());
  Difference exact, bf;
  const int step = std::max(1, t * n / 20000);
  for (int j = below(step); j < n; j += step) {
    const std::vector<float> w = problem.weights.row(j);
    for (int r = 0; r < t; ++r) {
      const double sum = dot(w.data(), &x[static_cast<size_t>(r) * k], k);
      exact.add(y[static_cast<size_t>(r) * n + j], sum);
      bf.add(z[static_cast<size_t>(r) * n + j], sum);
    }
  }
  const std::string what = "T=" + std::to_string(t) + " N=" + std::to_string(n) + " K=" + std::to_string(k);
  expect_close(exact, 5e-5, what + ", f32 out");
  expect_close(bf, 3e-3, what + ", bf16 out");
  expect(std::none_of(y.begin(), y.end(), [](float v) { return std::isnan(v); }) &&
             std::none_of(z.begin(), z.end(), [](float v) { return std::isnan(v); }),
         what + ": every output written");
}

/// Where every sum is exact, both families of kernels have to agree to the bit.
void test_exact_sums(WeightStore& store, int t, int n, int k) {
  const Problem problem(store, t, n, k, true);
  const std::vector<float> fp8 = run_f32(problem, t, kForced), wide = run_f32(problem, t, 0);
  expect(same_bits(fp8.data(), wide.data(), fp8.size()), "exact sums T=" + std::to_string(t) + " N=" + std::to_string(n) +
                                                             " K=" + std::to_string(k) + ": the bits of the bf16 kernels");
}

/// A row has the same bits in every launch of FP8 products; decode rows have those of the other kernels.
void test_rows(WeightStore& store, int n, int k) {
  const Problem problem(store, 700, n, k, false);
  const std::vector<float> all = run_f32(problem, 700, kForced), wide = run_f32(problem, 700, 0);
  for (const int t : {17, 64, 65, 129, 333}) {
    const std::vector<float> some = run_f32(problem, t, kForced);
    expect(same_bits(some.data(), all.data(), some.size()), "rows of T=" + std::to_string(t) + " have the bits of T=700");
  }
  for (const int decode : {1, 9, 40, 200}) {
    const std::vector<float> mixed = run_f32(problem, 700, kForced, decode);
    const size_t at = static_cast<size_t>(decode) * n;
    expect(same_bits(mixed.data(), wide.data(), at) && same_bits(&mixed[at], &all[at], all.size() - at),
           std::to_string(decode) + " decode rows keep the bits of the bf16 kernels, the others those of FP8");
  }
  expect(!same_bits(all.data(), wide.data(), all.size()), "the two families round differently (or one was not run)");
}

/// Several products of one launch, with column slices of one input, behind decode rows.
void test_segments(WeightStore& store, int t, int decode) {
  constexpr int kGroups = 4, kCols = 512, kRows = 256;
  const HostMatrix w(WeightFormat::kFp8Block128, kGroups * kRows, kCols);
  const Linear linear = store.linear(w.view());
  const std::vector<bf16> x = random_bf16(static_cast<size_t>(t) * kGroups * kCols);
  const DeviceArray<bf16> device_x(x), y(static_cast<size_t>(t) * kGroups * kRows), scratch(x.size());
  y.poison();
  GemmParams p;
  p.rows = p.x_rows = t;
  p.cols = kCols;
  p.ldx = p.x_cols = kGroups * kCols;
  p.quantise = true;
  p.arch = kForced;
  p.decode_rows = decode;
  p.quantised = scratch;
  p.num_segments = kGroups;
  p.num_sms = cuda::device_info().multiprocessors;
  for (int g = 0; g < kGroups; ++g) {
    p.segments[g] = {.weights = static_cast<const uint8_t*>(linear.data) + g * cuda::weight_bytes(w.format, kRows, kCols),
                     .scales = static_cast<const uint8_t*>(linear.scale) + g * cuda::scale_bytes(w.format, kRows, kCols),
                     .x = device_x + g * kCols, .y = y + g * kRows, .rows = kRows, .ldy = kGroups * kRows};
  }
  cuda::run_gemm(p);
  sync("run_gemm");
  std::vector<float> quantised = to_floats(x);
  quantise_row(quantised.data(), static_cast<int>(quantised.size()));
  const std::vector<float> out = to_floats(y.download());
  Difference d;
  for (int j = 0; j < kGroups * kRows; ++j) {
    const std::vector<float> row = w.row(j);
    for (int r = 0; r < t; ++r) {
      d.add(out[static_cast<size_t>(r) * kGroups * kRows + j],
            dot(row.data(), &quantised[(static_cast<size_t>(r) * kGroups + j / kRows) * kCols], kCols));
    }
  }
  expect_close(d, 3e-3, "four groups in one launch, T=" + std::to_string(t) + ", " + std::to_string(decode) + " of decode");
}

/// Both families at Flash's shapes for a rank of two, quantisation included; on sm_12x beside the prediction.
void bench(WeightStore& store) {
  struct Shape {
    int n, k;
    const char* what;
  };
  if (!has_fp8()) std::printf("  no FP8 mma.sync here: fp8 times say nothing of sm_12x, and nothing is predicted\n");
  for (const Shape& s : {Shape{4096, 4096, "wo_b"}, Shape{16384, 1024, "wq_b"}, Shape{1536, 4096, "wq_a + wkv"}}) {
    const Problem problem(store, 8192, s.n, s.k, false);
    const DeviceArray<bf16> y(static_cast<size_t>(8192) * s.n);
    for (const int t : {64, 512, 4096, 8192}) {
      double us[2];
      for (const int arch : {0, kForced}) {
        us[arch != 0] = time_graph_us(4, [&](int, cudaStream_t stream) {
          GemmParams p = problem.params(t, y, false, arch);
          p.stream = stream;
          cuda::run_gemm(p);
        });
      }
      const double flops = 2.0 * t * s.n * s.k / 1e6;
      std::printf("  %-10s N=%5d K=%4d T=%4d  bf16 %8.1f us %6.1f TFLOP/s   fp8 %8.1f us %6.1f TFLOP/s", s.what, s.n, s.k, t,
                  us[0], flops / us[0], us[1], flops / us[1]);
      if (has_fp8()) {
        const double predicted = predicted_dense_us(Card::current(), problem.params(t, y, false, kForced));
        std::printf("   predicted %8.1f us %6.1f TFLOP/s", predicted, flops / predicted);
      }
      std::printf("\n");
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  const bool timed = start("fp8", argc, argv);
  test_mma<ElementA::kE4M3>("e4m3");
  test_mma<ElementA::kE2M1>("e2m1");
  test_cells();
  WeightStore store(nullptr);
  test_exact_sums(store, 65, 128, 128);
  test_exact_sums(store, 333, 384, 1152);
  if (!brief) test_exact_sums(store, 2000, 1536, 4096);
  test_dense(store, 17, 256, 128);
  test_dense(store, 29, 12, 384);  // row tails
  test_dense(store, 77, 640, 640);
  if (!brief) test_dense(store, 333, 896, 2048);
  test_dense(store, 1500, 1536, 256);
  test_dense(store, 130, 136, 8192);
  test_rows(store, 512, brief ? 512 : 4096);
  test_segments(store, 200, 0);
  test_segments(store, 300, 13);
  if (timed) bench(store);
  return finish("fp8");
}
