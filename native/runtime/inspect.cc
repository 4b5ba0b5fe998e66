// SPDX-License-Identifier: MIT
#include "inspect.h"

#include <map>
#include <utility>

#include "checkpoint.h"
#include "inventory.h"

namespace twelvex {

namespace {

/// Sums over tensors, by kind and dtype.
class Tally {
 public:
  void add(const std::string& name, Dtype dtype, std::span<const int64_t> shape) {
    const TensorKind kind = tensor_kind(name);
    TensorStatistics& sum = sums_[{kind, dtype}];
    sum.kind = tensor_kind_name(kind);
    sum.dtype = dtype == Dtype::kI8 ? "FP4" : dtype_name(dtype);
    sum.tensors += 1;
    sum.parameters += tensor_parameters(dtype, shape);
    sum.bytes += element_count(shape) * static_cast<int64_t>(dtype_bytes(dtype));
  }

  std::vector<TensorStatistics> rows() const {
    std::vector<TensorStatistics> rows;
    for (const auto& [key, sum] : sums_) rows.push_back(sum);
    return rows;
  }

 private:
  std::map<std::pair<TensorKind, Dtype>, TensorStatistics> sums_;
};

std::vector<CacheStatistics> cache_statistics(const ModelConfig& config) {
  std::vector<CacheStatistics> rows;
  for (RowFormat format : {RowFormat::kF32, RowFormat::kBF16, RowFormat::kFp8}) {
    for (bool mtp : {false, true}) {
      if (mtp && config.num_mtp_layers == 0) continue;
      const size_t stream_element_bytes = format == RowFormat::kF32 ? 4 : 2;
      const CacheLayout layout = CacheLayout::make(config, format, mtp, stream_element_bytes);
      rows.push_back({format, mtp, static_cast<int64_t>(layout.window_block_bytes),
                      static_cast<int64_t>(layout.context_block_bytes), static_cast<int64_t>(layout.slot_bytes)});
    }
  }
  return rows;
}

}  // namespace

CheckpointInfo inspect_checkpoint(const std::string& directory) {
  CheckpointInfo info;
  info.config = read_config(directory);
  info.weights_present = CheckpointFiles::present(directory);
  Tally tally;
  if (info.weights_present) {
    const CheckpointFiles files = CheckpointFiles::open(directory);
    for (const CheckpointTensor& tensor : files.tensors()) tally.add(tensor.entry.name, tensor.entry.dtype, tensor.entry.shape);
  } else {
    for (const TensorSpec& spec : make_inventory(info.config)) tally.add(spec.name, spec.dtype, spec.shape);
  }
  info.tensors = tally.rows();
  info.cache = cache_statistics(info.config);
  return info;
}

}  // namespace twelvex
