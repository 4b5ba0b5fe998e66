// SPDX-License-Identifier: MIT
// The vectorised inner loops of the CPU backend. One table per instruction set, each from the same source
// (kernels_impl.h) compiled in its own translation unit with its own flags; chosen at run time.
//
// Every kernel sums in an order that depends on the lengths of its vectors alone, never on how many tokens are processed
// together: a token's result is the same bits in any batch (on one instruction set).
//
// Activations stay float32, so the BF16 and VNNI dot products of AVX-512, which would round them, have no use here: weights
// are widened in registers, and the products run at the rate of the float multiply-adds.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace twelvex::cpu {

/// Weight panels hold 32 outputs: [panel][k][32]. As float: outputs in order. As bf16: 16 words whose low half is output
/// i and whose high half is output 16 + i, so that a shift and a mask widen a word vector into two float vectors.
inline constexpr int kPanel = 32;

enum class GemmStore : uint8_t {
  kSet,    // out = sum
  kAdd,    // out += sum
  kGated,  // a panel's outputs 0..15 are gates g, 16..31 ups u: 16 outputs silu(min(g, limit)) * clamp(u, +-limit) * weight
};

/// out[rows, columns] = x[rows, k] * panels^T. Each sum runs over k in order, one fused multiply-add at a time where the
/// instruction set has it.
struct GemmArgs {
  const float* x = nullptr;
  size_t x_stride = 0;  // floats
  int rows = 0;
  int k = 0;
  const void* panels = nullptr;
  bool bf16 = true;
  int panel_count = 0;
  int64_t columns = 0;  // valid outputs; fewer than 32 * panel_count in a last partial panel
  float* out = nullptr;
  size_t out_stride = 0;              // floats
  const int32_t* out_rows = nullptr;  // row of `out` for each row of x; null: the same
  GemmStore store = GemmStore::kSet;
  float limit = 0;                    // kGated; 0: no clamp
  const float* row_weight = nullptr;  // kGated: [rows]; null: 1
};

/// scores[v][j] = vectors[v] . rows[j]
struct DotArgs {
  const float* vectors = nullptr;
  size_t vector_stride = 0;
  int vectors_count = 0;
  int dim = 0;  // a multiple of 16
  const float* const* rows = nullptr;
  int row_count = 0;
  float* out = nullptr;  // [vectors][out_stride]
  size_t out_stride = 0;
};

/// out[v][0 .. 512) = out[v] * scale[v] + sum_j weights[v][j] * rows[j][0 .. 512), j in order
struct MixArgs {
  const float* weights = nullptr;  // [vectors][weight_stride]
  size_t weight_stride = 0;
  const float* scale = nullptr;  // [vectors]
  int vectors_count = 0;
  const float* const* rows = nullptr;
  int row_count = 0;
  float* out = nullptr;                // [vectors][512]
  const float* const* next = nullptr;  // [row_count] rows to fetch from main memory meanwhile
};

/// out[c] = sum_s softmax_s(gates[s][c]) * values[s][c]
struct PoolArgs {
  const float* const* values = nullptr;  // [slots]
  const float* const* gates = nullptr;
  int slots = 0;
  int channels = 0;  // a multiple of 16
  float* out = nullptr;
};

struct Kernels {
  const char* name;
  void (*gemm)(const GemmArgs& args);
  void (*dot)(const DotArgs& args);
  void (*mix)(const MixArgs& args);
  void (*pool)(const PoolArgs& args);
  float (*largest)(const float* x, int count);
  /// x[i] = exp(x[i] * scale - shift); returns the sum.
  float (*exp_sum)(float* x, int count, float scale, float shift);
  /// Sum of exp(x[i] - shift), x kept.
  float (*exp_total)(const float* x, int count, float shift);
  float (*square_sum)(const float* x, int count);
  /// out = x * factor * weight
  void (*scale_by)(const float* x, float factor, const float* weight, int count, float* out);
  /// out[i] = sum_s weights[s] * streams[s * count + i], s = 0 .. 3
  void (*collapse)(const float* streams, const float* weights, int count, float* out);
  /// streams_k = post_k * output + sum_j comb[j][k] * streams_j; mix = post[4], comb[4][4]
  void (*expand)(const float* mix, const float* output, int count, float* streams);
  /// Sinkhorn normalisation of a 4 x 4 matrix of positive numbers: columns, then `iterations - 1` times rows and columns.
  void (*sinkhorn)(float* comb, int iterations, float eps);
  /// out = silu(min(gate, limit)) * clamp(up, +-limit); limit 0 clamps nothing. Count a multiple of 16.
  void (*gate_up)(const float* gate, const float* up, float limit, int count, float* out);
  void (*widen_bf16)(const uint16_t* x, int count, float* out);  // count a multiple of 16
  /// out = e4m3(codes) * scale, count a multiple of 16; codes hold no NaN
  void (*widen_e4m3)(const uint8_t* codes, float scale, int count, float* out);
};

/// Best table for this machine.
const Kernels& best_kernels();
/// Every table this machine can run, the portable one first.
std::vector<const Kernels*> usable_kernels();

extern const Kernels kPortableKernels;
#ifdef TWELVEX_X86_KERNELS
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;
#endif

}  // namespace twelvex::cpu
