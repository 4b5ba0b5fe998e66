// SPDX-License-Identifier: MIT
// What pieces of rows hide: the output projection and the experts of DeepSeek-V4-Flash on a rank of two and the mHC crossing that
// reads their sums, without the all-reduce, with it between them, and with the all-reduce of a piece of rows beside the crossing
// of the piece before (and the combination of the next). The bits of all are compared.
//   overlap_bench [--devices 0,1]
#include "comm/communicator.h"
#include "hyper/hyper.h"
#include "moe/experts.h"
#include "rank_threads.h"

using namespace twelvex;
using namespace twelvex::test;
using cuda::AllReduceParams;
using cuda::AllReducePath;
using cuda::Communicator;
using cuda::GemmParams;
using cuda::MoeParams;
using cuda::PeerPointers;
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
  int piece = 0;      // rows; 0: no reduction
  int blocks = 16;
  int parts = 1;      // 2: the output projection in two parts, or the experts' combination in pieces
};

class Rank {
 public:
  Rank(Communicator& comm, int rank)
      : comm_(comm), seed_(static_cast<unsigned>(rank) + 1),
        wo_b_(WeightFormat::kFp8Block128, 1, kHidden, kLowRank, seed_),
        gate_up_(WeightFormat::kFp4Group32, kExperts, 2 * kWidth, kHidden, seed_),
        down_(WeightFormat::kFp4Group32, kExperts, kHidden, kWidth, seed_),
        shared_gate_(WeightFormat::kFp8Block128, 1, kWidth, kHidden, seed_),
        shared_up_(WeightFormat::kFp8Block128, 1, kWidth, kHidden, seed_ + 9),
        shared_down_(WeightFormat::kFp8Block128, 1, kHidden, kWidth, seed_),
        input_(activations(seed_)), quantised_(size_t{kMaxTokens} * kHidden),
        output_(size_t{kMaxTokens} * kHidden), workspace_(cuda::moe_workspace_bytes(shape())) {
    check(cudaStreamCreateWithFlags(&queue_, cudaStreamNonBlocking), "cudaStreamCreate");
    cudaEventCreate(&begin_), cudaEventCreate(&end_), cudaEventCreateWithFlags(&ready_, cudaEventDisableTiming);
    for (cudaEvent_t& event : reduced_) cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
    int lowest = 0, highest = 0;
    cudaDeviceGetStreamPriorityRange(&lowest, &highest);
    check(cudaStreamCreateWithPriority(&comm_queue_, cudaStreamNonBlocking, highest), "stream");
    check(cudaMemset(streams_, 0, streams_.size() * 2), "streams");
    check(cudaMemset(mix_, 0, mix_.size() * 4), "mix");
    peers_ = comm.exchange(output_);
    weights_.gate.cols = kHidden;
    weights_.experts = {.count = kExperts, .gate_up = gate_up_.view, .down = {down_.view}};
    weights_.shared_gate = shared_gate_.view;
    weights_.shared_up = shared_up_.view;
    weights_.shared_down = {shared_down_.view};
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
    const int rows = tokens / plan.parts;
    for (int part = 0; part < tokens; part += rows) {
      const size_t at = static_cast<size_t>(part) * kHidden;
      GemmParams g;
      g.format = wo_b_.view.format;
      g.rows = rows;
      g.cols = g.ldx = kLowRank;
      g.quantise = true;
      g.quantised = quantised_.get() + at;
      g.num_segments = 1;
      g.segments[0] = {.weights = static_cast<const uint8_t*>(wo_b_.view.data),
                       .scales = static_cast<const uint8_t*>(wo_b_.view.scale), .x = input_.get() + at,
                       .y = output_.get() + at, .rows = kHidden, .ldy = kHidden};
      g.num_sms = sms_;
      g.arch = cuda::device_info().arch;
      g.stream = queue_;
      cuda::run_gemm(g);
      for (int first = part; plan.piece != 0 && first < part + rows; first += plan.piece) reduce(tokens, first, plan);
    }
    cross(tokens, plan);
  }

  void experts(int tokens, const Plan& plan) {
    MoeParams p;
    p.tokens = tokens;
    p.picks = kPicks;
    p.limit = 10;
    p.quantise = true;
    p.arch = cuda::device_info().arch;
    p.weights = &weights_;
    p.hidden = input_;
    p.ids = ids_;
    p.routing = routing_;
    p.output = output_;
    p.workspace = cuda::carve_moe_workspace(workspace_, shape());
    p.num_sms = sms_;
    p.stream = queue_;
    cuda::begin_experts(p);
    const int step = plan.parts > 1 && plan.piece ? plan.piece : tokens;
    for (int first = 0; first < tokens; first += step) {
      cuda::finish_experts(p, first, std::min(step, tokens - first));
      if (plan.parts > 1 && plan.piece) reduce(tokens, first, plan);
    }
    for (int first = 0; plan.parts == 1 && plan.piece != 0 && first < tokens; first += plan.piece) reduce(tokens, first, plan);
    cross(tokens, plan);
  }

  void reduce(int tokens, int first, const Plan& plan) {
    const bool whole = plan.piece >= tokens;
    const int rows = std::min(plan.piece, tokens - first);
    AllReduceParams p;
    p.array = peers_.behind(static_cast<int64_t>(first) * kHidden * 2);
    p.count = static_cast<int64_t>(rows) * kHidden;
    p.path = AllReducePath::kTwoShot;
    p.max_blocks = plan.blocks;
    p.stream = whole ? queue_ : comm_queue_;
    if (!whole) {
      check(cudaEventRecord(ready_, queue_), "event");
      check(cudaStreamWaitEvent(comm_queue_, ready_), "event");
    }
    comm_.all_reduce(p);
    if (!whole) check(cudaEventRecord(reduced_[first / plan.piece], comm_queue_), "event");
  }

  void cross(int tokens, const Plan& plan) {
    const int piece = plan.piece ? plan.piece : tokens;
    for (int first = 0; first < tokens; first += piece) {
      const auto at = static_cast<size_t>(first);
      if (plan.piece != 0 && plan.piece < tokens) check(cudaStreamWaitEvent(queue_, reduced_[first / piece]), "event");
      cuda::HyperParams h;
      h.tokens = std::min(piece, tokens - first);
      h.dim = kHidden;
      h.leave = h.enter = true;
      h.streams = streams_.get() + at * 4 * kHidden;
      h.output = output_.get() + at * kHidden;
      h.mix = mix_.get() + at * cuda::kHyperKept;
      h.fn = fn_;
      h.base = fn_;
      h.scale = fn_;
      h.norm = fn_;
      h.hidden = hidden_.get() + at * kHidden;
      h.partial = partial_;
      cuda::run_hyper(h, queue_);
    }
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
    return {.tokens = kMaxTokens, .hidden = kHidden, .experts = kExperts, .picks = kPicks, .width = kWidth,
            .shared_width = kWidth};
  }

  Communicator& comm_;
  const unsigned seed_;
  Weights wo_b_, gate_up_, down_, shared_gate_, shared_up_, shared_down_;
  DeviceArray<bf16> input_, quantised_, output_;
  DeviceArray<bf16> streams_{size_t{kMaxTokens} * 4 * kHidden}, hidden_{size_t{kMaxTokens} * kHidden};
  DeviceArray<float> mix_{size_t{kMaxTokens} * cuda::kHyperKept}, partial_{cuda::hyper_scratch_floats(kHidden)};
  DeviceArray<float> fn_{std::vector<float>(size_t{24} * 4 * kHidden, 0.01f)};
  cudaStream_t comm_queue_ = nullptr;
  cudaEvent_t ready_ = nullptr, reduced_[64] = {};
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
  for (const int tokens : {2048, 4096, 8192}) {
    for (const bool moe : {false, true}) {
      const auto time = [&](const Plan& plan) {
        return rank.time([&] { moe ? rank.experts(tokens, plan) : rank.project(tokens, plan); });
      };
      std::vector<Plan> plans = {{tokens, cuda::kTwoShotBlocks}};
      for (const int piece : {1024, 2048, 4096})
        for (const int parts : {1, 2})
          if (piece < tokens && (moe || piece <= tokens / parts)) plans.push_back({piece, cuda::kPieceBlocks, parts});
      const double alone = time({});
      const char* what = moe ? "experts + mHC" : "wo_b + mHC";
      if (self == 0) std::printf("  %s, %d tokens: %.0f us without the all-reduce\n", what, tokens, alone);
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
          std::printf("    pieces of %4d, %2d blocks%s: %8.0f us, hidden %4.0f %%  %s\n", plan.piece, plan.blocks,
                      plan.parts == 1 ? "" : moe ? ", combined in pieces" : ", product in 2 parts", us,
                      100 * (behind - us) / (behind - alone),
                      equal ? "same bits" : "BITS DIFFER");
          std::fflush(stdout);
        }
        group.wait();
      }
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<int> devices = devices_of(argc, argv, {0, 1});
  setenv("CUDA_MODULE_LOADING", "EAGER", 0);  // as the backend does, and for its reason
  if (!has_devices("overlap_bench", devices)) return 0;
  std::vector<uint64_t> hashes(devices.size());
  run_ranks(static_cast<int>(devices.size()), [&](const std::shared_ptr<RankGroup>& group, int r) {
    const auto self = static_cast<size_t>(r);
    check(cudaSetDevice(devices[self]), "cudaSetDevice");
    Communicator comm(group, r, devices[self]);
    Rank rank(comm, r);
    measure(rank, *group, hashes, self);
  });
  return finish("overlap_bench");
}
