// SPDX-License-Identifier: MIT
#include "elementwise/draft_tokens.h"

#include "arch/dependent_launch.cuh"
#include "common/check.h"

namespace twelvex::cuda {

namespace {

__global__ void first_draft_kernel(const __grid_constant__ FirstDraftParams p) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < p.tokens && p.sample[i] >= 0 && p.place[i] < p.accepted_count[p.sample[i]]) {
    p.token_id[i] = p.accepted[p.sample[i] * (1 + p.drafts) + p.place[i]];
  }
  if (i < p.samples) p.logit_tokens[i] = p.sample_logit[i] + p.accepted_count[i] - 1;
}

__global__ void later_draft_kernel(const __grid_constant__ LaterDraftParams p) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  const int s = blockIdx.x * blockDim.x + threadIdx.x;
  if (s >= p.samples) return;
  const int position = p.sample_position[s] + p.accepted_count[s] - 1 + p.pass - 1;
  p.token_id[s] = p.draft_tokens[s];
  p.token_row[s] = p.sample_row[s];
  p.position[s] = position;
  p.cache_position[s] = position + 1;
  p.source[s] = p.pass == 2 ? p.first_logit_tokens[s] : s;
  p.logit_tokens[s] = s;
}

}  // namespace

void run_first_draft(const FirstDraftParams& p, cudaStream_t queue) {
  const int count = p.tokens > p.samples ? p.tokens : p.samples;
  if (count == 0) return;
  launch_dependent({(count + 127) / 128, 128, 0, queue}, first_draft_kernel, p);
}

void run_later_draft(const LaterDraftParams& p, cudaStream_t queue) {
  if (p.samples == 0) return;
  launch_dependent({(p.samples + 127) / 128, 128, 0, queue}, later_draft_kernel, p);
}

}  // namespace twelvex::cuda
