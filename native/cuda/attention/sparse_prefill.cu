// SPDX-License-Identifier: MIT
#include "attention/sparse_prefill.cuh"

#include "common/check.h"
#include "common/device.h"

namespace twelvex::cuda {

namespace {

// What sm_12x runs: the block's shared memory there is 99 KiB.
using Heads32 = prefill::Config<32, 32, 2, false>;
using Heads16 = prefill::Config<16, 32, 2, false>;
using Heads32Fp8 = prefill::Config<32, 32, 2, true>;
using Heads16Fp8 = prefill::Config<16, 32, 2, true>;
static_assert(sizeof(prefill::SmemPlan<Heads32>) <= kMaxSharedBytes);
static_assert(sizeof(prefill::SmemPlan<Heads32Fp8>) <= kMaxSharedBytes);

template <class C>
void launch(const SparsePrefillParams& p, int blocks, cudaStream_t queue) {
  constexpr int kBytes = sizeof(prefill::SmemPlan<C>);
  allow_shared_bytes(prefill::sparse_prefill_kernel<C>, kBytes);
  prefill::sparse_prefill_kernel<C><<<blocks, C::threads, kBytes, queue>>>(p);
  check_launch("sparse_prefill_kernel");
}

}  // namespace

SparsePrefillPlan plan_sparse_prefill(int tokens, int heads, int multiprocessors, int arch) {
  (void)arch;
  SparsePrefillPlan plan;
  plan.head_block = heads <= 16 ? 16 : 32;
  plan.head_groups = (heads + plan.head_block - 1) / plan.head_block;
  plan.tile = 32;
  const int items = tokens * plan.head_groups;
  plan.blocks = items < multiprocessors ? items : multiprocessors;
  return plan;
}

void run_sparse_prefill(const SparsePrefillParams& p, cudaStream_t queue) {
  if (p.tokens == 0 || p.heads == 0) return;
  const DeviceInfo& device = device_info();
  const SparsePrefillPlan plan = plan_sparse_prefill(p.tokens, p.heads, device.multiprocessors, device.arch);
  const bool fp8 = p.kv.workspace == nullptr && p.kv.window.format == RowFormat::kFp8;
  if (plan.head_block == 16) {
    fp8 ? launch<Heads16Fp8>(p, plan.blocks, queue) : launch<Heads16>(p, plan.blocks, queue);
  } else {
    fp8 ? launch<Heads32Fp8>(p, plan.blocks, queue) : launch<Heads32>(p, plan.blocks, queue);
  }
}

}  // namespace twelvex::cuda
