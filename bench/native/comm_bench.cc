// SPDX-License-Identifier: MIT
// All-reduce between devices by every path, 8 KB to 64 MB, launched one by one and replayed in a graph, beside what the link
// copies. Every sum is checked: the ranks' bits are equal, and equal to the host's sum.
//   comm_bench [--devices 0,1] [--quick | --gathers]    fewer numbers of blocks; gathers alone
#include "comm/communicator.h"
#include "rank_threads.h"

using namespace twelvex;
using namespace twelvex::test;
using cuda::AllReducePath;
using cuda::Communicator;
using cuda::PeerPointers;
using bf16 = __nv_bfloat16;

namespace {

constexpr size_t kLargest = size_t{64} << 20;
constexpr int kCalls = 20;

struct Gather {
  const char* what;
  int64_t rows, row_bytes;
};
constexpr Gather kGathers[] = {{"choices, 3 tokens", 1, 3 * 2048}, {"choices, 64 tokens", 1, 64 * 2048},
                               {"choices, 4096 tokens", 1, 4096 * 2048}, {"logits, 1 row", 1, 129280 * 4},
                               {"logits, 24 rows", 24, 129280 * 4}};

struct Case {
  AllReducePath path;
  int64_t count = 0;
  int blocks = cuda::kTwoShotBlocks;

  int64_t bytes() const { return count * 2; }
  std::string name() const {
    switch (path) {
      case AllReducePath::kPacked: return "packed";
      case AllReducePath::kNccl: return "NCCL";
      default: return "two shots, " + std::to_string(blocks);
    }
  }
};

struct Result {
  double plain_us = 0, graph_us = 0;
  size_t wrong = 0;  // elements that differ from the host's sum
  uint64_t hash = 0;
};

std::vector<Case> cases(bool nccl, bool quick) {
  std::vector<Case> list;
  for (int64_t bytes = 8 << 10; bytes <= static_cast<int64_t>(kLargest); bytes *= 2) {
    if (bytes <= cuda::kPackedBytes) list.push_back({AllReducePath::kPacked, bytes / 2});
    list.push_back({AllReducePath::kTwoShot, bytes / 2});
    for (const int blocks : {8, 16, 48})
      if (!quick && bytes >= 1 << 20) list.push_back({AllReducePath::kTwoShot, bytes / 2, blocks});
    if (nccl) list.push_back({AllReducePath::kNccl, bytes / 2});
  }
  return list;
}

class Rank {
 public:
  Rank(Communicator& comm, RankGroup& group, int rank)
      : comm_(comm), nccl_(cuda::Nccl::join(group, rank)), rank_(rank), array_(kLargest / 2), source_(values(rank)) {
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
    cudaEventCreate(&begin_), cudaEventCreate(&end_);
    peers_ = comm_.exchange(array_);
    for (int r = 0; r < comm.ranks(); ++r) inputs_.push_back(values(r));
  }
  ~Rank() {
    cudaEventDestroy(begin_), cudaEventDestroy(end_);
    cudaStreamDestroy(stream_);
  }

  bool has_nccl() const { return nccl_ != nullptr; }

  Result run(const Case& c) {
    Result result;
    check_sum(c, result);
    check(cudaMemset(array_, 0, kLargest), "zero");
    check(cudaDeviceSynchronize(), "zero");
    result.plain_us = time([&] {
      for (int i = 0; i < kCalls; ++i) reduce(c);
    });
    result.graph_us = graph_us([&] { reduce(c); });
    return result;
  }

  /// Microseconds of a gather of `rows` rows, an equal part of each row from every rank, replayed in a graph.
  double gather_us(int64_t rows, int64_t row_bytes) {
    cuda::AllGatherParams p;
    p.array = peers_;
    p.rows = rows;
    p.row_bytes = row_bytes;
    p.bytes = row_bytes / comm_.ranks() / 4 * 4;
    p.offset = p.bytes * rank_;
    return graph_us([&] { comm_.all_gather(p, stream_); });
  }

  /// Gigabytes a second of a peer copy to the next rank, alone or all at once.
  double copy_rate(bool all, int devices[]) {
    const int to = (rank_ + 1) % comm_.ranks();
    const double us = time([&] {
      if (!all && rank_ != 0) return;
      for (int i = 0; i < kCalls; ++i)
        check(cudaMemcpyPeerAsync(peers_.at[to], devices[to], source_, devices[rank_], kLargest, stream_), "peer copy");
    });
    return static_cast<double>(kLargest) / us / 1e3;
  }

 private:
  static std::vector<bf16> values(int rank) {
    std::vector<bf16> v(kLargest / 2);
    std::mt19937 engine(static_cast<unsigned>(rank) + 7);
    for (size_t i = 0; i < v.size(); ++i) {
      const float x = static_cast<float>(static_cast<int32_t>(engine())) * 0x1p-31f;
      v[i] = __float2bfloat16(i % 3 ? x : x * 300.0f);
    }
    return v;
  }

  void reduce(const Case& c) {
    if (c.path == AllReducePath::kNccl) return nccl_->all_reduce(array_, c.count, stream_);
    comm_.all_reduce({.array = peers_, .count = c.count, .path = c.path, .max_blocks = c.blocks, .stream = stream_});
  }

  void check_sum(const Case& c, Result& result) {
    check(cudaMemcpyAsync(array_, source_, kLargest, cudaMemcpyDeviceToDevice, stream_), "copy");
    check(cudaStreamSynchronize(stream_), "copy");
    comm_.exchange(nullptr);  // two shots read the other's array
    reduce(c);
    check(cudaStreamSynchronize(stream_), "all_reduce");
    comm_.check_alive();
    std::vector<bf16> got(static_cast<size_t>(c.count));
    check(cudaMemcpy(got.data(), array_, got.size() * 2, cudaMemcpyDeviceToHost), "download");
    result.hash = 14695981039346656037ull;
    for (size_t i = 0; i < got.size(); ++i) {
      float sum = 0;
      for (const auto& input : inputs_) sum += __bfloat162float(input[i]);
      uint16_t bits, want;
      const bf16 rounded = __float2bfloat16(sum);
      std::memcpy(&bits, &got[i], 2), std::memcpy(&want, &rounded, 2);
      result.wrong += bits != want;
      result.hash = (result.hash ^ bits) * 1099511628211ull;
    }
    comm_.exchange(nullptr);
  }

  double graph_us(const std::function<void()>& call) {
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "capture");
    for (int i = 0; i < kCalls; ++i) call();
    check(cudaStreamEndCapture(stream_, &graph), "capture");
    check(cudaGraphInstantiate(&exec, graph, 0), "instantiate");
    check(cudaGraphUpload(exec, stream_), "upload");
    const double us = time([&] { check(cudaGraphLaunch(exec, stream_), "launch"); });
    cudaGraphExecDestroy(exec), cudaGraphDestroy(graph);
    return us;
  }

  /// Median microseconds of one of the kCalls calls that `work` queues.
  double time(const std::function<void()>& work) {
    std::vector<float> times;
    for (int i = 0; i < 11; ++i) {
      comm_.exchange(nullptr);
      cudaEventRecord(begin_, stream_);
      work();
      cudaEventRecord(end_, stream_);
      check(cudaEventSynchronize(end_), "timed work");
      float ms = 0;
      cudaEventElapsedTime(&ms, begin_, end_);
      if (i >= 2) times.push_back(ms * 1000 / kCalls);
    }
    std::sort(times.begin(), times.end());
    return times[times.size() / 2];
  }

  Communicator& comm_;
  std::unique_ptr<cuda::Nccl> nccl_;  // measured even where the rule does not use it
  int rank_;
  DeviceArray<bf16> array_, source_;
  std::vector<std::vector<bf16>> inputs_;
  PeerPointers peers_;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
};

void print_link(const std::vector<int>& devices) {
  int rank = 0, atomics = 0, access = 0;
  cudaDeviceGetP2PAttribute(&access, cudaDevP2PAttrAccessSupported, devices[0], devices[1]);
  cudaDeviceGetP2PAttribute(&rank, cudaDevP2PAttrPerformanceRank, devices[0], devices[1]);
  cudaDeviceGetP2PAttribute(&atomics, cudaDevP2PAttrNativeAtomicSupported, devices[0], devices[1]);
  std::printf("  link: access %d, performance rank %d, native atomics %d\n", access, rank, atomics);
}

void print_result(const Case& c, const Result& r, bool equal) {
  std::printf("  %-10lld %14s %7.1f us %7.1f us %9.1f  ranks %s, %zu elements not as the host's\n",
              static_cast<long long>(c.bytes()), c.name().c_str(), r.plain_us, r.graph_us,
              static_cast<double>(c.bytes()) / r.graph_us / 1e3, equal ? "equal" : "DIFFER", r.wrong);
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  bool quick = false, gathers = false;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--quick") == 0) quick = true;
    if (std::strcmp(argv[i], "--gathers") == 0) gathers = true;
  }
  std::vector<int> devices = devices_of(argc, argv, {0, 1});
  setenv("CUDA_MODULE_LOADING", "EAGER", 0);  // as the backend does, and for its reason
  if (!has_devices("comm_bench", devices)) return 0;
  print_link(devices);
  std::vector<uint64_t> hashes(devices.size());
  run_ranks(static_cast<int>(devices.size()), [&](const std::shared_ptr<RankGroup>& group, int rank) {
    const auto self = static_cast<size_t>(rank);
    check(cudaSetDevice(devices[self]), "cudaSetDevice");
    Communicator comm(group, rank, devices[self]);
    Rank member(comm, *group, rank);
    for (const bool all : {false, true}) {
      const double rate = member.copy_rate(all, devices.data());
      if (rank == 0) std::printf("  peer copy of 64 MB, %s: %.1f GB/s\n", all ? "both directions" : "one direction", rate);
    }
    if (rank == 0) std::printf("  %-10s %14s %10s %10s %9s\n", "bytes", "path", "launched", "graph", "GB/s");
    for (const Case& c : gathers ? std::vector<Case>{} : cases(member.has_nccl(), quick)) {
      const Result r = member.run(c);
      hashes[self] = r.hash;
      group->wait();
      if (rank == 0) {
        const bool equal = std::count(hashes.begin(), hashes.end(), hashes[0]) == static_cast<int64_t>(hashes.size());
        failures += !equal || (r.wrong > 0 && c.path != AllReducePath::kNccl);
        print_result(c, r, equal);
      }
      group->wait();
    }
    for (const auto& [what, rows, row_bytes] : kGathers) {
      const double us = member.gather_us(rows, row_bytes);
      if (rank == 0) std::printf("  gather of %-34s %7.1f us\n", what, us);
    }
  });
  return finish("comm_bench");
}
