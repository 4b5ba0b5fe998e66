// SPDX-License-Identifier: MIT
// Every byte of a cache row, for host and device. The block layouts are those of runtime/cache_layout.h.
//
//   kBF16: row r of a block part at r * 1024 (indexer: r * 256).
//   kFp8:  row r at r * 576: 448 e4m3, then 64 bf16 (rotary); scales of row r at rows * 576 + r * 8: 7 ue8m0 bytes, one per
//          64 plain dims, and a zero. Indexer: row r at r * 128 (e4m3), its f32 scale at rows * 128 + r * 4.
#pragma once

#include <cstddef>
#include <cstdint>

#include "runtime/cache_layout.h"

#if defined(__CUDACC__)
#define TWELVEX_HD __host__ __device__ __forceinline__
#else
#define TWELVEX_HD inline
#endif

namespace twelvex::cuda {

inline constexpr int kRowElements = kHeadDim;              // 512
inline constexpr int kBf16RowBytes = kHeadDim * 2;         // 1024
inline constexpr int kFp8RowBytes = kNopeDim + kRopeDim * 2;  // 576
inline constexpr int kFp8ScaleBytes = 8;
inline constexpr int kFp8GroupDims = 64;                   // plain dims per scale
inline constexpr int kIndexBf16RowBytes = kIndexDim * 2;   // 256
inline constexpr int kIndexFp8RowBytes = kIndexDim;        // 128
inline constexpr int kCsaRowsPerBlock = kBlockTokens / kCsaRatio;  // 32
inline constexpr int kHcaRowsPerBlock = kBlockTokens / kHcaRatio;  // 1

/// One paged part of the cache: blocks of `rows` rows, block b at base + b * stride.
struct RowPages {
  uint8_t* base = nullptr;  // first byte of the part in block 0
  size_t stride = 0;        // bytes from block to block
  int rows = 1;             // rows in a block: 128 window, 32 csa, 1 hca
  RowFormat format = RowFormat::kBF16;

  TWELVEX_HD uint8_t* row_bf16(int block, int row) const {
    return base + block * stride + static_cast<size_t>(row) * kBf16RowBytes;
  }
  TWELVEX_HD uint8_t* row_fp8(int block, int row) const {
    return base + block * stride + static_cast<size_t>(row) * kFp8RowBytes;
  }
  TWELVEX_HD uint8_t* scales_fp8(int block, int row) const {
    return base + block * stride + static_cast<size_t>(rows) * kFp8RowBytes + static_cast<size_t>(row) * kFp8ScaleBytes;
  }
  TWELVEX_HD uint8_t* index_bf16(int block, int row) const {
    return base + block * stride + static_cast<size_t>(row) * kIndexBf16RowBytes;
  }
  TWELVEX_HD uint8_t* index_fp8(int block, int row) const {
    return base + block * stride + static_cast<size_t>(row) * kIndexFp8RowBytes;
  }
  TWELVEX_HD float* index_scale_fp8(int block, int row) const {
    return reinterpret_cast<float*>(base + block * stride + static_cast<size_t>(rows) * kIndexFp8RowBytes) + row;
  }
};

}  // namespace twelvex::cuda
