// SPDX-License-Identifier: MIT
// Launches: [quantise] -> dispatch (few tokens: with the router) -> gate, up, SwiGLU [, routing weight] of the experts and the
// shared one -> [quantise] -> down of both; combine. Few tokens take one launch for both kinds of product; the shared expert's
// part of the first begins before the tokens are dispatched.
#include "moe/experts.h"

#include <algorithm>

#include "common/check.h"
#include "gemm/fp8_cells.h"
#include "gemm/fp8_gemm.h"
#include "gemm/quantise.h"
#include "gemm/warpgroup_gemm.h"
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

/// Tiles of both parts of a step; those of less than eight rows are of less than eight tokens.
int most_listed_tiles(const MoeShape& s) {
  return max_group_tiles(s.tokens * s.picks, s.experts, 8) + s.experts + 2 * 8 * s.picks;
}

MoeWorkspace carve(uint8_t* base, const MoeShape& s, size_t& at) {
  const size_t tokens = static_cast<size_t>(s.tokens), slots = tokens * s.picks, hidden = static_cast<size_t>(s.hidden);
  MoeWorkspace w;
  w.logits = take<float>(base, at, tokens * s.experts);
  w.sorted_token = take<int32_t>(base, at, slots);
  w.sorted_weight = take<float>(base, at, slots);
  w.row_of_slot = take<int32_t>(base, at, slots);
  w.begin = take<int32_t>(base, at, 2 * (static_cast<size_t>(s.experts) + 1));
  w.tiles = take<GroupTile>(base, at, static_cast<size_t>(most_listed_tiles(s)));
  w.tile_count = take<int32_t>(base, at, 2);
  w.quantised = take<__nv_bfloat16>(base, at, tokens * hidden);
  w.act = take<__nv_bfloat16>(base, at, slots * s.width);
  w.shared_act = take<__nv_bfloat16>(base, at, tokens * s.shared_width);
  for (int i = 0; i < s.parts; ++i) w.down[i] = take<__nv_bfloat16>(base, at, slots * hidden);
  for (int i = 0; i < s.parts; ++i) w.shared_down[i] = take<__nv_bfloat16>(base, at, tokens * hidden);
  return w;
}

const uint8_t* bytes_of(const void* pointer) { return static_cast<const uint8_t*>(pointer); }

/// Rows of a group tile: of few tokens no more than there are of them, even where one chooses an expert twice.
int tile_rows_of(int tokens, int picks, int experts, int arch) {
  const int rows = group_tile_rows(tokens * picks, experts, arch);
  return rows == 8 ? std::clamp(tokens, 1, 8) : rows;
}

/// What both products of the routed experts share.
GemmParams routed_product(const MoeParams& p, int cols) {
  GemmParams g;
  g.format = p.weights->experts.gate_up.format;
  g.rows = p.tokens * p.picks;
  g.cols = g.ldx = cols;
  g.tiles = p.workspace.tiles;
  g.tile_count = p.workspace.tile_count;
  g.experts = p.weights->experts.count;
  g.group_rows = tile_rows_of(p.tokens, p.picks, g.experts, p.arch);
  g.max_tiles = max_group_tiles(g.rows, g.experts, g.group_rows);
  g.arch = p.arch;
  g.num_sms = p.num_sms;
  g.stream = p.stream;
  return g;
}

/// What both products of the shared expert share.
GemmParams shared_product(const MoeParams& p, int cols) {
  GemmParams g;
  g.format = p.weights->shared_gate.format;
  g.rows = p.tokens;
  g.cols = g.ldx = cols;
  g.arch = p.arch;
  g.num_sms = p.num_sms;
  g.stream = p.stream;
  return g;
}

/// Input of both first products: quantised or put in order once when the kernels do not do it while loading.
struct Input {
  const __nv_bfloat16* x;
  bool quantise;
  bool fp8 = false;      // cells
  bool ordered = false;  // operand order
};

bool has_routed(const MoeParams& p) { return p.weights->experts.gate_up.data != nullptr; }
bool has_shared(const MoeParams& p) { return p.weights->shared_gate.data != nullptr; }
int routed_width(const MoeParams& p) { return static_cast<int>(p.weights->experts.gate_up.rows / 2); }
int shared_width(const MoeParams& p) { return static_cast<int>(p.weights->shared_gate.rows); }

Input prepare_input(const MoeParams& p, int hidden) {
  if (p.tokens <= 8 && p.quantise && p.hidden_quantised != nullptr) return {p.hidden_quantised, false};
  if (p.tokens <= 8) return {p.hidden, p.quantise};
  GemmParams routed = routed_product(p, hidden), shared = shared_product(p, hidden);
  routed.quantise = shared.quantise = p.quantise;
  routed.quantised = shared.quantised = p.workspace.quantised;
  shared.paired = true;
  QuantiseParams copy = {
      .rows = p.tokens, .cols = hidden, .ldx = hidden, .x = p.hidden, .y = p.workspace.quantised, .stream = p.stream};
  if (has_routed(p) && takes_fp8(routed)) {
    run_quantise_fp8(copy);
    return {p.workspace.quantised, false, true};
  }
  if (takes_warpgroup(has_routed(p) ? routed : shared)) {
    copy.round = p.quantise;
    copy.operand_order = true;
    run_quantise(copy);
    return {p.workspace.quantised, false, false, true};
  }
  // Routed experts of few rows quantise while they load; the shared one makes its copy itself.
  if (!p.quantise || (has_shared(p) && (takes_fp8(shared) || takes_warpgroup(shared)))) return {p.hidden, p.quantise};
  run_quantise(copy);
  return {p.workspace.quantised, false};
}

/// Whether the routed experts' activations go from product to product as cells.
bool keeps_cells(const MoeParams& p) {
  const auto hidden = static_cast<int>(p.weights->experts.gate_up.cols);
  GemmParams first = routed_product(p, hidden), second = routed_product(p, routed_width(p));
  first.quantise = second.quantise = p.quantise;
  return takes_fp8(first) && takes_fp8(second);
}

/// A down projection without its weights. Its activations [rows, cols] are brought to the form that it reads, unless they are
/// cells already or its kernel does it while loading. In place: nothing else reads them.
GemmParams down_product(GemmParams g, const MoeParams& p, __nv_bfloat16* act) {
  g.quantised = act;
  if (g.x_fp8) return g;
  g.quantise = p.quantise;
  QuantiseParams copy = {.rows = g.rows, .cols = g.cols, .ldx = g.cols, .x = act, .y = act, .stream = g.stream};
  if (takes_fp8(g)) {
    run_quantise_fp8(copy);
    g.x_fp8 = true;
  } else if (takes_warpgroup(g)) {
    copy.round = g.quantise;
    copy.operand_order = g.x_ordered = true;
    run_quantise(copy);
  } else if (g.quantise && stream_rows(g) != 8) {
    run_quantise(copy);
  } else {
    return g;
  }
  g.quantise = false;
  return g;
}

GemmParams routed_gate_up(const MoeParams& p, const Input& input) {
  const Linear& gate_up = p.weights->experts.gate_up;
  const int width = routed_width(p), hidden = static_cast<int>(gate_up.cols);
  const MoeWorkspace& w = p.workspace;
  GemmParams g = routed_product(p, hidden);
  g.fresh_tiles = true;
  g.quantise = input.quantise;
  g.x_fp8 = input.fp8;
  g.y_fp8 = keeps_cells(p);
  g.x_ordered = input.ordered;
  g.paired = true;
  g.limit = p.limit;
  g.gather = w.sorted_token;
  g.row_weight = w.sorted_weight;
  g.expert_weight_bytes = weight_bytes(gate_up.format, 2 * width, hidden);
  g.expert_scale_bytes = scale_bytes(gate_up.format, 2 * width, hidden);
  g.num_segments = 2;
  for (int s = 0; s < 2; ++s) {
    g.segments[s] = {.weights = bytes_of(gate_up.data) + s * weight_bytes(gate_up.format, width, hidden),
                     .scales = bytes_of(gate_up.scale) + s * scale_bytes(gate_up.format, width, hidden),
                     .x = input.x, .y = w.act, .rows = width, .ldy = width};
  }
  return g;
}

GemmParams routed_down(const MoeParams& p) {
  GemmParams g = routed_product(p, routed_width(p));
  g.x_fp8 = keeps_cells(p);
  return down_product(g, p, p.workspace.act);
}

GemmParams shared_gate_up(const MoeParams& p, const Input& input) {
  const Linear &gate = p.weights->shared_gate, &up = p.weights->shared_up;
  const int width = static_cast<int>(gate.rows), hidden = static_cast<int>(gate.cols);
  GemmParams g = shared_product(p, hidden);
  g.quantise = input.quantise;
  g.x_fp8 = input.fp8;
  g.x_ordered = input.ordered;
  g.quantised = p.workspace.quantised;
  g.input_ready = p.tokens <= 8;
  g.ready = p.hidden_ready;
  g.ready_count = p.ready_count;
  g.paired = true;
  g.limit = p.limit;
  g.num_segments = 2;
  g.segments[0] = {.weights = bytes_of(gate.data), .scales = bytes_of(gate.scale), .x = input.x, .y = p.workspace.shared_act,
                   .rows = width, .ldy = width};
  g.segments[1] = {.weights = bytes_of(up.data), .scales = bytes_of(up.scale), .x = input.x, .rows = width};
  return g;
}

GemmParams shared_down(const MoeParams& p) {
  return down_product(shared_product(p, shared_width(p)), p, p.workspace.shared_act);
}

/// Adds to a down projection a part: `down` meets the activations' columns from `column` on.
void add_part(GemmParams& g, const Linear& down, const __nv_bfloat16* act, int64_t column, __nv_bfloat16* y) {
  if (down.cols == 0) return;
  const auto hidden = static_cast<int>(down.rows);
  g.cols = static_cast<int>(down.cols);
  g.expert_weight_bytes = weight_bytes(down.format, down.rows, down.cols);
  g.expert_scale_bytes = scale_bytes(down.format, down.rows, down.cols);
  g.segments[g.num_segments++] = {.weights = bytes_of(down.data), .scales = bytes_of(down.scale), .x = act + column, .y = y,
                                  .rows = hidden, .ldy = hidden};
}

/// Products of the routed experts and of the shared one, side by side where both are there and stream.
void run_both(const GemmParams& routed, const GemmParams& shared) {
  if (routed.num_segments > 0 && shared.num_segments > 0) {
    run_gemm_beside(shared, routed);
  } else if (routed.num_segments + shared.num_segments > 0) {
    run_gemm(routed.num_segments > 0 ? routed : shared);
  }
}

/// Every part (ops.h) is a sum of its own; parts of equal width are one launch.
void run_down(const MoeParams& p) {
  const Parts<Linear>&of_routed = p.weights->experts.down, &of_shared = p.weights->shared_down;
  GemmParams routed = has_routed(p) ? routed_down(p) : GemmParams{}, shared = has_shared(p) ? shared_down(p) : GemmParams{};
  const bool alike = of_routed[0].cols == of_routed[1].cols && of_shared[0].cols == of_shared[1].cols;
  int64_t routed_column = 0, shared_column = 0;
  for (size_t i = 0; i < kParts; ++i) {
    add_part(routed, of_routed[i], p.workspace.act, routed_column, p.workspace.down[i]);
    add_part(shared, of_shared[i], p.workspace.shared_act, shared_column, p.workspace.shared_down[i]);
    routed_column += of_routed[i].cols;
    shared_column += of_shared[i].cols;
    if (alike && i + 1 < kParts) continue;
    run_both(routed, shared);
    routed.num_segments = shared.num_segments = 0;
  }
}

/// The products of a part of the tokens.
void run_products(const MoeParams& p, const Input& input) {
  run_both(has_routed(p) ? routed_gate_up(p, input) : GemmParams{}, has_shared(p) ? shared_gate_up(p, input) : GemmParams{});
  run_down(p);
}

/// Tokens [first, first + tokens) with their parts of the buffers.
MoeParams tokens_of(const MoeParams& p, int first, int tokens) {
  MoeParams part = p;
  const auto token = static_cast<size_t>(first), slot = token * static_cast<size_t>(p.picks);
  const auto hidden = static_cast<size_t>(p.weights->gate.cols), width = static_cast<size_t>(routed_width(p));
  const int experts = p.weights->experts.count;
  part.tokens = tokens;
  part.decode_tokens = 0;
  part.hidden += token * hidden;
  part.ids += slot;
  part.routing += slot;
  part.output += token * hidden;
  MoeWorkspace& w = part.workspace;
  w.sorted_token += slot;
  w.sorted_weight += slot;
  w.row_of_slot += slot;
  if (first > 0) {
    w.begin += experts + 1;
    w.tiles += max_group_tiles(static_cast<int>(slot), experts, tile_rows_of(first, p.picks, experts, 0));
    w.tile_count += 1;
  }
  w.quantised += token * hidden;
  w.act += slot * width;
  w.shared_act += token * static_cast<size_t>(shared_width(p));
  for (size_t i = 0; i < kParts; ++i) {
    if (w.down[i] != nullptr) w.down[i] += slot * hidden;
    if (w.shared_down[i] != nullptr) w.shared_down[i] += token * hidden;
  }
  return part;
}

/// Calls `run` with all tokens, or with those of decode and the others apart where that pays: FP8 products would give decode
/// tokens bits that depend on the batch.
template <class Run>
void for_parts(const MoeParams& p, const Run& run) {
  const int decode = p.decode_tokens, others = p.tokens - decode;
  if (p.tokens == 0) return;
  if (p.arch < kFirstFp8Arch || (p.quantise && decode == 0)) return run(p);
  MoeParams part = p;
  part.arch = 0;
  if (!p.quantise || !experts_apart(decode * p.picks, others * p.picks, p.weights->experts.count)) return run(part);
  run(tokens_of(part, 0, decode));
  run(tokens_of(p, decode, others));
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

bool route_dispatches(const MoeParams& p) {
  const int experts = p.weights->experts.count, slots = p.tokens * p.picks;
  return has_routed(p) && p.tokens <= kRouteDispatchTokens && slots <= 8 * experts;
}

DispatchParams dispatch_of(const MoeParams& p) {
  const int slots = p.tokens * p.picks, experts = p.weights->experts.count;
  const MoeWorkspace& w = p.workspace;
  return {.slots = slots,
          .picks = p.picks,
          .experts = experts,
          .tile_rows = tile_rows_of(p.tokens, p.picks, experts, p.arch),
          .ids = p.ids,
          .weights = p.routing,
          .sorted_token = w.sorted_token,
          .sorted_weight = w.sorted_weight,
          .row_of_slot = w.row_of_slot,
          .begin = w.begin,
          .tiles = w.tiles,
          .tile_count = w.tile_count,
          .stream = p.stream};
}

void route_experts(const RouteParams& route, const MoeParams& params) {
  route_dispatches(params) ? run_route_and_dispatch(route, dispatch_of(params)) : run_route(route);
}

void begin_experts(const MoeParams& params) {
  for_parts(params, [](const MoeParams& p) {
    const Input input = prepare_input(p, static_cast<int>(p.weights->gate.cols));
    if (has_routed(p) && !p.dispatched) run_dispatch(dispatch_of(p));
    if (has_routed(p) || has_shared(p)) run_products(p, input);
  });
}

CombineParams uncombined_experts(const MoeParams& p) {
  CombineParams combine;
  combine.tokens = p.tokens;
  combine.cols = static_cast<int>(p.weights->gate.cols);
  combine.picks = p.picks;
  combine.row_of_slot = p.workspace.row_of_slot;
  for (size_t i = 0; i < kParts; ++i) {
    if (p.weights->experts.down[i].cols > 0) combine.rows[i] = p.workspace.down[i];
    if (p.weights->shared_down[i].cols > 0) combine.shared[i] = p.workspace.shared_down[i];
  }
  combine.stream = p.stream;
  return combine;
}

void finish_experts(const MoeParams& params, int first, int tokens) {
  for_parts(params, [&, end = first + tokens](const MoeParams& p) {
    const auto begin = static_cast<int>(p.ids - params.ids) / p.picks;  // of the part
    const int from = std::max(first - begin, 0), to = std::min(end - begin, p.tokens);
    if (from >= to) return;
    const auto token = static_cast<size_t>(from), hidden = static_cast<size_t>(p.weights->gate.cols);
    CombineParams combine = uncombined_experts(p);
    combine.tokens = to - from;
    combine.row_of_slot += token * static_cast<size_t>(p.picks);
    for (const __nv_bfloat16*& shared : combine.shared) {
      if (shared != nullptr) shared += token * hidden;
    }
    combine.y = p.output + token * hidden;
    run_combine(combine);
  });
}

void run_experts(const MoeParams& p) {
  begin_experts(p);
  finish_experts(p, 0, p.tokens);
}

}  // namespace twelvex::cuda
