// SPDX-License-Identifier: MIT
// Wall-clock speed of the native step on the CPU, without Node: cpu_bench MODEL_DIR [threads [prefill|decode|streams]]
// Built by: cmake --build native/build --target cpu_bench (after npm test has configured it)
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <fstream>

#include "cpu/session.h"

namespace {

using namespace twelvex;
using namespace twelvex::check;
using Clock = std::chrono::steady_clock;

double processor_seconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

SessionOptions options(int threads, int mtp, int sequences) {
  SessionOptions o;
  o.load.threads = threads;
  o.load.mtp = mtp;
  o.load.step_tokens = 512;
  o.sequences = sequences;
  o.context_tokens = 4096;
  return o;
}

/// Words of the demo's own kind are not needed for speed; any ids do.
std::vector<int32_t> prompt(int tokens, int vocab) {
  std::vector<int32_t> ids;
  uint32_t state = 12345;
  for (int i = 0; i < tokens; ++i)
    ids.push_back(static_cast<int32_t>(2 + (state = state * 1664525u + 1013904223u) / 4 % static_cast<uint32_t>(vocab - 2)));
  return ids;
}

/// Prefills in chunks of 512; returns the result of the last.
StepOutput prefill(Session& session, int sequence, const std::vector<int32_t>& ids) {
  StepOutput out;
  for (size_t at = 0; at < ids.size(); at += 512) {
    const size_t end = std::min(ids.size(), at + 512);
    const uint8_t flags = end == ids.size() ? kRowSample : 0;
    test::StepRow row = test::row_of(ids, static_cast<int>(at), static_cast<int>(end - at), flags);
    row.sequence = sequence;
    out = session.step({row});
  }
  return out;
}

void bench_prefill(const std::string& dir, int threads, int mtp) {
  Session session(dir, options(threads, mtp, 1));
  for (int tokens : {512, 2048}) {
    const auto ids = prompt(tokens, session.config().vocab_size);
    prefill(session, 0, ids);
    double best = 1e9, busy = 1e9;
    for (int i = 0; i < 4; ++i) {
      const auto start = Clock::now();
      const double processor = processor_seconds();
      prefill(session, 0, ids);
      best = std::min(best, seconds_since(start));
      busy = std::min(busy, processor_seconds() - processor);
    }
    std::printf("prefill %4d tokens, mtp %d: %7.1f tok/s, %.1f ms of processor time\n", tokens, mtp, tokens / best, busy * 1e3);
  }
}

void bench_decode(const std::string& dir, int threads, int mtp, int streams) {
  Session session(dir, options(threads, mtp, streams));
  const auto ids = prompt(256, session.config().vocab_size);
  std::vector<test::StepRow> rows(static_cast<size_t>(streams));
  for (int s = 0; s < streams; ++s) {
    test::StepRow& row = rows[static_cast<size_t>(s)];
    const StepOutput out = prefill(session, s, ids);
    row.sequence = s;
    row.position = static_cast<int>(ids.size());
    row.tokens = {out.accepted[0]};
    row.tokens.insert(row.tokens.end(), out.drafts.begin(), out.drafts.end());
    row.drafts = mtp;
    row.flags = kRowSample;
  }
  int tokens = 0, steps = 0;
  const auto start = Clock::now();
  const double processor = processor_seconds();
  for (; steps < 300; ++steps) {
    const StepOutput out = session.step(rows);
    for (size_t s = 0; s < rows.size(); ++s) {
      const int taken = out.accepted_count[s];
      const int32_t* accepted = out.accepted.data() + s * static_cast<size_t>(1 + mtp);
      rows[s].tokens = {accepted[taken - 1]};
      rows[s].tokens.insert(rows[s].tokens.end(), out.drafts.begin() + static_cast<int64_t>(s) * mtp,
                            out.drafts.begin() + static_cast<int64_t>(s + 1) * mtp);
      rows[s].position += taken;
      tokens += taken;
    }
  }
  const double seconds = seconds_since(start);
  std::printf("decode %d streams, mtp %d: %7.1f tok/s, %.3f ms a step (%.3f of processor time), %.2f tokens a row and step\n",
              streams, mtp, tokens / seconds, seconds / steps * 1e3, (processor_seconds() - processor) / steps * 1e3,
              static_cast<double>(tokens) / steps / streams);
}

void print_resident_memory() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmHWM")) std::printf("%s\n", line.c_str());
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::printf("usage: %s MODEL_DIR [threads [prefill|decode|streams]]\n", argv[0]);
    return 2;
  }
  const int threads = argc > 2 ? std::atoi(argv[2]) : 2;
  const std::string what = argc > 3 ? argv[3] : "all";
  const auto wanted = [&](const char* name) { return what == "all" || what == name; };
  for (int mtp : {0, 2}) {
    if (wanted("prefill")) bench_prefill(argv[1], threads, mtp);
    if (wanted("decode")) bench_decode(argv[1], threads, mtp, 1);
    if (wanted("streams")) bench_decode(argv[1], threads, mtp, 8);
  }
  print_resident_memory();
  return 0;
}
