// SPDX-License-Identifier: MIT
// A cluster of 16 blocks; block b has the experts 16 b .. 16 b + 15, its warp w the columns 256 w .. 256 w + 255 of their
// weights, which are on their way before the wait.
//   product   partial sums of the chunks, added in ascending order (gemm.h)
//   scores    every block gets all of them, and a warp an expert counts those that come before it: its pick, if there are fewer
//             than K. Of a layer with a table only the picks' are computed
//   picks     go to block 0, whose first warp weighs and sorts the slots (dispatch.h)
// Blocks write each other's memory and wait on barriers that count bytes, as in hyper_cluster.cu.
#include "moe/route_cluster.h"

#include "arch/async_copy.cuh"
#include "arch/cluster.cuh"
#include "arch/dependent_launch.cuh"
#include "common/device.h"
#include "moe/route_token.cuh"

namespace twelvex::cuda {

namespace {

constexpr int kBlocks = 16;
constexpr int kWarps = 16, kThreads = kWarps * 32;
constexpr int kExperts = kBlocks * kCellRows;
constexpr int kCols = kWarps * kChunkCols;
static_assert(kExperts == kRouteClusterExperts && kCols == kRouteClusterCols && kRouteClusterSlots <= 32);
constexpr int kVectors = 16;     // of a warp's 16 x 256 weights, per lane
constexpr int kHeld = 4;         // of them in registers, the rest in shared memory

struct alignas(128) RouteSmem {
  uint4 weights[kWarps][kVectors - kHeld][32];
  float partial[kWarps][kRouteClusterTokens][kCellRows];
  uint2 scored[kRouteClusterTokens][kExperts];  // key of the choice, score
  uint2 picks[kRouteClusterSlots];                     // block 0: expert, score
  int32_t padding[kRouteClusterTokens];
  uint64_t weights_there, scored_there, picks_there;
};

__device__ __forceinline__ float total(const RouteSmem& s, int token, int row) {
  float sum = 0;
#pragma unroll
  for (int c = 0; c < kWarps; ++c) sum += s.partial[c][token][row];
  return sum;
}

/// By warp 0 of block 0: weights and sorted slots.
__device__ __forceinline__ void place_slots(const RouteParams& p, const DispatchParams& d, const RouteSmem& s) {
  const int lane = threadIdx.x % 32, slots = p.tokens * p.picks, token = lane / p.picks;
  const uint2 pick = lane < slots ? s.picks[lane] : make_uint2(0, 0);
  const bool there = lane < slots && s.padding[token] == 0;
  const int id = there ? static_cast<int>(pick.x) : -1;
  const float mine = there ? __uint_as_float(pick.y) : 0;
  float sum = 0;
  for (int k = 0; k < p.picks; ++k) sum += __shfl_sync(kFullWarp, mine, token * p.picks + k);
  const float weight = there ? mine / (sum + 1e-20f) * p.scale : 0;
  int lower = 0, before = 0, count = 0;
#pragma unroll 6
  for (int o = 0; o < slots; ++o) {
    const int other = __shfl_sync(kFullWarp, id, o);
    lower += other >= 0 && other < id;
    before += other == id && o < lane;
    count += other == id;
  }
  const int tiles = id >= 0 && before == 0 ? (count + d.tile_rows - 1) / d.tile_rows : 0;
  int first = 0, all = 0;
#pragma unroll 6
  for (int o = 0; o < slots; ++o) {
    const int other = __shfl_sync(kFullWarp, id, o), its = __shfl_sync(kFullWarp, tiles, o);
    first += other < id ? its : 0;
    all += its;
  }
  if (lane == 0) *d.tile_count = all;
  if (lane >= slots) return;
  p.ids[lane] = id;
  p.weights[lane] = weight;
  const int row = lower + before;
  d.row_of_slot[lane] = there ? row : -1;
  if (!there) return;
  d.sorted_token[row] = token;
  d.sorted_weight[row] = weight;
  for (int i = 0; i < tiles; ++i) {
    d.tiles[first + i] = GroupTile{id, row + i * d.tile_rows, min(d.tile_rows, count - i * d.tile_rows)};
  }
}

__global__ void __launch_bounds__(kThreads, 2)
    route_cluster_kernel(const GateParams gate, const RouteParams p, const DispatchParams dispatch) {
  extern __shared__ __align__(128) uint8_t shared[];
  auto& s = *reinterpret_cast<RouteSmem*>(shared);
  const int rank = static_cast<int>(cluster_rank()), warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int slots = p.tokens * p.picks;
  constexpr int kWarpBytes = kVectors * 512;
  const uint8_t* weights = gate.weights + static_cast<size_t>(rank * kWarps + warp) * kWarpBytes;
  if (threadIdx.x == 0) {
    mbarrier_init(&s.weights_there, 1);
    mbarrier_init(&s.scored_there, 1);
    mbarrier_init(&s.picks_there, 1);
    mbarrier_fence_init();
    mbarrier_arrive_expect(&s.weights_there, sizeof(s.weights));
    for (int w = 0; w < kWarps; ++w)
      bulk_copy(s.weights[w], weights + w * kWarpBytes + kHeld * 512, sizeof(s.weights[w]), &s.weights_there);
    mbarrier_arrive_expect(&s.scored_there, p.table == nullptr ? p.tokens * kExperts * 8 : 0);
    mbarrier_arrive_expect(&s.picks_there, rank == 0 ? slots * 8 : 0);
  }
  __syncwarp();
  cluster_arrive();
  uint4 held[kHeld];
#pragma unroll
  for (int i = 0; i < kHeld; ++i) held[i] = __ldg(reinterpret_cast<const uint4*>(weights + i * 512) + lane);
  if (threadIdx.x < p.tokens) s.padding[threadIdx.x] = p.token_row != nullptr && p.token_row[threadIdx.x] < 0;
  float bias = 0;
  int pick = -1;  // of a layer with a table: this thread's slot
  if (p.table == nullptr) {
    bias = p.bias[rank * kCellRows + threadIdx.x % kCellRows];
  } else if (threadIdx.x < slots) {
    const int token = threadIdx.x / p.picks;
    const bool padding = p.token_row != nullptr && p.token_row[token] < 0;
    pick = padding ? -1 : p.table[static_cast<int64_t>(p.token_id[token]) * p.picks + threadIdx.x % p.picks];
  }
  __syncthreads();
  wait_for_previous_kernel();
  let_next_kernel_start();
  uint4 x[kChunkCols / 32];
  const int token = lane / 4;
  const __nv_bfloat16* row = gate.hidden + static_cast<size_t>(token) * kCols + warp * kChunkCols + lane % 4 * 8;
#pragma unroll
  for (int b = 0; b < kChunkCols / 32; ++b)
    x[b] = token < p.tokens ? *reinterpret_cast<const uint4*>(row + b * 32) : make_uint4(0, 0, 0, 0);
  mbarrier_wait(&s.weights_there, 0);
  float acc[4] = {};
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const uint4 v = i < kHeld ? held[i < kHeld ? i : 0] : s.weights[warp][i < kHeld ? 0 : i - kHeld][lane];
    const uint32_t a[4] = {v.x, v.y, v.z, v.w};
    mma_bf16(acc, a, i % 2 == 0 ? x[i / 2].x : x[i / 2].z, i % 2 == 0 ? x[i / 2].y : x[i / 2].w);
  }
  const int g = lane / 4, q = lane % 4;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (q * 2 + i % 2 < p.tokens) s.partial[warp][q * 2 + i % 2][g + i / 2 * 8] = acc[i];
  }
  __syncthreads();
  cluster_wait();
  if (p.table == nullptr) {
    for (int i = threadIdx.x; i < p.tokens * kExperts; i += kThreads) {
      const int t = i / kExperts, to = i / kCellRows % kBlocks, e = i % kCellRows;
      const float score = sqrt_softplus(total(s, t, e));
      const uint32_t key = choice_key(score + bias);
      send(peer_address(&s.scored[t][rank * kCellRows + e], to), make_uint2(key, __float_as_uint(score)),
           peer_address(&s.scored_there, to));
    }
    // A warp an expert: how many come before it.
    cluster_mbarrier_wait(&s.scored_there, 0);
    const int mine = rank * kCellRows + warp;
    for (int t = 0; t < p.tokens; ++t) {
      const uint2 own = s.scored[t][mine];
      int before = 0;
#pragma unroll
      for (int i = 0; i < kExperts / 32; ++i) {
        const int other = i * 32 + lane;
        const uint32_t key = s.scored[t][other].x;
        before += key > own.x || (key == own.x && other < mine);
      }
      before = __reduce_add_sync(kFullWarp, before);
      if (lane == 0 && before < p.picks) {
        send(peer_address(&s.picks[t * p.picks + before], 0), make_uint2(mine, own.y), peer_address(&s.picks_there, 0));
      }
    }
  } else if (threadIdx.x < slots && (pick < 0 ? 0 : pick / kCellRows) == rank) {
    const float score = pick < 0 ? 0.0f : sqrt_softplus(total(s, threadIdx.x / p.picks, pick % kCellRows));
    send(peer_address(&s.picks[threadIdx.x], 0), make_uint2(pick, __float_as_uint(score)), peer_address(&s.picks_there, 0));
  }
  if (rank != 0) return;
  cluster_mbarrier_wait(&s.picks_there, 0);
  if (warp == 0) return place_slots(p, dispatch, s);
  for (int e = threadIdx.x - 32; e <= kExperts; e += kThreads - 32) {
    int begin = 0;
#pragma unroll 6
    for (int i = 0; i < slots; ++i) begin += s.padding[i / p.picks] == 0 && static_cast<int>(s.picks[i].x) < e;
    dispatch.begin[e] = begin;
  }
}

}  // namespace

void run_route_cluster(const GateParams& gate, const RouteParams& p, const DispatchParams& dispatch) {
  check_shapes(p);
  allow_shared_bytes(route_cluster_kernel, sizeof(RouteSmem));
  const LaunchShape shape = {.grid = kBlocks, .block = kThreads, .shared_bytes = sizeof(RouteSmem), .stream = p.stream,
                             .cluster = kBlocks, .carveout = shared_carveout(164, kClusterArch)};
  launch_dependent(shape, route_cluster_kernel, gate, p, dispatch);
}

}  // namespace twelvex::cuda
