// SPDX-License-Identifier: MIT
// What the device tests share: checks, fresh random numbers, device arrays, timing. A program runs its checks, prints one
// line each, and returns non-zero when one failed; with --bench it then times, with --short it does less.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "common/check.h"
#include "common/device.h"

namespace twelvex::test {

using cuda::check;

inline int failures = 0;

/// --short: fewer sizes and repetitions, yet every kernel and every branch of it, for runs under compute-sanitizer, which take
/// ten to some hundred times as long. What is compared with a clock is left out.
inline bool brief = false;

/// All of them, or with --short the first `few`.
inline std::vector<int> cases(std::vector<int> all, size_t few) {
  if (brief) all.resize(few);
  return all;
}

/// Fresh inputs on every run; the seed is printed so that a failure can be repeated (argument --seed N).
inline std::mt19937& rng() {
  static std::mt19937 engine;
  return engine;
}

inline bool start(const char* name, int argc, char** argv) {
  uint32_t seed = static_cast<uint32_t>(std::chrono::steady_clock::now().time_since_epoch().count());
  bool bench = false;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--bench") == 0) bench = true;
    if (std::strcmp(argv[i], "--short") == 0) brief = true;
    if (std::strcmp(argv[i], "--seed") == 0 && i + 1 < argc) seed = static_cast<uint32_t>(std::stoul(argv[++i]));
  }
  rng().seed(seed);
  std::setvbuf(stdout, nullptr, _IOLBF, 1 << 16);  // a run that is ended shows how far it came
  std::printf("%s: seed %u\n", name, seed);
  return bench;
}

inline int finish(const char* name) {
  std::printf("%s: %s\n", name, failures ? "FAILED" : "ok");
  return failures ? 1 : 0;
}

inline float gauss(float scale = 1.0f) {
  static std::normal_distribution<float> normal;
  return scale * normal(rng());
}
inline int below(int n) { return std::uniform_int_distribution<int>(0, n - 1)(rng()); }

inline float bf16_round(float x) { return __bfloat162float(__float2bfloat16(x)); }

/// The device's architecture, for products whose bits are compared: 0, what every architecture has, where FP8 tensor cores would
/// take them (gemm/fp8_gemm.h), which add in another order.
inline int wide_arch() { return cuda::device_info().arch < 120 ? cuda::device_info().arch : 0; }

template <class T>
class DeviceArray {
 public:
  DeviceArray() = default;
  explicit DeviceArray(size_t count) : count_(count) {
    check(cudaMalloc(&data_, std::max<size_t>(count * sizeof(T), 16)), "cudaMalloc");
  }
  explicit DeviceArray(const std::vector<T>& host) : DeviceArray(host.size()) {
    if (host.empty()) return;
    check(cudaMemcpy(data_, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice), "upload");
    check(cudaStreamSynchronize(nullptr), "upload");  // short ones may be under way, and streams of ranks do not wait for them
  }
  DeviceArray(DeviceArray&& other) noexcept { std::swap(data_, other.data_), std::swap(count_, other.count_); }
  DeviceArray& operator=(DeviceArray&& other) noexcept {
    std::swap(data_, other.data_), std::swap(count_, other.count_);
    return *this;
  }
  ~DeviceArray() { cudaFree(data_); }
  T* get() const { return data_; }
  operator T*() const { return data_; }
  size_t size() const { return count_; }
  /// 0xff bytes: NaN in every float format, -1 in integers.
  void poison() const { check(cudaMemset(data_, 0xff, count_ * sizeof(T)), "poison"); }
  std::vector<T> download() const {
    std::vector<T> host(count_);
    check(cudaMemcpy(host.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost), "download");
    return host;
  }

 private:
  T* data_ = nullptr;
  size_t count_ = 0;
};

inline constexpr size_t kFreshValues = size_t{1} << 21;  // longer arrays repeat: drawing more would take longer than the test

inline std::vector<float> random_f32(size_t count, float scale = 1.0f) {
  std::vector<float> v(count);
  for (size_t i = 0; i < count; ++i) v[i] = i < kFreshValues ? gauss(scale) : v[i - kFreshValues];
  return v;
}

inline std::vector<__nv_bfloat16> random_bf16(size_t count, float scale = 1.0f) {
  std::vector<__nv_bfloat16> v(count);
  for (size_t i = 0; i < count; ++i) v[i] = i < kFreshValues ? __float2bfloat16(gauss(scale)) : v[i - kFreshValues];
  return v;
}

/// ||out - ref|| / ||ref||; NaN when an element was not written.
struct Difference {
  double squares = 0, reference = 0;
  void add(double out, double ref) { squares += (out - ref) * (out - ref), reference += ref * ref; }
  double relative() const { return std::sqrt(squares / std::max(reference, 1e-300)); }
};

inline void expect(bool ok, const std::string& what) {
  std::printf("  %-92s %s\n", what.c_str(), ok ? "ok" : "FAILED");
  if (!ok) ++failures;
}

inline void expect_close(const Difference& d, double limit, const std::string& what) {
  char text[256];
  std::snprintf(text, sizeof text, "%s: error %.2e (limit %.1e)", what.c_str(), d.relative(), limit);
  expect(d.relative() <= limit, text);
}

inline void sync(const char* what) { check(cudaDeviceSynchronize(), what); }

/// Median microseconds of one call, timed with events after a warm-up.
inline double time_us(const std::function<void()>& call, int repeats = 20) {
  for (int i = 0; i < 3; ++i) call();
  std::vector<float> times;
  cudaEvent_t begin, end;
  cudaEventCreate(&begin), cudaEventCreate(&end);
  for (int i = 0; i < repeats; ++i) {
    cudaEventRecord(begin);
    call();
    cudaEventRecord(end);
    check(cudaEventSynchronize(end), "timed call");
    float ms = 0;
    cudaEventElapsedTime(&ms, begin, end);
    times.push_back(ms * 1000);
  }
  cudaEventDestroy(begin), cudaEventDestroy(end);
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

/// Median microseconds of call(i, stream), i < calls, captured into one graph: without the host's part of a launch.
inline double time_graph_us(int calls, const std::function<void(int, cudaStream_t)>& call, int repeats = 12) {
  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
  for (int i = 0; i < calls; ++i) call(i, stream);
  check(cudaStreamEndCapture(stream, &graph), "capture");
  check(cudaGraphInstantiate(&exec, graph, 0), "cudaGraphInstantiate");
  std::vector<float> times;
  cudaEvent_t begin, end;
  cudaEventCreate(&begin), cudaEventCreate(&end);
  for (int i = 0; i < repeats + 2; ++i) {
    cudaEventRecord(begin, stream);
    check(cudaGraphLaunch(exec, stream), "cudaGraphLaunch");
    cudaEventRecord(end, stream);
    check(cudaEventSynchronize(end), "timed graph");
    float ms = 0;
    cudaEventElapsedTime(&ms, begin, end);
    if (i >= 2) times.push_back(ms * 1000);
  }
  cudaEventDestroy(begin), cudaEventDestroy(end);
  cudaGraphExecDestroy(exec), cudaGraphDestroy(graph), cudaStreamDestroy(stream);
  std::sort(times.begin(), times.end());
  return times[times.size() / 2] / calls;
}

}  // namespace twelvex::test
