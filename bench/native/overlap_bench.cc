// SPDX-License-Identifier: MIT
// What slabs hide: the output projection and the experts of DeepSeek-V4-Flash on a rank of two, without their all-reduce, with
// it behind them, and with the all-reduce of a slab of columns beside the next slab. The bits of all are compared.
//   overlap_bench [--devices 0,1]
#include <cstdlib>
#include <thread>

#include "comm/slab_reduction.h"
#include "common/device.h"
#include "moe/experts.h"
#include "runtime/error.h"
#include "support.h"

using namespace twelvex;
using namespace twelvex::test;
using cuda::AllReduceParams;
using cuda::AllReducePath;
using cuda::Communicator;
using cuda::GemmParams;
using cuda::MoeParams;
using cuda::PeerPointers;
using cuda::SlabReduction;
using bf16 = __nv_bfloat16;

namespace {

constexpr int kHidden = 4096, kWidth = 1024, kExperts = 256, kPicks = 6, kLowRank = 4096, kMaxTokens = 8192;

/// A prepared matrix of random finite weights.
class Weights {
 public:
  Weights(WeightFormat format, int count, int rows, int cols, unsigned seed)
      : payload_(cuda::weight_bytes(format, rows, cols) * static_cast<size_t>(count)),
        scales_(cuda::scale_bytes(format, rows, cols) * static_cast<size_t>(count)),
        view{format, rows, cols, payload_.get(), scales_.get()} {
    std::mt19937 engine(seed);
    std::vector<uint8_t> chunk(std::min<size_t>(payload_.size(), size_t{16} << 20));
    for (uint8_t& byte : chunk) byte = static_cast<uint8_t>(engine()) & 0xbf;  // no NaN among fp8
    for (size_t at = 0; at < payload_.size(); at += chunk.size()) {
      const size_t bytes = std::min(chunk.size(), payload_.size() - at);
      check(cudaMemcpy(payload_.get() + at, chunk.data(), bytes, cudaMemcpyHostToDevice), "weights");
    }
    check(cudaMemset(scales_, 120, scales_.size()), "scales");
  }

 private:
  DeviceArray<uint8_t> payload_, scales_;

 public:
  Linear view;
};

std::vector<bf16> activations(unsigned seed) {
  std::vector<bf16> v(size_t{kMaxTokens} * kHidden);
  std::mt19937 engine(seed);
  for (bf16& x : v) x = __float2bfloat16(static_cast<float>(static_cast<int32_t>(engine())) * 0x1p-34f);
  return v;
}

struct Plan {
  int slabs = 0;  // 0: no reduction, 1: behind the product
  AllReducePath path = AllReducePath::kPushed;
  int blocks = 16;
};

class Rank {
 public:
  Rank(Communicator& comm, int rank)
      : comm_(comm), reduction_(comm), seed_(static_cast<unsigned>(rank) + 1),
        wo_b_(WeightFormat::kFp8Block128, 1, kHidden, kLowRank, seed_),
        gate_up_(WeightFormat::kFp4Group32, kExperts, 2 * kWidth, kHidden, seed_),
        down_(WeightFormat::kFp4Group32, kExperts, kHidden, kWidth, seed_),
        shared_gate_(WeightFormat::kFp8Block128, 1, kWidth, kHidden, seed_),
        shared_up_(WeightFormat::kFp8Block128, 1, kWidth, kHidden, seed_ + 9),
        shared_down_(WeightFormat::kFp8Block128, 1, kHidden, kWidth, seed_),
        input_(activations(seed_)), quantised_(size_t{kMaxTokens} * kHidden),
        output_(size_t{kMaxTokens} * kHidden), workspace_(cuda::moe_workspace_bytes(shape())) {
    check(cudaStreamCreateWithFlags(&queue_, cudaStreamNonBlocking), "cudaStreamCreate");
    cudaEventCreate(&begin_), cudaEventCreate(&end_);
    peers_ = comm.exchange(output_);
    weights_.gate.cols = kHidden;
    weights_.experts = {.count = kExperts, .gate_up = gate_up_.view, .down = down_.view};
    weights_.shared_gate = shared_gate_.view;
    weights_.shared_up = shared_up_.view;
    weights_.shared_down = shared_down_.view;
    std::vector<int32_t> ids;
    std::mt19937 engine(5);
    for (int t = 0; t < kMaxTokens; ++t)
      for (int k = 0; k < kPicks; ++k) ids.push_back(static_cast<int32_t>((engine() % 42) * kPicks + static_cast<unsigned>(k)));
    ids_ = DeviceArray<int32_t>(ids);
    routing_ = DeviceArray<float>(std::vector<float>(ids.size(), 1.0f / kPicks));
  }
  ~Rank() {
    cudaEventDestroy(begin_), cudaEventDestroy(end_);
    cudaStreamDestroy(queue_);
  }

  void project(int tokens, const Plan& plan) {
    each_slab(tokens, plan, [&](int first, int cols) {
      GemmParams g;
      g.format = wo_b_.view.format;
      g.rows = tokens;
      g.cols = g.ldx = kLowRank;
      g.quantise = true;
      g.quantised = quantised_;
      g.copied = first > 0;
      g.num_segments = 1;
      const auto* data = static_cast<const uint8_t*>(wo_b_.view.data);
      const auto* scale = static_cast<const uint8_t*>(wo_b_.view.scale);
      g.segments[0] = {.weights = data + cuda::weight_bytes(g.format, first, kLowRank),
                       .scales = scale + cuda::scale_bytes(g.format, first, kLowRank), .x = input_,
                       .y = output_.get() + first, .rows = cols, .ldy = kHidden};
      g.num_sms = sms_;
      g.stream = queue_;
      cuda::run_gemm(g);
    });
  }

  void experts(int tokens, const Plan& plan) {
    MoeParams p;
    p.tokens = tokens;
    p.picks = kPicks;
    p.limit = 10;
    p.quantise = true;
    p.weights = &weights_;
    p.hidden = input_;
    p.ids = ids_;
    p.routing = routing_;
    p.output = output_;
    p.workspace = cuda::carve_moe_workspace(workspace_, shape());
    p.num_sms = sms_;
    p.stream = queue_;
    cuda::begin_experts(p);
    each_slab(tokens, plan, [&](int first, int cols) { cuda::finish_experts(p, first, cols); });
  }

  double time(const std::function<void()>& work) {
    std::vector<float> times;
    for (int i = 0; i < 8; ++i) {
      comm_.exchange(nullptr);
      check(cudaEventRecord(begin_, queue_), "event");
      for (int j = 0; j < 4; ++j) work();
      check(cudaEventRecord(end_, queue_), "event");
      check(cudaEventSynchronize(end_), "timed work");
      float ms = 0;
      cudaEventElapsedTime(&ms, begin_, end_);
      if (i >= 2) times.push_back(ms * 250);
    }
    std::sort(times.begin(), times.end());
    return times[times.size() / 2];
  }

  uint64_t hash(int tokens) {
    comm_.exchange(nullptr);
    std::vector<uint64_t> words(static_cast<size_t>(tokens) * kHidden / 4);
    check(cudaMemcpy(words.data(), output_, words.size() * 8, cudaMemcpyDeviceToHost), "download");
    uint64_t h = 14695981039346656037ull;
    for (const uint64_t w : words) h = (h ^ w) * 1099511628211ull;
    comm_.exchange(nullptr);
    return h;
  }

 private:
  static cuda::MoeShape shape() {
    return {.tokens = kMaxTokens, .hidden = kHidden, .experts = kExperts, .picks = kPicks, .width = kWidth, .shared_width = kWidth};
  }

  template <class Product>
  void each_slab(int tokens, const Plan& plan, const Product& product) {
    const int slabs = std::max(plan.slabs, 1), cols = kHidden / slabs;
    for (int s = 0; s < slabs; ++s) {
      product(s * cols, cols);
      AllReduceParams slab;
      for (int r = 0; r < comm_.ranks(); ++r) slab.array.at[r] = static_cast<bf16*>(peers_.at[r]) + s * cols;
      slab.rows = tokens;
      slab.cols = cols;
      slab.stride = kHidden;
      slab.path = plan.path;
      slab.max_blocks = plan.blocks;
      slab.stream = queue_;
      if (plan.slabs == 1) comm_.all_reduce(slab);
      if (plan.slabs > 1) reduction_.begin(slab, queue_);
    }
    if (plan.slabs > 1) reduction_.join(queue_);
  }

  Communicator& comm_;
  SlabReduction reduction_;
  const unsigned seed_;
  Weights wo_b_, gate_up_, down_, shared_gate_, shared_up_, shared_down_;
  DeviceArray<bf16> input_, quantised_, output_;
  DeviceArray<uint8_t> workspace_;
  DeviceArray<int32_t> ids_;
  DeviceArray<float> routing_;
  MoeWeights weights_;
  PeerPointers peers_;
  cudaStream_t queue_ = nullptr;
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
  const int sms_ = cuda::device_info().multiprocessors;
};

/// Both products of `tokens` tokens under every plan; `print` by the first rank.
void measure(Rank& rank, RankGroup& group, std::vector<uint64_t>& hashes, size_t self) {
  for (const int tokens : {1024, 2048, 4096, 8192}) {
    for (const bool moe : {false, true}) {
      const auto time = [&](const Plan& plan) {
        return rank.time([&] { moe ? rank.experts(tokens, plan) : rank.project(tokens, plan); });
      };
      std::vector<Plan> plans = {{1, AllReducePath::kTwoShot, 48}, {1, AllReducePath::kTwoShot, 24}};
      for (const int slabs : {2, 4, 8})
        for (const int blocks : {8, 16, 32}) plans.push_back({slabs, AllReducePath::kTwoShot, blocks});
      for (const int blocks : {8, 16, 32}) plans.push_back({4, AllReducePath::kPushed, blocks});
      const double alone = time({});
      if (self == 0) std::printf("  %s, %d tokens: %.0f us without the all-reduce\n", moe ? "experts" : "wo_b", tokens, alone);
      double behind = 0;
      uint64_t expected = 0;
      for (const Plan& plan : plans) {
        const double us = time(plan);
        hashes[self] = rank.hash(tokens);
        group.wait();
        if (self == 0) {
          if (behind == 0) behind = us, expected = hashes[0];
          const bool equal = hashes[0] == hashes[1] && hashes[0] == expected;
          failures += !equal;
          std::printf("    %d slabs, %-8s %2d blocks: %8.0f us, hidden %4.0f %%  %s\n", plan.slabs,
                      plan.path == AllReducePath::kPushed ? "pushed" : "pulled", plan.blocks, us,
                      100 * (behind - us) / (behind - alone), equal ? "same bits" : "BITS DIFFER");
          std::fflush(stdout);
        }
        group.wait();
      }
    }
  }
}

}  // namespace

int main() {
  setenv("CUDA_MODULE_LOADING", "EAGER", 0);
  int count = 0;
  check(cudaGetDeviceCount(&count), "counting devices");
  if (count < 2) {
    std::printf("overlap_bench: SKIPPED, the machine has %d device(s)\n", count);
    return 0;
  }
  const auto group = std::make_shared<RankGroup>(2);
  std::vector<uint64_t> hashes(2);
  std::vector<std::thread> threads;
  for (int r = 0; r < 2; ++r) {
    threads.emplace_back([&, r] {
      try {
        check(cudaSetDevice(r), "cudaSetDevice");
        Communicator comm(group, r, r);
        Rank rank(comm, r);
        measure(rank, *group, hashes, static_cast<size_t>(r));
      } catch (const Error& error) {
        std::printf("  rank %d: %s\n", r, error.what());
        group->fail(error.what());
        ++failures;
      }
    });
  }
  for (std::thread& t : threads) t.join();
  return finish("overlap_bench");
}
