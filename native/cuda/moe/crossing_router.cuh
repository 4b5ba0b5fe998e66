// SPDX-License-Identifier: MIT
// The router of one token, by the cluster of 16 blocks in which it crosses to the experts (hyper/hyper_cluster.cu). Block b has
// the experts 16 b .. 16 b + 15, its warp w the columns 256 w .. 256 w + 255 of their weights, which come while the blocks cross.
//   hidden    every block gets the whole row from all of them
//   product   partial sums of the chunks, added in ascending order (gemm.h)
//   scores    go to block 0, whose warp chooses, weighs and sorts (dispatch.h)
// Blocks write each other's memory and wait on barriers that count bytes.
#pragma once

#include "arch/async_copy.cuh"
#include "arch/cluster.cuh"
#include "arch/mma.cuh"
#include "moe/crossing_router.h"
#include "moe/route_token.cuh"

namespace twelvex::cuda {

struct CrossingRouter {
  static constexpr int kBlocks = 16, kWarps = 16;
  static constexpr int kExperts = kBlocks * kCellRows, kCols = kWarps * kChunkCols;
  static_assert(kExperts == kRouteClusterExperts && kCols == kRouteClusterCols && kRouteClusterSlots <= 32);
  // Of the 16 vectors of a lane, which are a warp's 16 x 256 weights, in registers and in shared memory.
  static constexpr int kVectors = 16, kHeld = 10, kShelved = kVectors - kHeld;
  static constexpr int kWarpBytes = kVectors * 512;
  static constexpr int kChooser = kWarps / 2;  // the warp of scores and choice: neither the first, which crosses, nor the last

  struct alignas(128) Smem {
    uint4 weights[kWarps][kShelved][32];
    uint64_t shelved_there, first_there, hidden_there, scored_there;
    // The chooser's, of every lane: it has no registers to keep them in.
    float bias[32];     // of its expert of the block
    int32_t picks[32];  // of a layer with a table
    int32_t padding;
  };
  /// Where fn was, once the streams are multiplied.
  struct alignas(128) Room {
    uint4 weights[kHeld][32];  // of the first warp, which has no registers for them while it crosses
    __nv_bfloat16 hidden[kCols];
    float partial[kWarps][kCellRows];
    uint2 scored[kExperts];  // block 0: key of the choice, score
  };

  const CrossingRouterParams& p;
  Smem& s;
  Room& room;
  const int rank, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  uint4 held[kHeld];

  __device__ CrossingRouter(const CrossingRouterParams& params, uint8_t* own, void* free, int block)
      : p(params),
        s(*reinterpret_cast<Smem*>(own)),
        room(*static_cast<Room*>(free)),
        rank(block) {}

  __device__ const uint8_t* weights() const { return p.weights + static_cast<size_t>(rank * kWarps + warp) * kWarpBytes; }

  /// By every thread, before the barrier of the cluster.
  __device__ void init_barriers() const {
    if (threadIdx.x != kChooser * 32) return;
    mbarrier_init(&s.shelved_there, 1);
    mbarrier_init(&s.first_there, 1);
    mbarrier_init(&s.hidden_there, 1);
    mbarrier_init(&s.scored_there, 1);
    mbarrier_fence_init();
    mbarrier_arrive_expect(&s.shelved_there, sizeof(s.weights));
    mbarrier_arrive_expect(&s.first_there, sizeof(room.weights));
    mbarrier_arrive_expect(&s.hidden_there, sizeof(room.hidden));
    mbarrier_arrive_expect(&s.scored_there, rank == 0 ? sizeof(room.scored) : 0);
  }

  /// Part of the weights. Not before a crossing has its own: they would come in turn.
  __device__ void fetch() const {
    if (lane == 0) bulk_copy(s.weights[warp], weights() + kHeld * 512, sizeof(s.weights[warp]), &s.shelved_there);
  }

  /// The others, once the room is free. The first warp's go to shared memory: it has no registers for them while it crosses.
  __device__ void hold() {
    if (warp == 0) {
      if (lane == 0) bulk_copy(room.weights, weights(), sizeof(room.weights), &s.first_there);
    } else {
#pragma unroll
      for (int i = 0; i < kHeld; ++i) held[i] = __ldg(reinterpret_cast<const uint4*>(weights() + i * 512) + lane);
    }
  }
  /// By the first warp, when it has crossed.
  __device__ void hold_first() {
    mbarrier_wait(&s.first_there, 0);
#pragma unroll
    for (int i = 0; i < kHeld; ++i) held[i] = room.weights[i][lane];
  }

  /// What the choice needs besides the scores, by the chooser.
  __device__ void look_up() {
    const RouteParams& r = p.route;
    const bool padding = r.token_row != nullptr && *r.token_row < 0;
    if (lane == 0) s.padding = padding;
    s.bias[lane] = r.table == nullptr ? r.bias[rank * kCellRows + lane % kCellRows] : 0.0f;
    const bool picks = r.table != nullptr && lane < r.picks && !padding;
    s.picks[lane] = picks ? r.table[static_cast<int64_t>(*r.token_id) * r.picks + lane] : -1;
    __syncwarp();
  }

  /// Eight columns of the hidden state from this lane to every block.
  __device__ void send_hidden(int column, const uint4& value) const {
#pragma unroll 4
    for (int i = 0; i < kBlocks; ++i) {
      const int to = (i + rank) % kBlocks;
      send(peer_address(room.hidden + column, to), value, peer_address(&s.hidden_there, to));
    }
  }

  __device__ __forceinline__ uint4 weight(int i) const {
    return i < kHeld ? held[i < kHeld ? i : 0] : s.weights[warp][i < kHeld ? 0 : i - kHeld][lane];
  }

  /// By every thread, once the token has crossed: the rest.
  __device__ void run() {
    const uint4* x = reinterpret_cast<const uint4*>(room.hidden + warp * kChunkCols) + lane % 4;
    mbarrier_wait(&s.shelved_there, 0);
    cluster_mbarrier_wait(&s.hidden_there, 0);
    float acc[4] = {};
#pragma unroll
    for (int i = 0; i < kVectors; i += 2) {
      const uint4 columns = lane < 4 ? x[i / 2 * 4] : make_uint4(0, 0, 0, 0);  // a product has eight tokens, seven are none
      const uint4 v = weight(i), w = weight(i + 1);
      mma_bf16(acc, {v.x, v.y, v.z, v.w}, columns.x, columns.y);
      mma_bf16(acc, {w.x, w.y, w.z, w.w}, columns.z, columns.w);
    }
    if (lane % 4 == 0) {
      room.partial[warp][lane / 4] = acc[0];
      room.partial[warp][lane / 4 + 8] = acc[2];
    }
    __syncthreads();
    if (warp != kChooser) return;
    if (lane < kCellRows) {
      float sum = 0;
#pragma unroll
      for (int c = 0; c < kWarps; ++c) sum += room.partial[c][lane];
      const float score = sqrt_softplus(sum);
      const auto scored = make_uint2(choice_key(score + s.bias[lane]), __float_as_uint(score));
      send(peer_address(&room.scored[rank * kCellRows + lane], 0), scored, peer_address(&s.scored_there, 0));
    }
    if (rank == 0) choose();
  }

  /// By block 0's chooser: experts, weights, and the slots in the order of their experts, each a tile of its own.
  __device__ void choose() const {
    const RouteParams& r = p.route;
    const DispatchParams& d = p.dispatch;
    cluster_mbarrier_wait(&s.scored_there, 0);
    int id = s.picks[lane];
    if (r.table == nullptr && s.padding == 0) {
      id = choose_experts<kExperts / 32>(r.picks, [&](int i) { return room.scored[i * 32 + lane].x; });
    }
    const bool there = id >= 0;
    const float mine = there ? __uint_as_float(room.scored[id].y) : 0.0f;
    float total = 0;
    int before = 0;
    for (int k = 0; k < r.picks; ++k) {
      const int other = __shfl_sync(kFullWarp, id, k);
      total += __shfl_sync(kFullWarp, mine, k);
      before += other < id || (other == id && k < lane);
    }
    if (lane == 0) *d.tile_count = s.padding != 0 ? 0 : r.picks;
    if (lane >= r.picks) return;
    const float weight = there ? mine / (total + 1e-20f) * r.scale : 0.0f;
    if (there) {
      d.tiles[before] = GroupTile{id, before, 1};
      d.sorted_token[before] = 0;
      d.sorted_weight[before] = weight;
    }
    d.row_of_slot[lane] = there ? before : -1;
    r.ids[lane] = id;
    r.weights[lane] = weight;
  }
};

}  // namespace twelvex::cuda
