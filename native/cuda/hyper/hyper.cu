// SPDX-License-Identifier: MIT
#include "hyper/hyper.h"

#include "arch/mma.cuh"
#include "common/check.h"
#include "common/convert.cuh"
#include "common/reduce.cuh"
#include "runtime/model_config.h"

namespace twelvex::cuda {

namespace {

constexpr int kTokens = 16;                    // of a mix block: the rows of an mma
constexpr int kMixWarps = 8;
constexpr int kMixThreads = kMixWarps * 32;
constexpr int kSliceWidth = kStreams * kHyperSlice;  // 512 elements of a token's streams
constexpr int kSums = kHyperMixes + 1;         // and the sum of squares
constexpr int kFinishThreads = 256;
constexpr int kMaxVectors = 4;                 // of 8 dims a thread

struct alignas(16) MixSmem {
  bf16 streams[kTokens][kSliceWidth + 8];
  float kept[kTokens][kHyperKept];
  float sums[kMixWarps][kTokens][kHyperMixes];
  float squares[kTokens][16];
};
static_assert(sizeof(MixSmem) <= 48 * 1024);

/// New streams of the block's tokens and dims -> global and shared memory; squares per token and thread.
__device__ __forceinline__ void leave_slice(const HyperParams& p, MixSmem& s, int first, int dim0) {
  // 16 threads a token, 8 dims each.
  const int t = threadIdx.x / 16, part = threadIdx.x % 16, token = first + t;
  float squares = 0;
  if (token < p.tokens) {
    const size_t at = static_cast<size_t>(token) * kStreams * p.dim + dim0 + part * 8;
    float old[kStreams][8];
#pragma unroll
    for (int j = 0; j < kStreams; ++j)
      unpack_bf16x8(*reinterpret_cast<const uint4*>(p.streams + at + static_cast<size_t>(j) * p.dim), old[j]);
    float out[8];
    if (p.leave)
      unpack_bf16x8(*reinterpret_cast<const uint4*>(p.output + static_cast<size_t>(token) * p.dim + dim0 + part * 8), out);
#pragma unroll
    for (int k = 0; k < kStreams; ++k) {
      uint4 packed;
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
        packed = pack_bf16x8(old[k]);
#pragma unroll
        for (int i = 0; i < 8; ++i) squares += old[k][i] * old[k][i];
      }
      *reinterpret_cast<uint4*>(&s.streams[t][k * kHyperSlice + part * 8]) = packed;
    }
  } else {
#pragma unroll
    for (int k = 0; k < kStreams; ++k)
      *reinterpret_cast<uint4*>(&s.streams[t][k * kHyperSlice + part * 8]) = make_uint4(0, 0, 0, 0);
  }
  s.squares[t][part] = squares;
}

// Block (16 tokens, slice of 128 dims of all four streams). Warp w multiplies 64 of the 512 elements: half a stream.
__global__ void __launch_bounds__(kMixThreads) hyper_mix_kernel(const __grid_constant__ HyperParams p, int chunk_first) {
  extern __shared__ __align__(16) uint8_t shared[];
  auto& s = *reinterpret_cast<MixSmem*>(shared);
  const int first = chunk_first + blockIdx.x * kTokens, dim0 = blockIdx.y * kHyperSlice;
  if (p.leave) {
    for (int i = threadIdx.x; i < kTokens * kHyperKept; i += kMixThreads) {
      const int token = first + i / kHyperKept;
      s.kept[i / kHyperKept][i % kHyperKept] =
          token < p.tokens ? p.mix[static_cast<size_t>(token) * kHyperKept + i % kHyperKept] : 0.0f;
    }
    __syncthreads();
  }
  leave_slice(p, s, first, dim0);
  if (!p.enter) return;
  __syncthreads();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, q = lane % 4;
  float acc[3][4] = {};
  const uint32_t a_base = smem_address(&s.streams[0][0]) + (lane % 16) * (kSliceWidth + 8) * 2 + warp * 128 + (lane / 16) * 16;
  const float* fn = p.fn + static_cast<size_t>(warp / 2) * p.dim + dim0 + warp % 2 * 64;
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    uint32_t a[4];
    ldmatrix_x4(a, a_base + k * 32);
#pragma unroll
    for (int n = 0; n < 3; ++n) {
      const float* row = fn + static_cast<size_t>(n * 8 + g) * kStreams * p.dim + k * 16 + q * 2;
      const float2 low = *reinterpret_cast<const float2*>(row), high = *reinterpret_cast<const float2*>(row + 8);
      // fn as the sum of two bf16: 16 bits of mantissa.
      const uint32_t b0 = pack_bf16(low.x, low.y), b1 = pack_bf16(high.x, high.y);
      const float2 r0 = unpack_bf16(b0), r1 = unpack_bf16(b1);
      mma_bf16(acc[n], a, b0, b1);
      mma_bf16(acc[n], a, pack_bf16(low.x - r0.x, low.y - r0.y), pack_bf16(high.x - r1.x, high.y - r1.y));
    }
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

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + __expf(-x)); }

/// comb (lane 4 j + k of 16): softmax over k, then alternately columns and rows. Lanes 16 .. 31 compute along.
__device__ __forceinline__ float sinkhorn(float logit, int iterations, float eps) {
  const float top = warp_max<4>(logit);
  float v = __expf(logit - top);
  v = __fdividef(v, warp_sum<4>(v)) + eps;
  const auto column_sum = [](float x) {
    x += __shfl_xor_sync(kFullWarp, x, 4);
    return x + __shfl_xor_sync(kFullWarp, x, 8);
  };
  v = __fdividef(v, column_sum(v) + eps);
  for (int i = 1; i < iterations; ++i) {
    v = __fdividef(v, warp_sum<4>(v) + eps);
    v = __fdividef(v, column_sum(v) + eps);
  }
  return v;
}

/// Sum over streams of weight[s] * stream, normalised -> out. All threads of the block.
__device__ __forceinline__ void collapse_and_norm(const bf16* streams, const float* weight, const float* norm, bf16* out, int dim,
                                                  float eps, float* scratch) {
  float v[kMaxVectors][8];
  float squares = 0;
#pragma unroll
  for (int k = 0; k < kMaxVectors; ++k) {
    const int at = (k * kFinishThreads + static_cast<int>(threadIdx.x)) * 8;
    if (at >= dim) continue;
#pragma unroll
    for (int i = 0; i < 8; ++i) v[k][i] = 0;
#pragma unroll
    for (int j = 0; j < kStreams; ++j) {
      float x[8];
      unpack_bf16x8(*reinterpret_cast<const uint4*>(streams + static_cast<size_t>(j) * dim + at), x);
#pragma unroll
      for (int i = 0; i < 8; ++i) v[k][i] += weight[j] * x[i];
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) squares += v[k][i] * v[k][i];
  }
  const float factor = rsqrtf(block_sum<kFinishThreads>(squares, scratch) / static_cast<float>(dim) + eps);
#pragma unroll
  for (int k = 0; k < kMaxVectors; ++k) {
    const int at = (k * kFinishThreads + static_cast<int>(threadIdx.x)) * 8;
    if (at >= dim) continue;
    const float4 a = *reinterpret_cast<const float4*>(norm + at), b = *reinterpret_cast<const float4*>(norm + at + 4);
    const float w[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
#pragma unroll
    for (int i = 0; i < 8; ++i) v[k][i] *= factor * w[i];
    *reinterpret_cast<uint4*>(out + at) = pack_bf16x8(v[k]);
  }
}

// Block (token).
__global__ void __launch_bounds__(kFinishThreads, 2)
    hyper_finish_kernel(const __grid_constant__ HyperParams p, int chunk_first, int slices) {
  __shared__ float scratch[kFinishThreads / 32], mixes[kSums], pre[kStreams];
  const int token = chunk_first + blockIdx.x;
  if (threadIdx.x < kSums) {
    const float* partial = p.partial + static_cast<size_t>(blockIdx.x) * slices * kSums + threadIdx.x;
    float sum = 0;
    for (int i = 0; i < slices; ++i) sum += partial[i * kSums];
    mixes[threadIdx.x] = sum;
  }
  __syncthreads();
  if (threadIdx.x < 32) {
    const int lane = threadIdx.x;
    const float factor = rsqrtf(mixes[kHyperMixes] / static_cast<float>(kStreams * p.dim) + p.norm_eps);
    float* mix = p.mix + static_cast<size_t>(token) * kHyperKept;
    const int at = lane % 16;
    const float comb = sinkhorn(mixes[8 + at] * factor * p.scale[2] + p.base[8 + at], p.sinkhorn_iters, p.hc_eps);
    if (lane < 16) mix[kStreams + lane] = comb;
    if (lane < kStreams) {
      pre[lane] = sigmoid(mixes[lane] * factor * p.scale[0] + p.base[lane]) + p.hc_eps;
      mix[lane] = 2.0f * sigmoid(mixes[4 + lane] * factor * p.scale[1] + p.base[4 + lane]);
    }
  }
  __syncthreads();
  collapse_and_norm(p.streams + static_cast<size_t>(token) * kStreams * p.dim, pre, p.norm,
                    p.hidden + static_cast<size_t>(token) * p.dim, p.dim, p.norm_eps, scratch);
}

// Block (row of the head): four dot products over 4 D elements, then as above.
__global__ void __launch_bounds__(kFinishThreads, 2) hyper_head_kernel(const __grid_constant__ HyperHeadParams p) {
  __shared__ float scratch[kStreams + 2][kFinishThreads / 32], weight[kStreams];
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
#pragma unroll
  for (int m = 0; m < kStreams; ++m) {
    const float mix = block_sum<kFinishThreads>(sums[m], scratch[m]);
    if (threadIdx.x == 0) weight[m] = sigmoid(mix * factor * p.scale[0] + p.base[m]) + p.hc_eps;
  }
  __syncthreads();
  collapse_and_norm(streams, weight, p.norm, p.hidden + static_cast<size_t>(blockIdx.x) * p.dim, p.dim, p.norm_eps,
                    scratch[kStreams + 1]);
}

}  // namespace

void run_hyper(const HyperParams& p, cudaStream_t queue) {
  TWELVEX_NEED(p.dim % kHyperSlice, 0);
  TWELVEX_NEED_LE(p.dim, kFinishThreads * 8 * kMaxVectors);
  for (int first = 0; first < p.tokens; first += kHyperChunk) {
    const int count = p.tokens - first < kHyperChunk ? p.tokens - first : kHyperChunk;
    const dim3 grid((count + kTokens - 1) / kTokens, p.dim / kHyperSlice);
    HyperParams chunk = p;
    chunk.tokens = first + count;
    hyper_mix_kernel<<<grid, kMixThreads, sizeof(MixSmem), queue>>>(chunk, first);
    check_launch("hyper_mix_kernel");
    if (!p.enter) continue;
    hyper_finish_kernel<<<count, kFinishThreads, 0, queue>>>(chunk, first, p.dim / kHyperSlice);
    check_launch("hyper_finish_kernel");
  }
}

void run_hyper_head(const HyperHeadParams& p, cudaStream_t queue) {
  if (p.rows == 0) return;
  TWELVEX_NEED_LE(p.dim, kFinishThreads * 8 * kMaxVectors);
  hyper_head_kernel<<<p.rows, kFinishThreads, 0, queue>>>(p);
  check_launch("hyper_head_kernel");
}

}  // namespace twelvex::cuda
