// SPDX-License-Identifier: MIT
// Ranks that are threads of the program, on one device or on several.
#pragma once

#include <cstdlib>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "runtime/error.h"
#include "runtime/rank_group.h"
#include "support.h"

namespace twelvex::test {

/// One a rank, from the arguments: --devices A,B.
inline std::vector<int> devices_of(int argc, char** argv, std::vector<int> otherwise) {
  for (int i = 1; i + 1 < argc; ++i) {
    if (std::strcmp(argv[i], "--devices") != 0) continue;
    otherwise.clear();
    for (const char* at = argv[i + 1]; *at != '\0'; at += *at == ',')
      otherwise.push_back(static_cast<int>(std::strtol(at, const_cast<char**>(&at), 10)));
  }
  return otherwise;
}

/// False, having said so, where the machine has not all of them.
inline bool has_devices(const char* program, const std::vector<int>& devices) {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) count = 0;  // no driver
  const bool has = count > *std::max_element(devices.begin(), devices.end());
  if (!has) std::printf("%s: SKIPPED, the machine has %d device(s)\n", program, count);
  return has;
}

/// Runs `body` as one thread a rank. A rank that throws ends the others' waits and fails the program.
inline void run_ranks(int ranks, const std::function<void(const std::shared_ptr<RankGroup>&, int)>& body) {
  const auto group = std::make_shared<RankGroup>(ranks);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([&, rank] {
      try {
        body(group, rank);
      } catch (const Error& error) {
        std::printf("  rank %d: %s\n", rank, error.what());
        group->fail(error.what());
        ++failures;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace twelvex::test
