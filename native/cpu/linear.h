// SPDX-License-Identifier: MIT
// Weight matrices as panels (kernels.h) and the products over them, shared out over the rank's threads.
#pragma once

#include <span>

#include "heap.h"
#include "kernels.h"
#include "runtime/ops.h"
#include "thread_pool.h"

namespace twelvex::cpu {

/// Linear::format of a prepared matrix is kF32 or kBF16 by what its panels hold. FP8 and FP4 values times their scales fit
/// bfloat16 exactly. Whether the inputs are quantised (served numerics) is kept apart, in Linear::scale: non-null = yes.
inline bool takes_quantised_input(const Linear& linear) { return linear.scale != nullptr; }

/// I of this rank.
inline int64_t expert_width(const Experts& experts) { return experts.gate_up.rows / 2; }

/// Bytes of one panel with `cols` inputs.
size_t panel_bytes(const Linear& linear);

/// Packs a matrix. Row i of the view becomes output i.
Linear pack(Heap& heap, const MatrixView& view);

/// Packs the experts: gates and ups interleaved by 16 (GemmStore::kGated), experts behind each other on panel borders.
Experts pack_experts(Heap& heap, std::span<const ExpertView> views);

/// One row of a packed matrix as floats.
void unpack_row(const Linear& linear, int64_t row, float* out);

/// Dequantised values of a row of a view.
void read_row(const MatrixView& view, int64_t row, float* out);

/// A product that run_gemms shares out; `args.panels`, `panel_count` and `columns` describe the whole matrix.
using GemmJob = GemmArgs;

GemmArgs gemm_args(const Linear& linear);

/// The part of a product that is panels [panel, panel + panels).
GemmArgs panel_slice(const GemmArgs& whole, int panel, int panels);

/// Runs independent products together: few rows are shared out by panels, many by rows and panels.
void run_gemms(ThreadPool& pool, const Kernels& kernels, std::span<const GemmJob> jobs);

}  // namespace twelvex::cpu
