// SPDX-License-Identifier: MIT
// Launches: [quantise] -> dispatch -> gate, up, SwiGLU, routing weight -> down; shared gate, up, SwiGLU -> down; combine.
#include "moe/experts.h"

#include "common/check.h"
#include "gemm/quantise.h"
#include "moe/dispatch.h"

namespace twelvex::cuda {

namespace {

/// Adds the bytes of an array behind what is there; `at` moves on in steps of 256 bytes.
template <class T>
T* take(uint8_t* base, size_t& at, size_t count) {
  T* pointer = reinterpret_cast<T*>(base + at);
  at += (count * sizeof(T) + 255) / 256 * 256;
  return pointer;
}

MoeWorkspace carve(uint8_t* base, const MoeShape& s, size_t& at) {
  const size_t tokens = static_cast<size_t>(s.tokens), slots = tokens * s.picks, hidden = static_cast<size_t>(s.hidden);
  MoeWorkspace w;
  w.logits = take<float>(base, at, tokens * s.experts);
  w.sorted_token = take<int32_t>(base, at, slots);
  w.sorted_weight = take<float>(base, at, slots);
  w.row_of_slot = take<int32_t>(base, at, slots);
  w.begin = take<int32_t>(base, at, static_cast<size_t>(s.experts) + 1);
  w.tiles = take<GroupTile>(base, at, static_cast<size_t>(max_group_tiles(s.tokens * s.picks, s.experts, 8)));
  w.tile_count = take<int32_t>(base, at, 1);
  w.quantised = take<__nv_bfloat16>(base, at, tokens * hidden);
  w.act = take<__nv_bfloat16>(base, at, slots * s.width);
  w.down = take<__nv_bfloat16>(base, at, slots * hidden);
  w.shared_act = take<__nv_bfloat16>(base, at, tokens * s.shared_width);
  w.shared_down = take<__nv_bfloat16>(base, at, tokens * hidden);
  return w;
}

const uint8_t* bytes_of(const void* pointer) { return static_cast<const uint8_t*>(pointer); }

/// Input of both first products: quantised once when the kernels do not do it while loading.
struct Input {
  const __nv_bfloat16* x;
  bool quantise;
};

Input prepare_input(const MoeParams& p, int hidden) {
  if (!p.quantise || p.tokens <= 8) return {p.hidden, p.quantise};
  run_quantise({.rows = p.tokens, .cols = hidden, .ldx = hidden, .x = p.hidden, .y = p.workspace.quantised, .stream = p.stream});
  return {p.workspace.quantised, false};
}

void run_routed(const MoeParams& p, const Input& input) {
  const Experts& experts = p.weights->experts;
  const Linear &gate_up = experts.gate_up, &down = experts.down;
  const int width = static_cast<int>(down.cols), hidden = static_cast<int>(down.rows), slots = p.tokens * p.picks;
  const MoeWorkspace& w = p.workspace;
  const int tile_rows = group_tile_rows(slots, experts.count);
  run_dispatch({.slots = slots,
                .picks = p.picks,
                .experts = experts.count,
                .tile_rows = tile_rows,
                .ids = p.ids,
                .weights = p.routing,
                .sorted_token = w.sorted_token,
                .sorted_weight = w.sorted_weight,
                .row_of_slot = w.row_of_slot,
                .begin = w.begin,
                .tiles = w.tiles,
                .tile_count = w.tile_count,
                .stream = p.stream});
  GemmParams g;
  g.format = gate_up.format;
  g.rows = slots;
  g.cols = g.ldx = hidden;
  g.quantise = input.quantise;
  g.tiles = w.tiles;
  g.tile_count = w.tile_count;
  g.max_tiles = max_group_tiles(slots, experts.count, tile_rows);
  g.experts = experts.count;
  g.num_sms = p.num_sms;
  g.stream = p.stream;
  GemmParams first = g;
  first.paired = true;
  first.limit = p.limit;
  first.gather = w.sorted_token;
  first.row_weight = w.sorted_weight;
  first.expert_weight_bytes = weight_bytes(gate_up.format, 2 * width, hidden);
  first.expert_scale_bytes = scale_bytes(gate_up.format, 2 * width, hidden);
  first.num_segments = 2;
  for (int s = 0; s < 2; ++s) {
    first.segments[s] = {.weights = bytes_of(gate_up.data) + s * weight_bytes(gate_up.format, width, hidden),
                         .scales = bytes_of(gate_up.scale) + s * scale_bytes(gate_up.format, width, hidden),
                         .x = input.x, .y = w.act, .rows = width, .ldy = width};
  }
  run_gemm(first);
  GemmParams second = g;
  second.cols = second.ldx = width;
  second.quantise = p.quantise;
  second.quantised = w.act;  // in place: nothing else reads it
  second.expert_weight_bytes = weight_bytes(down.format, hidden, width);
  second.expert_scale_bytes = scale_bytes(down.format, hidden, width);
  second.num_segments = 1;
  second.segments[0] = {
      .weights = bytes_of(down.data), .scales = bytes_of(down.scale), .x = w.act, .y = w.down, .rows = hidden, .ldy = hidden};
  run_gemm(second);
}

void run_shared(const MoeParams& p, const Input& input) {
  const Linear &gate = p.weights->shared_gate, &up = p.weights->shared_up, &down = p.weights->shared_down;
  const int width = static_cast<int>(gate.rows), hidden = static_cast<int>(gate.cols);
  GemmParams g;
  g.format = gate.format;
  g.rows = p.tokens;
  g.cols = g.ldx = hidden;
  g.quantise = input.quantise;
  g.quantised = p.workspace.quantised;
  g.paired = true;
  g.limit = p.limit;
  g.num_segments = 2;
  g.segments[0] = {.weights = bytes_of(gate.data), .scales = bytes_of(gate.scale), .x = input.x, .y = p.workspace.shared_act,
                   .rows = width, .ldy = width};
  g.segments[1] = {.weights = bytes_of(up.data), .scales = bytes_of(up.scale), .x = input.x, .rows = width};
  g.num_sms = p.num_sms;
  g.stream = p.stream;
  run_gemm(g);
  g.format = down.format;
  g.cols = g.ldx = width;
  g.quantise = p.quantise;
  g.quantised = p.workspace.shared_act;
  g.paired = false;
  g.num_segments = 1;
  g.segments[0] = {.weights = bytes_of(down.data), .scales = bytes_of(down.scale), .x = p.workspace.shared_act,
                   .y = p.workspace.shared_down, .rows = hidden, .ldy = hidden};
  run_gemm(g);
}

}  // namespace

size_t moe_workspace_bytes(const MoeShape& shape) {
  size_t bytes = 0;
  carve(nullptr, shape, bytes);
  return bytes;
}

MoeWorkspace carve_moe_workspace(void* base, const MoeShape& shape) {
  size_t at = 0;
  return carve(static_cast<uint8_t*>(base), shape, at);
}

void run_experts(const MoeParams& p) {
  if (p.tokens == 0) return;
  const bool routed = p.weights->experts.down.data != nullptr, shared = p.weights->shared_down.data != nullptr;
  const int hidden = static_cast<int>(p.weights->gate.cols);
  const Input input = prepare_input(p, hidden);
  if (routed) run_routed(p, input);
  if (shared) run_shared(p, input);
  run_combine({.tokens = p.tokens, .cols = hidden, .picks = p.picks, .row_of_slot = p.workspace.row_of_slot,
               .rows = routed ? p.workspace.down : nullptr, .shared = shared ? p.workspace.shared_down : nullptr,
               .y = p.output, .stream = p.stream});
}

}  // namespace twelvex::cuda
