// SPDX-License-Identifier: MIT
#include "attention/sparse_prefill.cuh"

#include "common/check.h"
#include "common/device.h"
#include "gemm/fp8_cells.h"

namespace twelvex::cuda {

namespace {

// A tile of 64 candidates wants 175 KB of shared memory, which sm_90 has; sm_12x gives a block 99 KiB: tiles of 32.
template <int kHeads, int kTile, bool kFp8>
using Shape = prefill::Config<kHeads, kTile, 2, kFp8>;
static_assert(sizeof(prefill::SmemPlan<Shape<32, 32, false>>) <= kMaxSharedBytes);
static_assert(sizeof(prefill::SmemPlan<Shape<32, 32, true>>) <= kMaxSharedBytes);
static_assert(sizeof(prefill::SmemPlan<Shape<32, 64, false>>) <= 227 * 1024);

template <class C>
void launch(const SparsePrefillParams& p, int blocks, cudaStream_t queue) {
  constexpr int kBytes = sizeof(prefill::SmemPlan<C>);
  allow_shared_bytes(prefill::sparse_prefill_kernel<C>, kBytes);
  prefill::sparse_prefill_kernel<C><<<blocks, C::threads, kBytes, queue>>>(p);
  check_launch("sparse_prefill_kernel");
}

template <int kTile, bool kFp8>
void launch_heads(const SparsePrefillParams& p, const SparsePrefillPlan& plan, cudaStream_t queue) {
  plan.head_block == 16 ? launch<Shape<16, kTile, kFp8>>(p, plan.blocks, queue)
                        : launch<Shape<32, kTile, kFp8>>(p, plan.blocks, queue);
}

}  // namespace

void run_sparse_prefill(const SparsePrefillParams& p, cudaStream_t queue) {
  if (p.tokens == 0 || p.heads == 0) return;
  const DeviceInfo& device = device_info();
  const bool fp8 = p.kv.workspace == nullptr && p.kv.window.format == RowFormat::kFp8;
  const PrefillHeads heads = {p.heads, p.part_heads > 0 ? p.part_heads : p.heads};
  const SparsePrefillPlan plan = plan_sparse_prefill(p.tokens, heads, device.multiprocessors, device.arch, fp8);
  if (fp8) {
    launch_heads<32, true>(p, plan, queue);
    if (!p.cells) return;  // its kernel has no registers to spare for them
    __nv_bfloat16* rows = p.attended + static_cast<size_t>(p.first_token) * p.heads * kHeadDim;
    const int cols = p.heads * kHeadDim;
    run_quantise_fp8({.rows = p.tokens, .cols = cols, .ldx = cols, .x = rows, .y = rows, .stream = queue});
  } else {
    plan.tile == 64 ? launch_heads<64, false>(p, plan, queue) : launch_heads<32, false>(p, plan, queue);
  }
}

}  // namespace twelvex::cuda
