// SPDX-License-Identifier: MIT
// Widening of fp4 and fp8 weights in both orders of a word's bits, to the bit: every value in every place among random
// neighbours, every scale byte in every place. So an architecture's order is tested on all others too.
#include <cstring>

#include "gemm/widen.cuh"
#include "gemm_reference.h"

using namespace twelvex;
using namespace twelvex::test;
using cuda::WeightOrder;

namespace {

/// A lane's vector of plain words and its scales: fp4, the cell's word; fp8, a byte.
struct Input {
  uint32_t words[4];
  uint32_t scales;
};

/// Registers of the steps of 16 columns, and the input again.
struct Output {
  uint32_t a[4][4];
  Input input;
};

template <WeightOrder kOrder>
__global__ void widen_fp4_kernel(const Input* in, Output* out, int count) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= count) return;
  Input v = in[i];
  if constexpr (kOrder == WeightOrder::kFolded) {
    for (uint32_t& word : v.words) word = cuda::fold_fp4(word);
    v.scales = cuda::fold_scales(v.scales);
  }
  const uint4 vector = make_uint4(v.words[0], v.words[1], v.words[2], v.words[3]);
  Output& o = out[i];
  cuda::fragment_fp4<0, 0, kOrder>(vector, v.scales, o.a[0]);
  cuda::fragment_fp4<0, 1, kOrder>(vector, v.scales, o.a[1]);
  cuda::fragment_fp4<1, 0, kOrder>(vector, v.scales, o.a[2]);
  cuda::fragment_fp4<1, 1, kOrder>(vector, v.scales, o.a[3]);
  if constexpr (kOrder == WeightOrder::kFolded) {
    for (uint32_t& word : v.words) word = cuda::unfold_fp4(word);
    v.scales = cuda::unfold_scales(v.scales);
  }
  o.input = v;
}

template <WeightOrder kOrder>
__global__ void widen_fp8_kernel(const Input* in, Output* out, int count) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= count) return;
  Input v = in[i];
  if constexpr (kOrder == WeightOrder::kFolded) {
    for (uint32_t& word : v.words) word = cuda::fold_fp8(word);
  }
  const uint4 vector = make_uint4(v.words[0], v.words[1], v.words[2], v.words[3]);
  const cuda::bf162 scale = cuda::scale_pair<cuda::kFp8ScaleBias>(v.scales);
  Output& o = out[i];
  cuda::fragment_fp8<0, kOrder>(vector, scale, o.a[0]);
  cuda::fragment_fp8<1, kOrder>(vector, scale, o.a[1]);
  if constexpr (kOrder == WeightOrder::kFolded) {
    for (uint32_t& word : v.words) word = cuda::unfold_fp8(word);
  }
  o.input = v;
}

/// The bf16 that equals `value`.
uint32_t bf16_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits >> 16;
}

/// Every value of `bits` bits in every place of every word, `turns` times; bytes of scales up to `most`, each in every place.
std::vector<Input> inputs(int bits, int turns, int least, int most) {
  std::vector<Input> all;
  for (int turn = 0; turn < turns; ++turn) {
    for (int place = 0; place < 32; place += bits) {
      for (uint32_t value = 0; value < 1u << bits; ++value) {
        Input v;
        for (uint32_t& word : v.words)
          word = (static_cast<uint32_t>(rng()()) & ~(((1u << bits) - 1) << place)) | value << place;
        v.scales = 0;
        for (int i = 0; i < 4; ++i) {
          const int step = i == static_cast<int>(all.size() / 256) % 4 ? static_cast<int>(all.size()) : below(256);
          v.scales |= static_cast<uint32_t>(least + step % (most + 1 - least)) << (8 * i);
        }
        all.push_back(v);
      }
    }
  }
  return all;
}

template <class Kernel>
std::vector<Output> run(Kernel kernel, const std::vector<Input>& in) {
  const DeviceArray<Input> device_in(in);
  const DeviceArray<Output> out(in.size());
  out.poison();
  const int count = static_cast<int>(in.size());
  kernel<<<(count + 255) / 256, 256>>>(device_in, out, count);
  sync("widen");
  return out.download();
}

template <WeightOrder kOrder>
void test_fp4(const std::string& order) {
  constexpr int kNibble[8] = {0, 4, 2, 6, 1, 5, 3, 7};  // of a column, and the reverse
  const std::vector<Input> in = inputs(4, 64, 0, cuda::kFp4MaxScaleByte);
  const std::vector<Output> out = run(widen_fp4_kernel<kOrder>, in);
  bool same = true, kept = true;
  for (size_t i = 0; i < in.size(); ++i) {
    kept &= std::memcmp(&out[i].input, &in[i], sizeof(Input)) == 0;
    for (int step = 0; step < 4; ++step) {
      for (int r = 0; r < 4; ++r) {
        const int word = step / 2 * 2 + r % 2, column = step % 2 * 4 + r / 2 * 2;
        const float scale = e8m0(in[i].scales >> (8 * word) & 0xff);
        const auto value = [&](int c) { return bf16_bits(e2m1(in[i].words[word] >> (4 * kNibble[c]) & 15) * scale); };
        same &= out[i].a[step][r] == (value(column) | value(column + 1) << 16);
      }
    }
  }
  expect(same, "fp4, " + order + " order: registers of every step");
  expect(kept, "fp4, " + order + " order: the plain words again");
}

template <WeightOrder kOrder>
void test_fp8(const std::string& order) {
  constexpr int kByte[4] = {0, 2, 1, 3};
  std::vector<Input> in = inputs(8, 64, 16, cuda::kFp8MaxScaleByte);  // below, products are no bf16
  for (Input& v : in) v.scales &= 0xff;
  const std::vector<Output> out = run(widen_fp8_kernel<kOrder>, in);
  bool same = true, kept = true;
  for (size_t i = 0; i < in.size(); ++i) {
    kept &= std::memcmp(&out[i].input, &in[i], sizeof(Input)) == 0;
    const float scale = e8m0(static_cast<uint8_t>(in[i].scales));
    for (int step = 0; step < 2; ++step) {
      for (int r = 0; r < 4; ++r) {
        const uint32_t word = in[i].words[step * 2 + r % 2];
        const auto value = [&](int c) { return bf16_bits(e4m3(word >> (8 * kByte[c]) & 0xff) * scale); };
        same &= out[i].a[step][r] == (value(r / 2 * 2) | value(r / 2 * 2 + 1) << 16);
      }
    }
  }
  expect(same, "fp8, " + order + " order: registers of every step");
  expect(kept, "fp8, " + order + " order: the plain words again");
}

}  // namespace

int main(int argc, char** argv) {
  start("widen", argc, argv);
  test_fp4<WeightOrder::kPlain>("plain");
  test_fp4<WeightOrder::kFolded>("folded");
  test_fp8<WeightOrder::kPlain>("plain");
  test_fp8<WeightOrder::kFolded>("folded");
  return finish("widen");
}
