// SPDX-License-Identifier: MIT
// What one block of hyper_cluster.cu does.
//
// A cluster of 16 blocks; block b has the slices b and b + 16 of 128 dims of all four streams, for every token.
//   before the wait   fn of the block's slices (copy engine; a step in registers), streams, comb if nobody made it
//   leave             a warp a token and stream: new streams -> global and shared memory
//   multiply          a warp has 64 of the block's 1,024 elements: fn (rows) x tokens (columns)
//   first exchange    sums of a slice go to every block (those of pre, and the squares) or to block t (the others of token t)
//   finish            a warp a token: collapsed input of its 256 dims; squares go to every block, the second exchange; norm
//   keep              block t, beside that: post, and comb's logits
//   route             one token to the experts: crossing_router.cuh
// A block waits for what others send on barriers that count its bytes. Nobody reads another block's memory, so a block may end
// when it has received everything. All additions are in the order of hyper.cu's kernels.
#pragma once

#include "arch/async_copy.cuh"
#include "arch/cluster.cuh"
#include "arch/dependent_launch.cuh"
#include "common/reduce.cuh"
#include "gemm/quantise.cuh"
#include "hyper/hyper_cluster.h"
#include "hyper/hyper_math.cuh"
#include "moe/combine.cuh"
#include "moe/crossing_router.cuh"

namespace twelvex::cuda::hyper_cluster {

constexpr int kBlocks = kHyperClusterBlocks;
constexpr int kWarps = 16, kThreads = kWarps * 32;
constexpr int kSlices = 2;                     // of a block: b and b + 16
constexpr int kAllSlices = kBlocks * kSlices;
constexpr int kSliceWarps = kWarps / kSlices;
constexpr int kSliceWidth = kStreams * kHyperSlice;
constexpr int kDim = kAllSlices * kHyperSlice;
constexpr int kShared = kStreams + 1;          // sums that every block needs: those of pre, and the squares
constexpr int kOwn = kHyperKept;               // sums that one block needs
constexpr int kHeld = 1;                       // of a warp's steps of fn in registers: reading it from shared memory takes longer
constexpr int kShelved = kFnSteps - kHeld;
// Fn but for its first step, where sums go, makes room for the router.
static_assert(sizeof(uint4[kShelved - 1][kSliceWarps][kFnVectors][32]) >= sizeof(CrossingRouter::Room));
static_assert(kDim == kHyperClusterDim && kHyperClusterTokens * kStreams <= kWarps);

struct alignas(16) TokenSmem {
  bf16 old[kSlices][kSliceWidth];              // streams before the sub-layer
  bf16 streams[kSlices][kSliceWidth + 8];
  alignas(16) float kept[kHyperKept];
  int32_t rows[kMaxPicks];
  float squares[kSlices][16];
  float sums[kAllSlices][kShared];
  union {
    uint4 parts[kParts][32];                   // of the output, where it is combined here
    float norms[8][36];                        // squares of the input by thread of a row of 256; 36 spreads rows over banks
  };
};

struct alignas(128) ClusterSmem {
  uint4 fn[kSlices][kShelved][kSliceWarps][kFnVectors][32];  // a warp's first step; then its sums
  float own[kAllSlices][kOwn];
  float norm[kSlices][kHyperSlice];
  uint4 zeros;
  uint64_t fn_there, sums_there, norms_there, own_there;
};

__host__ __device__ constexpr size_t shared_bytes(int tokens, bool routes) {
  const size_t own = sizeof(ClusterSmem) + static_cast<size_t>(tokens) * sizeof(TokenSmem);
  return routes ? (own + 127) / 128 * 128 + sizeof(CrossingRouter::Smem) : own;
}

/// One block's view.
struct Cluster {
  const HyperParams& p;
  ClusterSmem& s;
  TokenSmem* tokens;
  const int rank = static_cast<int>(cluster_rank());
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int slice = warp / kSliceWarps;
  /// First of the eight dims of this lane, where a warp has a token's 256 dims of this block.
  const int dim = (lane / 16 * kBlocks + rank) * kHyperSlice + lane % 16 * 8;

  __device__ Cluster(const HyperParams& params, uint8_t* shared)
      : p(params),
        s(*reinterpret_cast<ClusterSmem*>(shared)),
        tokens(reinterpret_cast<TokenSmem*>(shared + sizeof(ClusterSmem))) {}

  __device__ float* sums_of(int of_slice, int w) const { return reinterpret_cast<float*>(s.fn[of_slice][0][w]); }
  __device__ bf16* streams_at(int token, int k) const {
    return p.streams + (static_cast<size_t>(token) * kStreams + k) * kDim + dim;
  }
  __device__ bf16* shared_at(int token, int k) const {
    return &tokens[token].streams[lane / 16][k * kHyperSlice + lane % 16 * 8];
  }
  __device__ bf16* old_at(int token, int k) const {
    return &tokens[token].old[lane / 16][k * kHyperSlice + lane % 16 * 8];
  }
  __device__ const uint4* fn_of(int of_slice, int step) const {
    constexpr int kStep = kSliceWarps * kFnVectors * 32;
    return reinterpret_cast<const uint4*>(p.fn) + ((of_slice * kBlocks + rank) * kFnSteps + step) * kStep;
  }

  __device__ void begin() {
    if (threadIdx.x == 0) {
      mbarrier_init(&s.fn_there, 1);
      mbarrier_init(&s.sums_there, 1);
      mbarrier_init(&s.norms_there, 1);
      mbarrier_init(&s.own_there, 1);
      mbarrier_fence_init();
      mbarrier_arrive_expect(&s.fn_there, sizeof(s.fn));
      for (int i = 0; i < kSlices; ++i) bulk_copy(s.fn[i], fn_of(i, kHeld), sizeof(s.fn[i]), &s.fn_there);
      mbarrier_arrive_expect(&s.sums_there, p.tokens * kAllSlices * kShared * sizeof(float));
      mbarrier_arrive_expect(&s.norms_there, p.tokens * 256 * sizeof(float));
      mbarrier_arrive_expect(&s.own_there, rank < p.tokens ? sizeof(s.own) : 0);
      s.zeros = make_uint4(0, 0, 0, 0);
    }
    __syncwarp();
    cluster_arrive();
  }

  /// The weights of this block's dims -> shared memory.
  __device__ void load_norm() const {
    const int i = threadIdx.x;
    if (i < kSlices * kHyperSlice / 4)
      cp_async_16(smem_address(s.norm[0] + i * 4), p.norm + (i / 32 * kBlocks + rank) * kHyperSlice + i % 32 * 4);
  }

  /// The experts' rows, a warp a token and part.
  __device__ void combine() const {
    static_assert(kHyperClusterTokens * kParts <= kWarps);
    const int token = warp / static_cast<int>(kParts), part = warp % static_cast<int>(kParts);
    if (token >= p.tokens) return;
    TokenSmem& t = tokens[token];
    t.parts[part][lane] = combine_part_at_once(p.parts, part, token, dim / 8, t.rows);
  }

  /// This lane's part of a token's sub-layer output.
  __device__ uint4 load_output(int token) const {
    if (p.parts.tokens == 0) return *reinterpret_cast<const uint4*>(p.output + static_cast<size_t>(token) * kDim + dim);
    float total[8] = {};
    if (p.parts.picks == 0) {  // two vectors are sooner read by all warps than handed on
      uint4 parts[kParts];
#pragma unroll
      for (size_t i = 0; i < kParts; ++i)
        parts[i] = *reinterpret_cast<const uint4*>(p.parts.shared[i] + static_cast<size_t>(token) * kDim + dim);
#pragma unroll
      for (const uint4& part : parts) add_vector(total, part);
    } else {
#pragma unroll
      for (const auto& part : tokens[token].parts) add_vector(total, part[lane]);
    }
    return pack_bf16x8(total);
  }

  /// Stream k of a token after the sub-layer.
  __device__ void leave(int token, int k) const {
    const float* kept = tokens[token].kept;
    float v[8];
    unpack_bf16x8(load_output(token), v);
    const float post = kept[k];
#pragma unroll
    for (int i = 0; i < 8; ++i) v[i] = post * v[i];
#pragma unroll
    for (int j = 0; j < kStreams; ++j) {
      const float weight = kept[kStreams + j * kStreams + k];
      float x[8];
      unpack_bf16x8(*reinterpret_cast<const uint4*>(old_at(token, j)), x);
#pragma unroll
      for (int i = 0; i < 8; ++i) v[i] += weight * x[i];
    }
    const uint4 fresh = pack_bf16x8(v);
    *reinterpret_cast<uint4*>(shared_at(token, k)) = fresh;
    *reinterpret_cast<uint4*>(streams_at(token, k)) = fresh;
  }

  __device__ void sum_squares(int token) const {
    float squares = 0;
#pragma unroll
    for (int k = 0; k < kStreams; ++k) {
      float v[8];
      unpack_bf16x8(*reinterpret_cast<const uint4*>(shared_at(token, k)), v);
#pragma unroll
      for (int i = 0; i < 8; ++i) squares += v[i] * v[i];
    }
    tokens[token].squares[lane / 16][lane % 16] = squares;
  }

  /// This warp's 64 elements of the streams times fn, as rows of 16 mixes x 8 tokens.
  __device__ void multiply(const uint4 (&held)[kHeld][kFnVectors], float (&acc)[2][4]) const {
    const int row = lane % 8;
    const bool there = row < p.tokens;
    const uint32_t address = there ? smem_address(&tokens[row].streams[slice][warp % kSliceWarps * 64]) + lane / 8 * 16
                                   : smem_address(&s.zeros);
    uint32_t x[2][4];
    ldmatrix_x4(x[0], address);
    ldmatrix_x4(x[1], there ? address + 64 : address);
    mbarrier_wait(&s.fn_there, 0);
#pragma unroll
    for (int k = 0; k < kFnSteps; ++k) {
      const uint32_t b0 = x[k / 2][k % 2 * 2], b1 = x[k / 2][k % 2 * 2 + 1];
      uint4 part[kFnVectors];
#pragma unroll
      for (int i = 0; i < kFnVectors; ++i)
        part[i] = k < kHeld ? held[k % kHeld][i] : s.fn[slice][(k + kShelved - kHeld) % kShelved][warp % kSliceWarps][i][lane];
      const uint4 &high = part[0], &low = part[1], &last = part[2];
      mma_bf16(acc[0], {high.x, high.y, high.z, high.w}, b0, b1);
      mma_bf16(acc[1], {last.x, 0, last.y, 0}, b0, b1);
      mma_bf16(acc[0], {low.x, low.y, low.z, low.w}, b0, b1);
      mma_bf16(acc[1], {last.z, 0, last.w, 0}, b0, b1);
    }
  }

  /// Its sums, over its part of fn.
  __device__ void keep_sums(const float (&acc)[2][4]) const {
    __syncwarp();
    float* sums = sums_of(slice, warp % kSliceWarps) + lane / 4;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int token = lane % 4 * 2 + i;
      if (token >= p.tokens) continue;
      sums[token * kHyperMixes] = acc[0][i];
      sums[token * kHyperMixes + 8] = acc[0][2 + i];
      sums[token * kHyperMixes + 16] = acc[1][i];
    }
  }

  /// One of a slice's sums on its way to a block.
  struct Sum {
    const float* from;       // of the slice's first warp
    uint32_t to, barrier;
    bool squares;
  };
  static constexpr int kSends = kSlices * (kShared * kBlocks + kOwn);  // of a token

  __device__ Sum sum_of(int i) const {
    const int token = i / kSends, at = i % kSends;
    const bool shared = at < kSlices * kShared * kBlocks;
    const int item = shared ? at % (kSlices * kShared) : at - kSlices * kShared * kBlocks;
    const int to = shared ? at / (kSlices * kShared) : token;
    const int own_slice = shared ? item / kShared : item / kOwn, m = shared ? item % kShared : item % kOwn;
    const int all = own_slice * kBlocks + rank;
    Sum sum;
    sum.squares = shared && m == kStreams;
    sum.from = sum.squares ? tokens[token].squares[own_slice]
                           : sums_of(own_slice, 0) + token * kHyperMixes + (shared ? m : kStreams + m);
    sum.to = peer_address(shared ? &tokens[token].sums[all][m] : &s.own[all][m], to);
    sum.barrier = peer_address(shared ? &s.sums_there : &s.own_there, to);
    return sum;
  }

  __device__ void send_sum(const Sum& sum) const {
    const int stride = sum.squares ? 1 : static_cast<int>(sizeof(s.fn[0][0][0]) / sizeof(float));
    float total = 0;
#pragma unroll
    for (int w = 0; w < kSliceWarps; ++w) total += sum.from[w * stride];
    if (sum.squares) {
#pragma unroll
      for (int w = kSliceWarps; w < 2 * kSliceWarps; ++w) total += sum.from[w];
    }
    send(sum.to, total, sum.barrier);
  }

  /// Sum over all slices as eight lanes add it; `from` is slice 0's, slices `stride` apart.
  __device__ static float sum_slices(const float* from, int stride, int eighth) {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kAllSlices / 8; ++i) sum += from[(i * 8 + eighth) * stride];
    return warp_sum<8>(sum);
  }

  __device__ float sum_factor(int token) const {
    const float squares = sum_slices(&tokens[token].sums[0][kStreams], kShared, lane % 8);
    return rsqrtf(squares / static_cast<float>(kStreams * kDim) + p.norm_eps);
  }

  /// post and comb's logits of token `rank`, by a warp.
  __device__ void keep_mix() const {
    cluster_mbarrier_wait(&s.sums_there, 0);
    cluster_mbarrier_wait(&s.own_there, 0);
    const float factor = sum_factor(rank);
    const int k = lane / 8;
    float* mix = p.mix + static_cast<size_t>(rank) * kHyperKept;
    const float post = sum_slices(&s.own[0][k], kOwn, lane % 8) * factor * p.scale[1] + p.base[kStreams + k];
    if (lane % 8 == 0) mix[k] = 2.0f * sigmoid(post);
#pragma unroll
    for (int j = 0; j < kStreams; ++j) {
      const int m = kStreams + j * kStreams + k;
      const float logit = sum_slices(&s.own[0][m], kOwn, lane % 8) * factor * p.scale[2] + p.base[kStreams + m];
      if (lane % 8 == 0) mix[m] = logit;
    }
  }

  /// A token's input, by a warp: collapsed, normalised, sent to the router, stored.
  __device__ void finish(int token, float base, float scale, const CrossingRouter* router) const {
    uint4 vector[kStreams];
#pragma unroll
    for (int j = 0; j < kStreams; ++j) vector[j] = *reinterpret_cast<const uint4*>(shared_at(token, j));
    cluster_mbarrier_wait(&s.sums_there, 0);
    const float mix = sum_slices(&tokens[token].sums[0][lane / 8], kShared, lane % 8);
    const float pre = sigmoid(mix * sum_factor(token) * scale + base) + p.hc_eps;
    float v[8] = {};
#pragma unroll
    for (int j = 0; j < kStreams; ++j) {
      const float weight = __shfl_sync(kFullWarp, pre, j * 8);
      float x[8];
      unpack_bf16x8(vector[j], x);
#pragma unroll
      for (int i = 0; i < 8; ++i) v[i] += weight * x[i];
    }
    // Lane l < 16 is thread 16 rank + l of a row of 256, each of which adds the squares of its dims and of those 2,048 further.
    float squares = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) squares += v[i] * v[i];
    squares = __shfl_sync(kFullWarp, squares, lane % 16);
#pragma unroll
    for (int i = 0; i < 8; ++i) squares += v[i] * v[i];
    squares = __shfl_sync(kFullWarp, squares, 16 + lane % 16);
    float* to = &tokens[token].norms[rank / 2][rank % 2 * 16 + lane % 16];
#pragma unroll
    for (int i = 0; i < kBlocks / 2; ++i) {
      const int block = lane / 16 * (kBlocks / 2) + i;
      send(peer_address(to, block), squares, peer_address(&s.norms_there, block));
    }
    cluster_mbarrier_wait(&s.norms_there, 0);
    // Warp sums of eight warps at once, four lanes each; additions in the order of warp_sum.
    const float* from = &tokens[token].norms[lane / 4][lane % 4];
    float a[4], sum;
#pragma unroll
    for (int i = 0; i < 4; ++i) a[i] = from[4 * i] + from[4 * i + 16];
    sum = (a[0] + a[2]) + (a[1] + a[3]);
    sum = warp_sum<4>(sum);
    float total = 0;
#pragma unroll
    for (int w = 0; w < 8; ++w) total += __shfl_sync(kFullWarp, sum, w * 4);
    const float factor = rsqrtf(total / static_cast<float>(kDim) + p.norm_eps);
    const float* w = s.norm[lane / 16] + lane % 16 * 8;
#pragma unroll
    for (int i = 0; i < 8; ++i) v[i] *= factor * w[i];
    const uint4 packed = pack_bf16x8(v);
    const size_t at = static_cast<size_t>(token) * kDim + dim;
    if (router) router->send_hidden(dim, packed);
    *reinterpret_cast<uint4*>(p.hidden + at) = packed;
    if (p.hidden_quantised != nullptr) {
      const float amax = warp_max<16>(amax_bf16x8(packed));
      *reinterpret_cast<uint4*>(p.hidden_quantised + at) = requantise_bf16x8(packed, activation_scale(amax));
    }
    if (router == nullptr) return;
    __syncwarp();
    if (lane == 0) count_up(p.ready);
  }
};

}  // namespace twelvex::cuda::hyper_cluster
