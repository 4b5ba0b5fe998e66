// SPDX-License-Identifier: MIT
// Rectangles of checkpoint matrices.
#pragma once

#include "ops.h"
#include "shard.h"
#include "tensor_source.h"

namespace twelvex {

/// View of a whole tensor of one or two dimensions ([n] is one row). `scale` is the tensor of its scales, or null; it must
/// fit the weight (checked against the inventory when a checkpoint is opened).
/// @throws Error kBadCheckpoint for a dtype that no weight format has.
MatrixView view_matrix(const std::string& name, const TensorView& weight, const TensorView* scale);

/// Rows or columns [begin, end) of a view. `begin` lies on a scale tile (128 rows or columns for FP8, 32 columns for FP4)
/// unless the range is empty.
MatrixView cut_rows(const MatrixView& view, ShardRange range);
MatrixView cut_cols(const MatrixView& view, ShardRange range);

}  // namespace twelvex
