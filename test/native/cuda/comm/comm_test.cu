// SPDX-License-Identifier: MIT
// Collectives among ranks that are threads of this process, on one device or, with --devices A,B, on several: sums and their
// bits, gathers, replay in a graph, and the end of a wait for a rank that does not come. bench/native/comm_bench.cc times them.
#include "comm/communicator.h"
#include "rank_threads.h"

using namespace twelvex;
using namespace twelvex::test;
using cuda::AllReducePath;
using cuda::Communicator;
using cuda::PeerPointers;
using bf16 = __nv_bfloat16;

namespace {

std::vector<int> devices = {0, 0};

/// Runs `body` as one thread a rank, with its device and a stream of its own.
void on_ranks(const std::function<void(Communicator&, int, cudaStream_t)>& body) {
  run_ranks(static_cast<int>(devices.size()), [&](const std::shared_ptr<RankGroup>& group, int rank) {
    check(cudaSetDevice(devices[rank]), "cudaSetDevice");
    cudaStream_t stream;
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
    {
      Communicator comm(group, rank, devices[rank]);
      body(comm, rank, stream);
      check(cudaStreamSynchronize(stream), "stream");
      group->wait();
    }
    cudaStreamDestroy(stream);
  });
}

/// Inputs of every rank and the sum that all have to get.
struct Message {
  std::vector<std::vector<bf16>> parts;
  std::vector<bf16> sum;

  explicit Message(size_t count) {
    for (size_t r = 0; r < devices.size(); ++r) parts.push_back(random_bf16(count));
    for (size_t i = 0; i < count; ++i) {
      float total = 0;
      for (const auto& part : parts) total += __bfloat162float(part[i]);
      sum.push_back(__float2bfloat16(total));
    }
  }
};

bool same(const std::vector<bf16>& a, const std::vector<bf16>& b) { return std::memcmp(a.data(), b.data(), a.size() * 2) == 0; }

void test_all_reduce(const std::vector<size_t>& counts, int rounds) {
  std::vector<Message> messages;
  if (brief) rounds = 2;
  for (size_t count : counts) messages.emplace_back(count);
  std::vector<int> wrong(devices.size(), 0);
  on_ranks([&](Communicator& comm, int rank, cudaStream_t stream) {
    std::vector<DeviceArray<bf16>> arrays, sources;
    std::vector<PeerPointers> peers;
    for (const Message& m : messages) {
      sources.emplace_back(m.parts[rank]);
      arrays.emplace_back(m.sum.size());
      peers.push_back(comm.exchange(arrays.back()));
    }
    for (int round = 0; round < rounds; ++round) {
      for (size_t i = 0; i < messages.size(); ++i) {  // mixed sizes, one behind the other
        // From the device: a copy from pageable memory would wait on the host for collectives that wait for the other rank.
        check(cudaMemcpyAsync(arrays[i], sources[i], arrays[i].size() * 2, cudaMemcpyDeviceToDevice, stream), "copy");
        comm.all_reduce(peers[i], static_cast<int64_t>(arrays[i].size()), stream);
      }
      check(cudaStreamSynchronize(stream), "all_reduce");
      comm.check_alive();
      for (size_t i = 0; i < messages.size(); ++i) wrong[rank] += !same(arrays[i].download(), messages[i].sum);
    }
  });
  for (size_t rank = 0; rank < wrong.size(); ++rank) {
    expect(wrong[rank] == 0, "rank " + std::to_string(rank) + ": " + std::to_string(counts.size()) + " sizes, " +
                                 std::to_string(rounds) + " rounds, every sum right to the bit");
  }
}

/// A part of a larger array by both own paths in turn: what lies beside it stays.
void test_part(int64_t first, int64_t count, int64_t all) {
  const Message m(static_cast<size_t>(all));
  std::vector<int> wrong(devices.size(), 0);
  on_ranks([&](Communicator& comm, int rank, cudaStream_t stream) {
    const DeviceArray<bf16> source(m.parts[rank]), array(m.sum.size());
    const PeerPointers peers = comm.exchange(array);
    std::vector<bf16> want = m.parts[rank];
    std::copy_n(m.sum.begin() + first, count, want.begin() + first);
    for (int i = 0; i < 12; ++i) {
      const AllReducePath path = i % 2 || count * 2 > cuda::kPackedBytes ? AllReducePath::kTwoShot : AllReducePath::kPacked;
      check(cudaMemcpyAsync(array, source, m.sum.size() * 2, cudaMemcpyDeviceToDevice, stream), "copy");
      comm.all_reduce(
          {.array = peers.behind(first * 2), .count = count, .path = path, .max_blocks = 8 << i % 3, .stream = stream});
      check(cudaStreamSynchronize(stream), "all_reduce");
      comm.check_alive();
      wrong[rank] += !same(array.download(), want);
      comm.exchange(nullptr);
    }
  });
  expect(std::count(wrong.begin(), wrong.end(), 0) == static_cast<int64_t>(wrong.size()),
         std::to_string(count) + " elements from " + std::to_string(first) + " on, by every path of the project");
}

void test_graph(size_t count) {
  const Message m(count);
  std::vector<int> wrong(devices.size(), 0);
  on_ranks([&](Communicator& comm, int rank, cudaStream_t stream) {
    const DeviceArray<bf16> source(m.parts[rank]), array(count);
    const PeerPointers peers = comm.exchange(array);
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
    for (int i = 0; i < 3; ++i) {
      check(cudaMemcpyAsync(array, source, count * 2, cudaMemcpyDeviceToDevice, stream), "copy");
      comm.all_reduce(peers, static_cast<int64_t>(count), stream);
    }
    check(cudaStreamEndCapture(stream, &graph), "capture");
    check(cudaGraphInstantiate(&exec, graph, 0), "instantiate");
    for (int i = 0; i < (brief ? 3 : 50); ++i) {
      check(cudaGraphLaunch(exec, stream), "launch");
      check(cudaStreamSynchronize(stream), "replay");
      wrong[rank] += !same(array.download(), m.sum);
    }
    cudaGraphExecDestroy(exec), cudaGraphDestroy(graph);
  });
  expect(std::count(wrong.begin(), wrong.end(), 0) == static_cast<int64_t>(wrong.size()),
         "replayed in a graph, " + std::to_string(count) + " elements");
}

void test_all_gather(int64_t rows, int64_t part_words) {
  const int64_t ranks = static_cast<int64_t>(devices.size()), row_words = ranks * part_words;
  std::vector<int32_t> expected(static_cast<size_t>(rows * row_words));
  for (int32_t& v : expected) v = static_cast<int32_t>(rng()());
  std::vector<int> wrong(devices.size(), 0);
  on_ranks([&](Communicator& comm, int rank, cudaStream_t stream) {
    std::vector<int32_t> mine(expected.size(), -1);
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t at = r * row_words + rank * part_words;
      std::copy_n(expected.begin() + at, part_words, mine.begin() + at);
    }
    const DeviceArray<int32_t> array(expected.size()), source(mine);
    const PeerPointers peers = comm.exchange(array);
    for (int round = 0; round < (brief ? 3 : 20); ++round) {
      check(cudaMemcpyAsync(array, source, mine.size() * 4, cudaMemcpyDeviceToDevice, stream), "copy");
      cuda::AllGatherParams p;
      p.array = peers;
      p.rows = rows;
      p.row_bytes = row_words * 4;
      p.offset = rank * part_words * 4;
      p.bytes = part_words * 4;
      comm.all_gather(p, stream);
      check(cudaStreamSynchronize(stream), "all_gather");
      comm.check_alive();
      wrong[rank] += array.download() != expected;
      // The others' parts of the next round must not land before this one is read.
      comm.exchange(nullptr);
    }
  });
  expect(std::count(wrong.begin(), wrong.end(), 0) == static_cast<int64_t>(wrong.size()),
         "gather of " + std::to_string(rows) + " rows, " + std::to_string(part_words) + " words a rank");
}

/// Rank 0 alone enters; the host ends its wait as a failing rank would.
void test_lost_rank() {
  bool ended = false;
  on_ranks([&](Communicator& comm, int rank, cudaStream_t stream) {
    const DeviceArray<bf16> array(4096);
    const PeerPointers peers = comm.exchange(array);
    if (rank == 0) {
      comm.all_reduce(peers, 4096, stream);
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      const bool waits = cudaStreamQuery(stream) == cudaErrorNotReady;
      comm.abandon();
      check(cudaStreamSynchronize(stream), "abandoned all_reduce");
      try {
        comm.check_alive();
      } catch (const Error& error) {
        ended = waits && error.code() == ErrorCode::kInternal;
      }
    }
  });
  expect(ended, "a wait for a lost rank ends with an error");
}

/// Ranks of a device whose kernels are launched one after the other: what a rank waits for lies in its mailbox beforehand.
struct Alone {
  std::vector<DeviceArray<uint8_t>> mailboxes;
  DeviceArray<uint32_t> failure{std::vector<uint32_t>{0}};

  /// Packed messages of turn 1 from all others, and barriers that all others have passed.
  explicit Alone(const std::vector<std::vector<bf16>>& parts) {
    const int ranks = static_cast<int>(parts.size());
    for (int rank = 0; rank < ranks; ++rank) {
      std::vector<uint8_t> bytes(sizeof(cuda::Mailbox));
      auto& box = *reinterpret_cast<cuda::Mailbox*>(bytes.data());
      for (int peer = 0; peer < ranks; ++peer) {
        if (peer == rank) continue;
        for (uint32_t& turn : box.barrier[peer]) turn = 2;
        const auto* from = reinterpret_cast<const uint32_t*>(parts[peer].data());
        const size_t vectors = std::min<size_t>(parts[peer].size() / 8, cuda::kPackedBytes / 16);
        for (size_t i = 0; i < vectors; ++i) {
          uint4* to = &box.packed[1][peer][i / cuda::kPackedVectors][i % cuda::kPackedVectors * 2];
          to[0] = {from[4 * i], 1, from[4 * i + 1], 1};
          to[1] = {from[4 * i + 2], 1, from[4 * i + 3], 1};
        }
      }
      mailboxes.emplace_back(bytes);
    }
  }

  cuda::CommView view(int rank) const {
    cuda::CommView view;
    view.rank = rank;
    view.ranks = static_cast<int>(mailboxes.size());
    for (int r = 0; r < view.ranks; ++r) view.mailbox[r] = reinterpret_cast<cuda::Mailbox*>(mailboxes[r].get());
    view.failure = failure;
    view.patience_ns = 1'000'000'000;
    return view;
  }
};

/// Every rank's kernel by itself: compute-sanitizer runs one at a time, and of two that wait for each other neither would end.
void test_alone(int ranks, size_t count, AllReducePath path) {
  devices.assign(static_cast<size_t>(ranks), 0);
  const Message m(count);
  const Alone alone(m.parts);
  std::vector<DeviceArray<bf16>> arrays;
  PeerPointers peers;
  for (int r = 0; r < ranks; ++r) peers.at[r] = arrays.emplace_back(m.parts[r]);
  for (int r = 0; r < ranks; ++r) {
    cuda::run_all_reduce({.comm = alone.view(r), .array = peers, .count = static_cast<int64_t>(count), .path = path});
    sync("all_reduce of one rank");
  }
  bool right = alone.failure.download()[0] == 0;
  for (const auto& array : arrays) right &= same(array.download(), m.sum);
  expect(right, std::to_string(ranks) + " ranks one after the other, " + std::to_string(count) +
                    (path == AllReducePath::kPacked ? " elements, packed" : " elements, two shots"));
}

void test_gather_alone(int ranks, int64_t rows, int64_t part_words) {
  const int64_t row_words = ranks * part_words;
  std::vector<int32_t> all(static_cast<size_t>(rows * row_words));
  for (int32_t& v : all) v = static_cast<int32_t>(rng()());
  const Alone alone(std::vector<std::vector<bf16>>(static_cast<size_t>(ranks)));
  std::vector<DeviceArray<int32_t>> arrays;
  PeerPointers peers;
  for (int r = 0; r < ranks; ++r) {
    std::vector<int32_t> mine(all.size(), -1);
    for (int64_t row = 0; row < rows; ++row)
      std::copy_n(all.begin() + row * row_words + r * part_words, part_words, mine.begin() + row * row_words + r * part_words);
    peers.at[r] = arrays.emplace_back(mine);
  }
  for (int r = 0; r < ranks; ++r) {
    cuda::run_all_gather({.comm = alone.view(r), .array = peers, .rows = rows, .row_bytes = row_words * 4,
                          .offset = r * part_words * 4, .bytes = part_words * 4});
    sync("all_gather of one rank");
  }
  bool right = alone.failure.download()[0] == 0;
  for (const auto& array : arrays) right &= array.download() == all;
  expect(right, std::to_string(ranks) + " ranks one after the other, gather of " + std::to_string(rows) + " rows, " +
                    std::to_string(part_words) + " words a rank");
}

void test_every_rank_alone() {
  for (const int ranks : {2, 3, cuda::kMaxRanks}) {
    for (const size_t count : {size_t{8}, size_t{4096}, size_t{5000}, size_t{262144}})
      test_alone(ranks, count, AllReducePath::kPacked);
    for (const size_t count : {size_t{8}, size_t{262152}, size_t{1000008}}) test_alone(ranks, count, AllReducePath::kTwoShot);
    test_gather_alone(ranks, 3, 2048);
    test_gather_alone(ranks, 37, 2053);
  }
}

}  // namespace

int main(int argc, char** argv) {
  start("comm", argc, argv);
  test_every_rank_alone();
  devices = devices_of(argc, argv, {0, 0});
  if (brief && devices[0] == devices[1]) return finish("comm");
  test_all_reduce({8, 4096, 12288, 262144, 40, 262152, 5 * 4096, 1000008, 64}, 30);
  test_part(4096, 3 * 4096, 10 * 4096);
  test_part(8, 262144, 262144 + 64);
  test_part(1000, 700000, 1000000);
  test_graph(4096);
  test_graph(300000);
  test_all_gather(3, 2048);
  test_all_gather(37, 2053);
  test_lost_rank();
  return finish("comm");
}
