// SPDX-License-Identifier: MIT
#include "hyper/hyper.h"

#include "arch/dependent_launch.cuh"
#include "arch/mma.cuh"
#include "common/check.h"
#include "common/convert.cuh"
#include "common/reduce.cuh"
#include "gemm/quantise.cuh"
#include "hyper/hyper_cluster.h"
#include "hyper/hyper_math.cuh"
#include "moe/combine.cuh"
#include "moe/route.h"
#include "runtime/model_config.h"

namespace twelvex::cuda {

namespace {

constexpr int kTokens = 16;                    // of a mix block: the rows of an mma
constexpr int kMixWarps = 8;
constexpr int kMixThreads = kMixWarps * 32;
constexpr int kSliceWidth = kStreams * kHyperSlice;  // 512 elements of a token's streams
constexpr int kSums = kHyperMixes + 1;         // and the sum of squares
constexpr int kFinishThreads = 256;            // that form the normalised input
constexpr int kMaxVectors = 4;                 // of 8 dims a thread
constexpr int kSumLanes = 8;                   // threads that add the slices of one sum
static_assert(kSums * kSumLanes <= kFinishThreads);

struct alignas(16) MixSmem {
  bf16 streams[kTokens][kSliceWidth + 8];
  alignas(16) float kept[kTokens][kHyperKept];
  int32_t rows[kTokens][kMaxPicks];  // of parts
  float sums[kMixWarps][kTokens][kHyperMixes];
  float squares[kTokens][16];
};
static_assert(sizeof(MixSmem) <= 48 * 1024);

/// A thread's part of the block's slice: eight dims of a token's streams, 16 threads a token.
struct StreamPart {
  uint4 streams[kStreams];

  __device__ __forceinline__ static int token() { return threadIdx.x / 16; }
  __device__ __forceinline__ static int dim() { return threadIdx.x % 16 * 8; }

  __device__ __forceinline__ void load(const HyperParams& p, int first, int dim0) {
    const size_t at = static_cast<size_t>(first + token()) * kStreams * p.dim + dim0 + dim();
    if (first + token() >= p.tokens) return;
#pragma unroll
    for (int j = 0; j < kStreams; ++j)
      streams[j] = *reinterpret_cast<const uint4*>(p.streams + at + static_cast<size_t>(j) * p.dim);
  }
};

/// What `leave` reads of the last mix, and where parts lie -> shared memory. A barrier follows.
template <bool kFew>
__device__ __forceinline__ void load_kept(const HyperParams& p, MixSmem& s, int first) {
  if constexpr (!kFew) {
    for (int i = threadIdx.x; i < kTokens * kHyperKept; i += kMixThreads) {
      const int token = first + i / kHyperKept;
      s.kept[i / kHyperKept][i % kHyperKept] =
          token < p.tokens ? p.mix[static_cast<size_t>(token) * kHyperKept + i % kHyperKept] : 0.0f;
    }
    return;
  }
  const int thread = threadIdx.x, token = first + StreamPart::token(), pick = thread % 16;
  if (thread < kTokens && first + thread < p.tokens) make_comb(late_comb(p), first + thread, s.kept[thread]);
  if (p.parts.tokens > 0 && token < p.tokens && pick < p.parts.picks) {
    s.rows[StreamPart::token()][pick] = p.parts.row_of_slot[token * p.parts.picks + pick];
  }
}

/// Eight dims of a token's sub-layer output.
template <bool kFew>
__device__ __forceinline__ uint4 load_output(const HyperParams& p, const MixSmem& s, int token, int dim) {
  if (kFew && p.parts.tokens > 0) return combine_vector(p.parts, token, dim / 8, s.rows[StreamPart::token()]);
  return *reinterpret_cast<const uint4*>(p.output + static_cast<size_t>(token) * p.dim + dim);
}

/// New streams of the block's tokens and dims -> global and shared memory; squares per token and thread.
template <bool kFew>
__device__ __forceinline__ void leave_slice(const HyperParams& p, MixSmem& s, const StreamPart& part, int first, int dim0) {
  const int t = part.token(), dim = part.dim(), token = first + t;
  float squares = 0;
  if (token < p.tokens) {
    const size_t at = static_cast<size_t>(token) * kStreams * p.dim + dim0 + dim;
    float old[kStreams][8], out[8];
    if (p.leave) unpack_bf16x8(load_output<kFew>(p, s, token, dim0 + dim), out);
#pragma unroll
    for (int j = 0; j < kStreams; ++j) unpack_bf16x8(part.streams[j], old[j]);
#pragma unroll
    for (int k = 0; k < kStreams; ++k) {
      uint4 packed = part.streams[k];
      if (p.leave) {
        const float post = s.kept[t][k];
        float v[8];
#pragma unroll
        for (int i = 0; i < 8; ++i) v[i] = post * out[i];
#pragma unroll
        for (int j = 0; j < kStreams; ++j) {
          const float weight = s.kept[t][kStreams + j * kStreams + k];
#pragma unroll
          for (int i = 0; i < 8; ++i) v[i] += weight * old[j][i];
        }
        packed = pack_bf16x8(v);
        *reinterpret_cast<uint4*>(p.streams + at + static_cast<size_t>(k) * p.dim) = packed;
        unpack_bf16x8(packed, v);
#pragma unroll
        for (int i = 0; i < 8; ++i) squares += v[i] * v[i];
      } else {
#pragma unroll
        for (int i = 0; i < 8; ++i) squares += old[k][i] * old[k][i];
      }
      *reinterpret_cast<uint4*>(&s.streams[t][k * kHyperSlice + dim]) = packed;
    }
  } else {
#pragma unroll
    for (int k = 0; k < kStreams; ++k)
      *reinterpret_cast<uint4*>(&s.streams[t][k * kHyperSlice + dim]) = make_uint4(0, 0, 0, 0);
  }
  s.squares[t][dim / 8] = squares;
}

/// This thread's part of fn for one warp's 64 elements.
struct FnPart {
  uint4 vector[kFnSteps][kFnVectors];

  __device__ __forceinline__ void load(const uint4* fn, int k) {
#pragma unroll
    for (int i = 0; i < kFnVectors; ++i) vector[k][i] = __ldg(fn + (k * kMixWarps * kFnVectors + i) * 32);
  }
};

// Block (16 tokens, slice of 128 dims of all four streams). Warp w multiplies 64 of the 512 elements: half a stream. With few
// tokens fn is on its way before the kernel before has ended.
template <bool kFew>
__global__ void __launch_bounds__(kMixThreads) hyper_mix_kernel(const __grid_constant__ HyperParams p, int chunk_first) {
  extern __shared__ __align__(16) uint8_t shared[];
  auto& s = *reinterpret_cast<MixSmem*>(shared);
  const int first = chunk_first + blockIdx.x * kTokens, dim0 = blockIdx.y * kHyperSlice;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, q = lane % 4;
  const uint4* fn = reinterpret_cast<const uint4*>(p.fn) + (blockIdx.y * kFnSteps * kMixWarps + warp) * kFnVectors * 32 + lane;
  FnPart part;
  if (kFew && p.enter) {
#pragma unroll
    for (int k = 0; k < kFnSteps; ++k) part.load(fn, k);
  }
  // Streams and mix were written when the sub-layer was entered, rows when experts were chosen: few tokens have only the output
  // to wait for. Entered without leaving, the streams are the launch before's.
  StreamPart streams;
  const bool early = kFew && p.leave;
  if (early) {
    streams.load(p, first, dim0);
    load_kept<kFew>(p, s, first);
  }
  wait_for_previous_kernel();
  let_next_kernel_start();
  if (!early) {
    streams.load(p, first, dim0);
    if (p.leave) load_kept<kFew>(p, s, first);
  }
  if (p.leave) __syncthreads();
  leave_slice<kFew>(p, s, streams, first, dim0);
  if (!p.enter) return;
  __syncthreads();
  float acc[3][4] = {};
  const uint32_t a_base = smem_address(&s.streams[0][0]) + (lane % 16) * (kSliceWidth + 8) * 2 + warp * 128 + (lane / 16) * 16;
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    uint32_t a[4];
    ldmatrix_x4(a, a_base + k * 32);
    if (!kFew) part.load(fn, k);
    const uint4 high = part.vector[k][0], low = part.vector[k][1], last = part.vector[k][2];
    mma_bf16(acc[0], a, high.x, high.z);
    mma_bf16(acc[0], a, low.x, low.z);
    mma_bf16(acc[1], a, high.y, high.w);
    mma_bf16(acc[1], a, low.y, low.w);
    mma_bf16(acc[2], a, last.x, last.y);
    mma_bf16(acc[2], a, last.z, last.w);
  }
#pragma unroll
  for (int n = 0; n < 3; ++n) {
    *reinterpret_cast<float2*>(&s.sums[warp][g][n * 8 + q * 2]) = make_float2(acc[n][0], acc[n][1]);
    *reinterpret_cast<float2*>(&s.sums[warp][g + 8][n * 8 + q * 2]) = make_float2(acc[n][2], acc[n][3]);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < kTokens * kSums; i += kMixThreads) {
    const int t = i / kSums, m = i % kSums, token = first + t;
    if (token >= p.tokens) continue;
    float sum = 0;
    if (m < kHyperMixes) {
#pragma unroll
      for (int w = 0; w < kMixWarps; ++w) sum += s.sums[w][t][m];
    } else {
#pragma unroll
      for (int j = 0; j < 16; ++j) sum += s.squares[t][j];
    }
    p.partial[(static_cast<size_t>(token - chunk_first) * gridDim.y + blockIdx.y) * kSums + m] = sum;
  }
}

/// post and comb of a token, by one thread.
__device__ __forceinline__ void keep_mix(const HyperParams& p, const float* mixes, float factor, float* mix) {
  float post[kStreams], comb[kStreams][kStreams];
#pragma unroll
  for (int k = 0; k < kStreams; ++k) post[k] = 2.0f * sigmoid(mixes[4 + k] * factor * p.scale[1] + p.base[4 + k]);
#pragma unroll
  for (int j = 0; j < kStreams; ++j)
#pragma unroll
    for (int k = 0; k < kStreams; ++k) comb[j][k] = mixes[8 + 4 * j + k] * factor * p.scale[2] + p.base[8 + 4 * j + k];
  auto* to = reinterpret_cast<float4*>(mix);
  to[0] = make_float4(post[0], post[1], post[2], post[3]);
  sinkhorn(comb, p.late_comb ? 0 : p.sinkhorn_iters, p.hc_eps);
#pragma unroll
  for (int j = 0; j < kStreams; ++j) to[1 + j] = make_float4(comb[j][0], comb[j][1], comb[j][2], comb[j][3]);
}

/// For who reads little and late: the line of L2 comes meanwhile.
__device__ __forceinline__ void prefetch_l2(const void* address) {
  asm volatile("prefetch.global.L2 [%0];\n" ::"l"(address) : "memory");
}

/// Sum over the first kFinishThreads threads of a block, which alone call.
__device__ __forceinline__ float finish_sum(float v, float* scratch) {
  v = warp_sum(v);
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = v;
  asm volatile("bar.sync 1, %0;\n" ::"n"(kFinishThreads) : "memory");
  float total = 0;
#pragma unroll
  for (int w = 0; w < kFinishThreads / 32; ++w) total += scratch[w];
  return total;
}

/// A token's streams in the registers of kFinishThreads threads, eight dims a vector.
struct TokenStreams {
  uint4 vector[kMaxVectors][kStreams];

  __device__ __forceinline__ static int at(int k) { return (k * kFinishThreads + static_cast<int>(threadIdx.x)) * 8; }

  __device__ __forceinline__ void load(const bf16* streams, int dim) {
#pragma unroll
    for (int k = 0; k < kMaxVectors; ++k)
#pragma unroll
      for (int j = 0; j < kStreams; ++j)
        if (at(k) < dim) vector[k][j] = *reinterpret_cast<const uint4*>(streams + static_cast<size_t>(j) * dim + at(k));
  }

  /// Sum over streams of weight[s] * stream, normalised -> out.
  __device__ __forceinline__ void collapse_and_norm(const float (&weight)[kStreams], const float* norm, bf16* out,
                                                    bf16* quantised, int dim, float eps, float* scratch) const {
    float v[kMaxVectors][8];
    float squares = 0;
#pragma unroll
    for (int k = 0; k < kMaxVectors; ++k) {
      if (at(k) >= dim) continue;
#pragma unroll
      for (int i = 0; i < 8; ++i) v[k][i] = 0;
#pragma unroll
      for (int j = 0; j < kStreams; ++j) {
        float x[8];
        unpack_bf16x8(vector[k][j], x);
#pragma unroll
        for (int i = 0; i < 8; ++i) v[k][i] += weight[j] * x[i];
      }
#pragma unroll
      for (int i = 0; i < 8; ++i) squares += v[k][i] * v[k][i];
    }
    const float factor = rsqrtf(finish_sum(squares, scratch) / static_cast<float>(dim) + eps);
#pragma unroll
    for (int k = 0; k < kMaxVectors; ++k) {
      if (at(k) >= dim) continue;
      const float4 a = *reinterpret_cast<const float4*>(norm + at(k)), b = *reinterpret_cast<const float4*>(norm + at(k) + 4);
      const float w[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
#pragma unroll
      for (int i = 0; i < 8; ++i) v[k][i] *= factor * w[i];
      const uint4 packed = pack_bf16x8(v[k]);
      *reinterpret_cast<uint4*>(out + at(k)) = packed;
      if (quantised == nullptr) continue;
      // Sixteen lanes have a group of 128 dims, and dims end with a group.
      const float amax = warp_max<16>(amax_bf16x8(packed), 0xffffu << (threadIdx.x % 32 / 16 * 16));
      *reinterpret_cast<uint4*>(quantised + at(k)) = requantise_bf16x8(packed, activation_scale(amax));
    }
  }
};

// Block (token): one warp more than the input needs, which makes post and comb meanwhile.
__global__ void __launch_bounds__(kFinishThreads + 32, 2)
    hyper_finish_kernel(const __grid_constant__ HyperParams p, int chunk_first, int slices) {
  if (static_cast<int>(threadIdx.x) * 32 < p.dim) prefetch_l2(p.norm + threadIdx.x * 32);
  if (threadIdx.x == 0) prefetch_l2(p.base), prefetch_l2(p.scale);
  wait_for_previous_kernel();
  let_next_kernel_start();
  __shared__ float scratch[kFinishThreads / 32], mixes[kSums];
  const int token = chunk_first + blockIdx.x;
  TokenStreams streams;
  if (threadIdx.x < kFinishThreads) streams.load(p.streams + static_cast<size_t>(token) * kStreams * p.dim, p.dim);
  if (threadIdx.x < kFinishThreads) {
    const int m = threadIdx.x / kSumLanes, lane = threadIdx.x % kSumLanes;
    const float* partial = p.partial + static_cast<size_t>(blockIdx.x) * slices * kSums + m;
    float sum = 0;
    if (m < kSums) {
#pragma unroll 4
      for (int i = lane; i < slices; i += kSumLanes) sum += partial[i * kSums];
    }
    sum = warp_sum<kSumLanes>(sum);
    if (m < kSums && lane == 0) mixes[m] = sum;
  }
  __syncthreads();
  const float factor = rsqrtf(mixes[kHyperMixes] / static_cast<float>(kStreams * p.dim) + p.norm_eps);
  if (threadIdx.x >= kFinishThreads) {
    if (threadIdx.x == kFinishThreads) keep_mix(p, mixes, factor, p.mix + static_cast<size_t>(token) * kHyperKept);
    return;
  }
  float pre[kStreams];
#pragma unroll
  for (int j = 0; j < kStreams; ++j) pre[j] = sigmoid(mixes[j] * factor * p.scale[0] + p.base[j]) + p.hc_eps;
  streams.collapse_and_norm(pre, p.norm, p.hidden + static_cast<size_t>(token) * p.dim,
                            p.hidden_quantised ? p.hidden_quantised + static_cast<size_t>(token) * p.dim : nullptr, p.dim,
                            p.norm_eps, scratch);
}

// Block (row of the head): four dot products over 4 D elements, then as above.
__global__ void __launch_bounds__(kFinishThreads, 2) hyper_head_kernel(const __grid_constant__ HyperHeadParams p) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  __shared__ float scratch[kStreams + 2][kFinishThreads / 32];
  const int token = p.index[blockIdx.x];
  if (token < 0) return;
  const bf16* streams = p.streams + static_cast<size_t>(token) * kStreams * p.dim;
  float sums[kStreams] = {}, squares = 0;
  for (int at = threadIdx.x * 2; at < kStreams * p.dim; at += kFinishThreads * 2) {
    const float2 x = unpack_bf16(*reinterpret_cast<const uint32_t*>(streams + at));
    squares += x.x * x.x + x.y * x.y;
#pragma unroll
    for (int m = 0; m < kStreams; ++m) {
      const float2 f = *reinterpret_cast<const float2*>(p.fn + static_cast<size_t>(m) * kStreams * p.dim + at);
      sums[m] += x.x * f.x + x.y * f.y;
    }
  }
  squares = block_sum<kFinishThreads>(squares, scratch[kStreams]);
  const float factor = rsqrtf(squares / static_cast<float>(kStreams * p.dim) + p.norm_eps);
  float weight[kStreams];
#pragma unroll
  for (int m = 0; m < kStreams; ++m) {
    weight[m] = sigmoid(block_sum<kFinishThreads>(sums[m], scratch[m]) * factor * p.scale[0] + p.base[m]) + p.hc_eps;
  }
  TokenStreams rows;
  rows.load(streams, p.dim);
  rows.collapse_and_norm(weight, p.norm, p.hidden + static_cast<size_t>(blockIdx.x) * p.dim, nullptr, p.dim, p.norm_eps,
                         scratch[kStreams + 1]);
}

}  // namespace

void run_hyper(const HyperParams& p, cudaStream_t queue) {
  TWELVEX_NEED(p.dim % kHyperSlice, 0);
  TWELVEX_NEED_LE(p.dim, kFinishThreads * 8 * kMaxVectors);
  if (p.parts.tokens > 0) {
    TWELVEX_NEED_LE(p.tokens, kFewTokens);
    TWELVEX_NEED_LE(p.parts.picks, kMaxPicks);
    TWELVEX_NEED(p.parts.picks > 0 || (p.parts.shared[0] != nullptr && p.parts.shared[1] != nullptr), true);
  }
  if (p.enter && takes_cluster(p)) return run_hyper_cluster(p, queue);
  for (int first = 0; first < p.tokens; first += kHyperChunk) {
    const int count = p.tokens - first < kHyperChunk ? p.tokens - first : kHyperChunk;
    const dim3 grid((count + kTokens - 1) / kTokens, p.dim / kHyperSlice);
    HyperParams chunk = p;
    chunk.tokens = first + count;
    const auto mix = p.tokens <= kFewTokens ? hyper_mix_kernel<true> : hyper_mix_kernel<false>;
    launch_dependent({grid, kMixThreads, sizeof(MixSmem), queue}, mix, chunk, first);
    if (!p.enter) continue;
    launch_dependent({count, kFinishThreads + 32, 0, queue}, hyper_finish_kernel, chunk, first, p.dim / kHyperSlice);
  }
}

namespace {

/// Elements `column` and the next of a row of fn: rounded to bf16, and what that leaves.
__device__ __forceinline__ uint2 split_pair(const float* row, int column) {
  const float2 v = *reinterpret_cast<const float2*>(row + column);
  const uint32_t high = pack_bf16(v.x, v.y);
  const float2 rounded = unpack_bf16(high);
  return make_uint2(high, pack_bf16(v.x - rounded.x, v.y - rounded.y));
}

// Thread (lane's vectors of a step), in the order of hyper_math.cuh.
__global__ void prepare_fn_kernel(const float* raw, uint4* prepared, int dim) {
  const int at = blockIdx.x * blockDim.x + threadIdx.x, lane = at % 32, warp = at / 32 % kMixWarps;
  const int step = at / (32 * kMixWarps) % kFnSteps, slice = at / (32 * kMixWarps * kFnSteps);
  if (slice >= dim / kHyperSlice) return;
  const int column = warp / 2 * dim + slice * kHyperSlice + warp % 2 * 64 + step * 16 + lane % 4 * 2;
  uint2 a[3][2];
#pragma unroll
  for (int n = 0; n < 3; ++n) {
    const float* row = raw + static_cast<size_t>(n * 8 + lane / 4) * kStreams * dim;
    a[n][0] = split_pair(row, column);
    a[n][1] = split_pair(row, column + 8);
  }
  uint4* to = prepared + static_cast<size_t>(at / 32) * kFnVectors * 32 + lane;
  to[0] = make_uint4(a[0][0].x, a[1][0].x, a[0][1].x, a[1][1].x);
  to[32] = make_uint4(a[0][0].y, a[1][0].y, a[0][1].y, a[1][1].y);
  to[64] = make_uint4(a[2][0].x, a[2][1].x, a[2][0].y, a[2][1].y);
}

}  // namespace

void run_prepare_hyper(const float* raw, float* prepared, int dim, cudaStream_t queue) {
  TWELVEX_NEED(dim % kHyperSlice, 0);
  const int threads = dim / kHyperSlice * kFnSteps * kMixWarps * 32;
  prepare_fn_kernel<<<threads / kMixThreads, kMixThreads, 0, queue>>>(raw, reinterpret_cast<uint4*>(prepared), dim);
  check_launch("prepare_fn_kernel");
}

void run_hyper_head(const HyperHeadParams& p, cudaStream_t queue) {
  if (p.rows == 0) return;
  TWELVEX_NEED_LE(p.dim, kFinishThreads * 8 * kMaxVectors);
  launch_dependent({p.rows, kFinishThreads, 0, queue}, hyper_head_kernel, p);
}

}  // namespace twelvex::cuda
