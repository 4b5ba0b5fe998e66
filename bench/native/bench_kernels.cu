// SPDX-License-Identifier: MIT
// Product functions are replaced at link time (--wrap): run_sparse_prefill by the FMA kernels when asked, device_alloc by one
// that keeps account.
#include <algorithm>
#include <mutex>

#include "arch/dependent_launch.cuh"
#include "attention/gather.h"
#include "bench_kernels.h"
#include "common/check.h"
#include "fma_prefill.cuh"

// The linker's names of the product's functions and of their replacements.
extern "C" {
void* __real__ZN7twelvex4cuda12device_allocEmPKcb(size_t bytes, const char* purpose, bool zero);
void __real__ZN7twelvex4cuda18run_sparse_prefillERKNS0_19SparsePrefillParamsEP11CUstream_st(
    const twelvex::cuda::SparsePrefillParams& params, cudaStream_t queue);
}

namespace twelvex::bench {

namespace {

std::mutex mutex;
std::map<std::string, size_t>& purposes() {
  static std::map<std::string, size_t> bytes;
  return bytes;
}
PrefillAttention attention = PrefillAttention::kProduct;

__global__ void hold_kernel(unsigned long long nanoseconds) {
  unsigned long long begin, now;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(begin));
  do {
    __nanosleep(1000);
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
  } while (now - begin < nanoseconds);
}

__global__ void stamp_kernel(unsigned long long* stamp) {
  cuda::wait_for_previous_kernel();
  cuda::let_next_kernel_start();
  unsigned long long now;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
  *stamp = now;
}

/// A workspace of bf16 rows for layers whose product kernel reads fp8 pages: the FMA kernels read bf16 rows only.
uint8_t* own_workspace(size_t rows) {
  static uint8_t* memory = nullptr;
  static size_t room = 0;
  if (rows > room) {
    check(cudaDeviceSynchronize(), "before the workspace grows");
    cudaFree(memory);
    room = rows + rows / 2;
    check(cudaMalloc(&memory, room * cuda::kBf16RowBytes), "the bench's workspace");
  }
  return memory;
}

template <int kHeads>
void run_fma(const cuda::SparsePrefillParams& p, cudaStream_t queue) {
  fma_prefill_kernel<kHeads><<<dim3(p.tokens, p.heads / kHeads), kThreads, 0, queue>>>(p);
  cuda::check_launch("fma_prefill_kernel");
}

/// One prefill row a step, as the benchmark's whole prefills have.
void run_replacement(cuda::SparsePrefillParams p, cudaStream_t queue) {
  if (p.tokens == 0) return;
  if (p.kv.workspace == nullptr && p.kv.window.format == RowFormat::kFp8) {
    cuda::GatherParams g;
    g.batch = p.batch;
    g.kv = p.kv;
    g.ratio = p.kind == LayerKind::kSwa ? 0 : p.kind == LayerKind::kCsa ? kCsaRatio : kHcaRatio;
    g.rows = 1;
    g.workspace = own_workspace(size_t{1} << 18);
    p.kv.workspace = g.workspace;
    cuda::run_gather(g, queue);
  }
  attention == PrefillAttention::kOneHead ? run_fma<1>(p, queue) : run_fma<8>(p, queue);
}

}  // namespace

void hold_stream(double microseconds, cudaStream_t stream) {
  hold_kernel<<<1, 1, 0, stream>>>(static_cast<unsigned long long>(microseconds * 1e3));
  cuda::check_launch("hold_kernel");
}

void stamp_time(unsigned long long* stamp, cudaStream_t stream) {
  cuda::launch_dependent({.grid = 1, .block = 1, .stream = stream}, stamp_kernel, stamp);
}

double copy_bandwidth() {
  constexpr size_t kBytes = size_t{1} << 30;
  void *from = nullptr, *to = nullptr;
  cuda::check(cudaMalloc(&from, kBytes), "copy");
  cuda::check(cudaMalloc(&to, kBytes), "copy");
  cudaEvent_t begin, end;
  cudaEventCreate(&begin), cudaEventCreate(&end);
  double best = 0;
  for (int i = 0; i < 10; ++i) {
    cudaEventRecord(begin);
    cudaMemcpyAsync(to, from, kBytes, cudaMemcpyDeviceToDevice);
    cudaEventRecord(end);
    cuda::check(cudaEventSynchronize(end), "copy");
    float ms = 0;
    cudaEventElapsedTime(&ms, begin, end);
    best = std::max(best, 2.0 * kBytes / ms * 1e3);
  }
  cudaFree(from), cudaFree(to);
  cudaEventDestroy(begin), cudaEventDestroy(end);
  return best;
}

void use_prefill_attention(PrefillAttention kind) { attention = kind; }

std::map<std::string, size_t> device_memory() {
  const std::lock_guard lock(mutex);
  return purposes();
}

}  // namespace twelvex::bench

extern "C" {

void* __wrap__ZN7twelvex4cuda12device_allocEmPKcb(size_t bytes, const char* purpose, bool zero) {
  void* pointer = __real__ZN7twelvex4cuda12device_allocEmPKcb(bytes, purpose, zero);
  const std::lock_guard lock(twelvex::bench::mutex);
  twelvex::bench::purposes()[purpose] += bytes;
  return pointer;
}

void __wrap__ZN7twelvex4cuda18run_sparse_prefillERKNS0_19SparsePrefillParamsEP11CUstream_st(
    const twelvex::cuda::SparsePrefillParams& params, cudaStream_t queue) {
  if (twelvex::bench::attention == twelvex::bench::PrefillAttention::kProduct) {
    __real__ZN7twelvex4cuda18run_sparse_prefillERKNS0_19SparsePrefillParamsEP11CUstream_st(params, queue);
  } else {
    twelvex::bench::run_replacement(params, queue);
  }
}
}
