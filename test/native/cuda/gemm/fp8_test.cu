// SPDX-License-Identifier: MIT
// Products on FP8 tensor cores, forced on any device (Hopper computes the one instruction it lacks from bf16 products): the
// instruction against its definition, cells against the quantiser, products against float64, and to the bit against the bf16
// kernels where every sum is exact. With --bench: TFLOP/s (a measure of the tensor cores on sm_12x only).
#include <array>

#include "arch/mma_fp8.cuh"
#include "fp8_roof.h"
#include "gemm/fp8_cells.h"
#include "gemm/fp8_gemm.h"
#include "gemm_problem.h"

using namespace twelvex;
using namespace twelvex::test;
using cuda::ElementA;
using cuda::GemmParams;
using cuda::WeightStore;
using bf16 = __nv_bfloat16;

namespace {

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
  const std::vector<bf16> x = rows_to_quantise(kRows, kCols);
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

constexpr WeightFormat kFp8 = WeightFormat::kFp8Block128;
constexpr Way kForced = {.quantise = true, .arch = 120}, kWide = {.quantise = true, .arch = 0};

/// Values of few bits, whose sums are exact in any order.
Problem exact_problem(WeightStore& store, int t, int n, int k) {
  HostMatrix weights(kFp8, n, k);
  std::vector<bf16> x(static_cast<size_t>(t) * k);
  for (uint8_t& b : weights.data) b = static_cast<uint8_t>((b & 0x80) | (b % 9 == 0 ? 0 : 0x38 + b % 24));  // 0, 1 .. 7.5
  for (uint8_t& s : weights.scale) s = static_cast<uint8_t>(127 + s % 3);
  for (bf16& v : x) v = __float2bfloat16(static_cast<float>(below(17) - 8));
  return Problem(store, std::move(weights), std::move(x));
}

/// Where every sum is exact, both families of kernels have to agree to the bit.
void test_exact_sums(WeightStore& store, int t, int n, int k) {
  const Problem problem = exact_problem(store, t, n, k);
  const std::vector<float> fp8 = problem.run<float>(t, kForced), wide = problem.run<float>(t, kWide);
  expect(same_bits(fp8.data(), wide.data(), fp8.size()), "exact sums T=" + std::to_string(t) + " N=" + std::to_string(n) +
                                                             " K=" + std::to_string(k) + ": the bits of the bf16 kernels");
}

/// A row has the same bits in every launch of FP8 products; decode rows have those of the other kernels.
void test_rows(WeightStore& store, int n, int k) {
  const Problem problem(store, kFp8, 700, n, k);
  const std::vector<float> all = problem.run<float>(700, kForced), wide = problem.run<float>(700, kWide);
  for (const int t : {17, 64, 65, 129, 333}) {
    const std::vector<float> some = problem.run<float>(t, kForced);
    expect(same_bits(some.data(), all.data(), some.size()), "rows of T=" + std::to_string(t) + " have the bits of T=700");
  }
  for (const int decode : {1, 9, 40, 200}) {
    const std::vector<float> mixed = problem.run<float>(700, {.quantise = true, .arch = 120, .decode_rows = decode});
    const size_t at = static_cast<size_t>(decode) * n;
    expect(same_bits(mixed.data(), wide.data(), at) && same_bits(&mixed[at], &all[at], all.size() - at),
           std::to_string(decode) + " decode rows keep the bits of the bf16 kernels, the others those of FP8");
  }
  expect(!same_bits(all.data(), wide.data(), all.size()), "the two families round differently (or one was not run)");
}

/// Both families at Flash's shapes for a rank of two, quantisation included; on sm_12x beside the prediction.
void bench(WeightStore& store) {
  struct Shape {
    int n, k;
    const char* what;
  };
  if (!has_fp8()) std::printf("  no FP8 mma.sync here: fp8 times say nothing of sm_12x, and nothing is predicted\n");
  for (const Shape& s : {Shape{4096, 4096, "wo_b"}, Shape{16384, 1024, "wq_b"}}) {
    const Problem problem(store, kFp8, 8192, s.n, s.k);
    const DeviceArray<bf16> y(static_cast<size_t>(8192) * s.n);
    for (const int t : {64, 512, 4096, 8192}) {
      double us[2];
      for (const bool fp8 : {false, true}) {
        us[fp8] = time_graph_us(4, [&](int, cudaStream_t stream) {
          GemmParams p = problem.params(t, y, false, fp8 ? kForced : kWide);
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
  constexpr std::array<int, 3> kShapes[] = {{17, 256, 128}, {29, 12, 384},  // row tails
                                            {77, 640, 640}, {333, 896, 2048}, {1500, 1536, 256}, {130, 136, 8192}};
  for (const auto& [t, n, k] : kShapes) test_dense(Problem(store, kFp8, t, n, k), kForced, "fp8");
  test_rows(store, 512, brief ? 512 : 4096);
  test_segments(store, 200, kForced);
  test_segments(store, 300, {.quantise = true, .arch = 120, .decode_rows = 13});
  if (timed) bench(store);
  return finish("fp8");
}
