// SPDX-License-Identifier: MIT
// Every CUDA call goes through here: a failure becomes a twelvex::Error with a code the server understands.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <string>

namespace twelvex::cuda {

/// Throws for any status but cudaSuccess. Memory exhaustion is kOutOfMemory, an unusable context kDeviceLost, a missing
/// driver, device or kernel image kUnsupported, anything else kInternal. `what` names the call or the kernel.
void check(cudaError_t status, const char* what);

/// Status of the launch just made by this thread; `kernel` names it.
inline void check_launch(const char* kernel) { check(cudaGetLastError(), kernel); }

/// Device memory of `bytes` (at least 256-byte aligned), zeroed when `zero`. Throws kOutOfMemory naming the need and what is
/// free.
void* device_alloc(size_t bytes, const char* purpose, bool zero = false);

/// Throws kInternal "needs <expression>, got <a> and <b>".
[[noreturn]] void fail_check(const char* where, const char* expression, long long a, long long b);

}  // namespace twelvex::cuda

/// Launchers state the shapes that they can run: TWELVEX_NEED(p.top_k % 4, 0) throws with both values when they differ.
#define TWELVEX_STRINGIFY_(x) #x
#define TWELVEX_STRINGIFY(x) TWELVEX_STRINGIFY_(x)
#define TWELVEX_NEED_(op, a, b)                                                                                         \
  do {                                                                                                                  \
    const long long need_a_ = static_cast<long long>(a), need_b_ = static_cast<long long>(b);                           \
    if (!(need_a_ op need_b_))                                                                                          \
      ::twelvex::cuda::fail_check(__FILE__ ":" TWELVEX_STRINGIFY(__LINE__), #a " " #op " " #b, need_a_, need_b_);       \
  } while (0)
#define TWELVEX_NEED(a, b) TWELVEX_NEED_(==, a, b)
#define TWELVEX_NEED_LE(a, b) TWELVEX_NEED_(<=, a, b)
