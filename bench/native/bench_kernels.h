// SPDX-License-Identifier: MIT
// What the benchmark adds to the product: a copy to compare with, a head start, attention by FMA, memory by purpose.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <map>
#include <string>

namespace twelvex::bench {

/// Keeps the stream busy for so long; what is queued behind it in that time then runs without gaps.
void hold_stream(double microseconds, cudaStream_t stream);

/// Writes the device's clock (nanoseconds) to `stamp` when what was queued before has ended. The next launch may start early, as
/// between the step's own launches.
void stamp_time(unsigned long long* stamp, cudaStream_t stream);

/// Bytes read and written per second by a device-to-device copy of 1 GiB, best of ten.
double copy_bandwidth();

/// Which kernel computes prefill attention in the whole model from now on.
enum class PrefillAttention { kProduct, kOneHead, kEightHeads };
void use_prefill_attention(PrefillAttention kind);

/// Device memory allocated so far, by purpose, of all ranks of the process.
std::map<std::string, size_t> device_memory();

}  // namespace twelvex::bench
