// SPDX-License-Identifier: MIT
// Dense products of every weight format against float64, the quantiser to the bit, and the promise that a row's result does
// not depend on how many rows are computed or by which kernel. With --bench: TFLOP/s (many rows) and GB/s (few).
#include <array>
#include <thread>

#include "gemm/quantise.h"
#include "gemm_problem.h"
#include "runtime/error.h"

namespace twelvex::cuda::tile {  // the instances, to time block sizes that the plan would not choose
void run_fp8(const GemmParams& p, const TilePlan& plan);
void run_bf16(const GemmParams& p, const TilePlan& plan);
}  // namespace twelvex::cuda::tile

using namespace twelvex;
using namespace twelvex::test;
using cuda::GemmParams;
using cuda::WeightStore;
using bf16 = __nv_bfloat16;

namespace {

const char* name_of(WeightFormat f) {
  return f == WeightFormat::kBF16          ? "bf16"
         : f == WeightFormat::kFp8Block128 ? "fp8"
         : f == WeightFormat::kFp4Group32  ? "fp4"
                                           : "f32";
}

/// Streaming (8 and 16 rows), tiles (32, 64, 128 rows) and what the device has instead of tiles give a row the same bits.
void test_invariance(WeightStore& store, WeightFormat format, int n, int k, bool quantise) {
  const Problem problem(store, format, 700, n, k);
  const std::vector<float> all = problem.run<float>(700, {.quantise = quantise, .arch = 0});
  for (const int t : {1, 3, 8, 9, 16, 17, 33, 64, 96, 192, 700}) {
    for (const int arch : {0, wide_arch()}) {
      const std::vector<float> some = problem.run<float>(t, {.quantise = quantise, .arch = arch});
      char what[128];
      std::snprintf(what, sizeof what, "%s N=%d K=%d%s, arch %d: rows of T=%d equal those of T=700", name_of(format), n, k,
                    quantise ? " quantised" : "", arch, t);
      expect(same_bits(some.data(), all.data(), some.size()), what);
    }
  }
}

/// The shared expert: gate and up in one pass.
void test_paired(WeightStore& store, int t, int n, int k) {
  const HostMatrix gate(WeightFormat::kFp8Block128, n, k), up(WeightFormat::kFp8Block128, n, k);
  const Linear device_gate = store.linear(gate.view()), device_up = store.linear(up.view());
  const std::vector<bf16> x = random_bf16(static_cast<size_t>(t) * k, 4.0f);
  const DeviceArray<bf16> device_x(x), y(static_cast<size_t>(t) * n), scratch(x.size());
  y.poison();
  GemmParams p;
  p.arch = wide_arch();
  p.quantised = scratch;
  p.rows = t;
  p.cols = p.ldx = k;
  p.paired = true;
  p.limit = 10;
  p.num_segments = 2;
  p.num_sms = cuda::device_info().multiprocessors;
  const Linear* linears[2] = {&device_gate, &device_up};
  for (int s = 0; s < 2; ++s) {
    p.segments[s] = {.weights = static_cast<const uint8_t*>(linears[s]->data),
                     .scales = static_cast<const uint8_t*>(linears[s]->scale),
                     .x = device_x,
                     .y = y,
                     .rows = n,
                     .ldy = n};
  }
  cuda::run_gemm(p);
  sync("run_gemm");
  const std::vector<float> in = to_floats(x), out = to_floats(y.download());
  Difference d;
  bool clamped = false;
  for (int j = 0; j < n; ++j) {
    const std::vector<float> g = gate.row(j), u = up.row(j);
    for (int r = 0; r < t; ++r) {
      const double a = dot(g.data(), &in[static_cast<size_t>(r) * k], k), b = dot(u.data(), &in[static_cast<size_t>(r) * k], k);
      clamped |= a > 10 && b > 10;
      d.add(out[static_cast<size_t>(r) * n + j], twelvex::test::swiglu(a, b, 10));
    }
  }
  expect_close(d, 4e-3, "gate and up with SwiGLU, T=" + std::to_string(t) + (clamped ? ", clamps reached" : ""));
}

void test_quantiser() {
  constexpr int kRows = 37, kCols = 352;  // the last group is short
  const std::vector<bf16> x = rows_to_quantise(kRows, kCols);
  const DeviceArray<bf16> device_x(x), y(x.size());
  y.poison();
  cuda::run_quantise({.rows = kRows, .cols = kCols, .ldx = kCols, .x = device_x, .y = y});
  sync("run_quantise");
  const std::vector<float> out = to_floats(y.download());
  std::vector<float> expected = to_floats(x);
  for (int r = 0; r < kRows; ++r) quantise_row(&expected[r * kCols], kCols);
  expect(std::equal(out.begin(), out.end(), expected.begin()), "quantiser equals the rule on real numbers");
}

/// Ranks that share a device launch a kernel with different amounts of shared memory, both above 48 KiB, at the same time.
void test_threads(WeightStore& store) {
  constexpr int kRows[] = {4, 8};
  const int times = brief ? 20 : 500;  // launches of two threads take racecheck minutes
  const Problem problem(store, WeightFormat::kFp8Block128, 8, 128, 4096);
  std::array<int, 2> launched{};
  std::array<std::thread, 2> threads;
  for (size_t i = 0; i < threads.size(); ++i) {
    threads[i] = std::thread([&, i] {
      try {
        const DeviceArray<float> y(size_t{8} * 128);
        const GemmParams p = problem.params(kRows[i], y.get(), true, {.quantise = true});
        for (; launched[i] < times; ++launched[i]) cuda::run_gemm(p);
        sync("two threads");
      } catch (const Error& error) {
        std::printf("  %s\n", error.what());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  expect(launched[0] == times && launched[1] == times, "two threads launch a kernel with 4 and with 8 rows' shared memory");
}

void test_prepared_bf16(WeightStore& store) {
  const HostMatrix w(WeightFormat::kBF16, 37, 160);
  const Linear linear = store.linear(w.view());
  sync("prepare");
  std::vector<uint8_t> bytes(cuda::weight_bytes(w.format, w.rows, w.cols));
  check(cudaMemcpy(bytes.data(), linear.data, bytes.size(), cudaMemcpyDeviceToHost), "download");
  bool same = true;
  for (int r = 0; r < w.rows; ++r) {
    for (int c = 0; c < w.cols; ++c)
      same &= std::memcmp(&bytes[cuda::bf16_offset(r, c, w.cols)], &w.data[(r * w.cols + c) * 2], 2) == 0;
  }
  expect(same, "bf16_offset finds every element of a prepared matrix");
}

/// The tile kernel's block sizes against each other, without quantisation.
void bench_tiles(WeightStore& store, WeightFormat format, int n, int k) {
  const Problem problem(store, format, 4096, n, k);
  DeviceArray<bf16> y(static_cast<size_t>(4096) * n);
  for (const int t : {64, 512, 4096}) {
    for (const int rows_m : {32, 64, 128}) {
      const cuda::TilePlan plan{rows_m, (n + 127) / 128, (t + rows_m - 1) / rows_m};
      const double us = time_graph_us(4, [&](int, cudaStream_t stream) {
        GemmParams p = problem.params(t, y, false, {});
        p.stream = stream;
        (format == WeightFormat::kBF16 ? cuda::tile::run_bf16 : cuda::tile::run_fp8)(p, plan);
      });
      std::printf("  tile %s N=%5d K=%4d T=%4d rows_m=%3d  %9.2f us  %7.1f TFLOP/s\n", name_of(format), n, k, t, rows_m, us,
                  2.0 * t * n * k / us / 1e6);
    }
  }
}

void bench(WeightStore& store) {
  DeviceArray<uint8_t> a(size_t{1} << 30), b(size_t{1} << 30);
  const double copy_us = time_us([&] { cudaMemcpyAsync(b, a, a.size(), cudaMemcpyDeviceToDevice); });
  const double copy = 2.0 * a.size() / copy_us / 1e3;
  std::printf("  device-to-device copy %.0f GB/s (read + written)\n", copy);
  struct Shape {
    WeightFormat format;
    int n, k;
    const char* what;
  };
  const Shape shapes[] = {
      {WeightFormat::kFp8Block128, 4096, 4096, "wo_b"},       {WeightFormat::kFp8Block128, 16384, 1024, "wq_b"},
      {WeightFormat::kFp8Block128, 1536, 4096, "wq_a + wkv"}, {WeightFormat::kBF16, 2048, 4096, "compressor"},
      {WeightFormat::kBF16, 64640, 4096, "lm_head"},
  };
  for (const Shape& s : shapes) {
    const Problem problem(store, s.format, 4096, s.n, s.k);
    // Enough copies of the weights that repeated launches do not read them from L2.
    const size_t bytes = cuda::weight_bytes(s.format, s.n, s.k);
    const int copies = static_cast<int>(std::max<size_t>(2, (size_t{400} << 20) / bytes));
    DeviceArray<uint8_t> many(bytes * copies);
    for (int i = 0; i < copies; ++i) cudaMemcpy(many + i * bytes, problem.linear.data, bytes, cudaMemcpyDeviceToDevice);
    DeviceArray<bf16> y(static_cast<size_t>(4096) * s.n);
    for (const int t : {1, 3, 8, 16, 64, 192, 512, 4096}) {
      if (s.n > 60000 && t > 64) continue;
      // One timed call is a graph of several products with different copies of the weights.
      const int inner = t <= 64 ? std::min(copies, 20) : 4;
      const double us = time_graph_us(inner, [&](int i, cudaStream_t stream) {
        GemmParams p = problem.params(t, y, false, {.quantise = s.format != WeightFormat::kBF16});
        p.segments[0].weights = many + i % copies * bytes;
        p.stream = stream;
        cuda::run_gemm(p);
      });
      std::printf("  %-10s %s N=%5d K=%4d T=%4d  %9.2f us  %7.1f TFLOP/s  %6.0f GB/s of weights (%.0f %% of copy)\n", s.what,
                  name_of(s.format), s.n, s.k, t, us, 2.0 * t * s.n * s.k / us / 1e6, bytes / us / 1e3,
                  100 * bytes / us / 1e3 / copy);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  const bool timed = start("gemm", argc, argv);
  WeightStore store(nullptr);
  test_prepared_bf16(store);
  test_quantiser();
  constexpr WeightFormat kBf16 = WeightFormat::kBF16, kFp8 = WeightFormat::kFp8Block128;
  // 700, 1,400 and 1,500 rows take blocks of 64, 128 and 96 on 132 multiprocessors.
  constexpr std::array<int, 3> kShapes[] = {{1, 256, 128},    {3, 384, 384},     {8, 1536, 4096},  {13, 1024, 1024},
                                            {16, 128, 8192},  {29, 384, 1152},   {77, 640, 640},   {333, 896, 2048},
                                            {700, 1536, 256}, {1400, 1536, 256}, {1500, 1536, 256}};
  for (const auto& [t, n, k] : kShapes) {
    if (brief && k > 1152) continue;
    test_dense(Problem(store, kBf16, t, n, k), {}, "bf16");
    const Problem fp8(store, kFp8, t, n, k);
    for (const bool quantise : {false, true}) test_dense(fp8, {.quantise = quantise}, "fp8");
  }
  constexpr std::array<int, 3> kTails[] = {{5, 12, 96}, {70, 12, 96}, {2, 4100, 160}};  // of rows and columns
  for (const auto& [t, n, k] : kTails) test_dense(Problem(store, kBf16, t, n, k), {}, "bf16");
  test_invariance(store, kFp8, 512, brief ? 1024 : 4096, true);
  if (!brief) test_invariance(store, kFp8, 256, 8192, false);
  test_invariance(store, kBf16, 300, 1056, false);
  for (const int t : {2, 15, 200}) test_segments(store, t, {});
  for (const int t : {1, 8, 50, 129}) test_paired(store, t, 256, 512);
  test_threads(store);
  if (timed) {
    bench(store);
    bench_tiles(store, kFp8, 4096, 4096);
    bench_tiles(store, kBf16, 4096, 4096);
  }
  return finish("gemm");
}
