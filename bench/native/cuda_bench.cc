// SPDX-License-Identifier: MIT
// Speed and memory of the native step on CUDA, without Node: dummy weights of a real configuration, random tokens.
//
//   bench/native/run.sh [--model DIR] [--tp 1|2] [--alone] [--devices 0,1] [--layers N] [--mtp 0..4] [--step-tokens N]
//                       [--context N] [--cached N] [--max-rows N] [--rows fp8|bf16] [--deadline T] [--json FILE] TASK...
// --alone runs the last of --tp ranks by itself: one GPU's share of the work, without exchanges. --cached: room of the cache in
// tokens. TASK, in order:
//   chunk:T@P      a prefill chunk of T tokens behind P others, by operation
//   prefill:L      a prompt of L tokens in chunks of --step-tokens: first run, three more, then one by operation
//   decode:S@C     a step of S streams with C tokens of context each, by operation and as it is served (graphs)
//   layers:S@C     what one layer of each kind adds to such a step: cuts of the model behind its first layers, in turn, timed by
//                  the device's clock from the first layer's begin to the head's; --layers does not count
//   long:L         one prefill of L tokens, its chunks, and the memory; at --deadline (seconds since 1970) what is left is
//                  skipped but for the last chunk
//   attention:A    prefill attention from here on: product, one-head, eight-heads (bench/kernels/fma_prefill.cuh)
#include <cstring>
#include <ctime>
#include <memory>
#include <sstream>

#include "bench_kernels.h"
#include "layer_times.h"
#include "report.h"
#include "runtime/error.h"

namespace {

using namespace twelvex;
using namespace twelvex::bench;

struct Program {
  EngineOptions options;
  std::vector<std::string> tasks;
  std::FILE* json = nullptr;
  double copy = 0;
  int64_t deadline = 0;
  std::string attention = "product";
  std::string machine;  // of JSON lines: what holds for the whole run
  std::string labels;   // of the engine's: its layers too
  std::unique_ptr<BenchEngine> engine;  // of all tasks but layers, which makes its own; null until the first of them
};

std::vector<int> numbers(const std::string& text, char separator) {
  std::vector<int> list;
  std::istringstream in(text);
  for (std::string part; std::getline(in, part, separator);) list.push_back(std::stoi(part));
  return list;
}

Program parse(int argc, char** argv) {
  Program program;
  EngineOptions& o = program.options;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (!name.starts_with("--")) {
      program.tasks.push_back(name);
      continue;
    }
    if (name == "--alone") {
      o.alone = true;
      continue;
    }
    if (++i == argc) throw Error(ErrorCode::kBadOptions, name + " needs a value");
    const std::string value = argv[i];
    if (name == "--model") o.model = value;
    else if (name == "--tp") o.tp = std::stoi(value);
    else if (name == "--devices") o.devices = numbers(value, ',');
    else if (name == "--layers") o.layers = std::stoi(value);
    else if (name == "--mtp") o.mtp = std::stoi(value);
    else if (name == "--step-tokens") o.step_tokens = std::stoi(value);
    else if (name == "--context") o.context_tokens = std::stoi(value);
    else if (name == "--cached") o.cached_tokens = std::stoi(value);
    else if (name == "--max-rows") o.max_rows = std::stoi(value);
    else if (name == "--rows") o.rows = value == "bf16" ? RowFormat::kBF16 : RowFormat::kFp8;
    else if (name == "--deadline") program.deadline = std::stoll(value);
    else if (name == "--json") program.json = std::fopen(value.c_str(), "a");
    else throw Error(ErrorCode::kBadOptions, "unknown option " + name);
  }
  return program;
}

/// Fields that every JSON line of an engine's task begins with.
std::string labels(const Program& p, const std::string& task) {
  return p.labels + ",\"attention\":\"" + p.attention + "\",\"task\":\"" + task + "\"";
}

/// The chunk is computed again and again at the same place: what it reads and writes is the same.
void run_chunk(Program& p, BenchEngine& engine, const std::string& task, int tokens, int depth) {
  Sequence sequence = engine.start(0, 1);
  engine.prefill(sequence, depth, false);
  std::vector<std::vector<Sample>> runs;
  std::vector<double> walls;
  for (int i = 0; i < 6; ++i) {
    engine.time_steps(i > 0, 500);
    sequence.done = depth;
    walls.push_back(engine.step({{&sequence, tokens, false}}).wall_ms);
    if (i > 0) runs.push_back(engine.samples());
  }
  engine.time_steps(false, 0);
  engine.end(sequence);
  OpTable table;
  table.add(engine, runs);
  std::printf("\n%s: %d tokens behind %d, %.2f ms on the clock\n", task.c_str(), tokens, depth, median(walls));
  table.print(engine, p.copy);
  table.write_json(p.json, engine, labels(p, task));
}

void run_prefill(Program& p, BenchEngine& engine, const std::string& task, int length) {
  std::vector<double> walls;
  double first = 0;
  for (int run = 0; run < 4; ++run) {
    Sequence sequence = engine.start(0, 100 + static_cast<uint64_t>(run));
    const double ms = engine.prefill(sequence, length);
    if (run == 0) first = ms;
    else walls.push_back(ms);
    engine.end(sequence);
  }
  OpTable table;
  Sequence sequence = engine.start(0, 1);
  engine.time_steps(true, 500);
  for (int left = length; left > 0;) {
    const int chunk = std::min(left, engine.options().step_tokens);
    left -= chunk;
    engine.step({{&sequence, chunk, left == 0}});
    table.add(engine, {engine.samples()});
  }
  engine.time_steps(false, 0);
  engine.end(sequence);
  const double ms = median(walls), whole = table.whole_model_us(engine) / 1e3;
  const double model = ms + whole - table.total_us() / 1e3;
  std::printf("\n%s, attention %s: %.2f ms (first %.2f; runs %.2f %.2f %.2f), %.0f tok/s\n", task.c_str(),
              p.attention.c_str(), ms, first, walls[0], walls[1], walls[2], length / ms * 1e3);
  std::printf("  operations %.2f ms; model of %d layers: %.1f ms, %.0f tok/s\n", table.total_us() / 1e3,
              engine.whole_config().num_layers, model, length / model * 1e3);
  table.print(engine, p.copy);
  table.write_json(p.json, engine, labels(p, task));
  if (p.json == nullptr) return;
  std::fprintf(p.json, "{\"kind\":\"prefill\",%s,\"tokens\":%d,\"first_ms\":%.3f,\"runs_ms\":[%.3f,%.3f,%.3f],",
               labels(p, task).c_str(), length, first, walls[0], walls[1], walls[2]);
  std::fprintf(p.json, "\"ms\":%.3f,\"ops_ms\":%.3f,\"whole_ms\":%.3f}\n", ms, table.total_us() / 1e3, model);
}

struct DecodeTimes {
  double ms = 0, accepted = 0;  // of a step; tokens a row and step
};

DecodeTimes decode(BenchEngine& engine, const std::vector<BenchEngine::Row>& rows, int steps, bool graphs,
                   std::vector<std::vector<Sample>>* runs) {
  std::vector<double> walls;
  DecodeTimes times;
  for (int i = 0; i < steps; ++i) {
    const StepTimes step = engine.step(rows, graphs);
    walls.push_back(step.wall_ms);
    times.accepted += step.accepted / steps;
    if (runs) runs->push_back(engine.samples());
  }
  times.ms = median(walls);
  return times;
}

void run_decode(Program& p, BenchEngine& engine, const std::string& task, int streams, int context) {
  std::vector<Sequence> sequences;
  std::vector<BenchEngine::Row> rows;
  for (int s = 0; s < streams; ++s) sequences.push_back(engine.start(s, 1000 + static_cast<uint64_t>(s)));
  double filling = 0;
  for (Sequence& s : sequences) {
    filling += engine.prefill(s, context);
    rows.push_back({&s, 0, true});
  }
  decode(engine, rows, 4, true, nullptr);  // captures the graph
  const DecodeTimes served = decode(engine, rows, 40, true, nullptr);
  std::vector<std::vector<Sample>> runs;
  decode(engine, rows, 2, false, nullptr);
  engine.time_steps(true, 500 + 150.0 * (engine.config().num_layers + 2 * engine.options().mtp));
  decode(engine, rows, 9, false, &runs);
  engine.time_steps(false, 0);
  OpTable table;
  table.add(engine, runs);
  for (Sequence& s : sequences) engine.end(s);
  // Operations take longer outside of a graph: their shares count, and the graph's time.
  const double whole = served.ms * table.whole_model_us(engine) / table.total_us();
  std::printf("\n%s, mtp %d: %.3f ms a step as a graph, %.1f steps/s, %.2f tokens a row and step, %.0f tok/s\n", task.c_str(),
              engine.options().mtp, served.ms, 1e3 / served.ms, served.accepted, streams * served.accepted / served.ms * 1e3);
  std::printf("  operations %.3f ms; model of %d layers: %.2f ms a step, %.1f steps/s (contexts filled in %.1f s)\n",
              table.total_us() / 1e3, engine.whole_config().num_layers, whole, 1e3 / whole, filling / 1e3);
  table.print(engine, p.copy);
  table.write_json(p.json, engine, labels(p, task));
  if (p.json == nullptr) return;
  std::fprintf(p.json, "{\"kind\":\"decode\",%s,\"streams\":%d,\"context\":%d,\"ms\":%.4f,", labels(p, task).c_str(), streams,
               context, served.ms);
  std::fprintf(p.json, "\"accepted\":%.3f,\"ops_ms\":%.4f,\"whole_ms\":%.4f}\n", served.accepted, table.total_us() / 1e3, whole);
}

double used_bytes(BenchEngine& engine) {
  double used = 0;
  for (const Memory& m : engine.memory()) used = std::max(used, static_cast<double>(m.total_bytes - m.free_bytes));
  return used;
}

void run_long(Program& p, BenchEngine& engine, const std::string& task, int length) {
  const double before = used_bytes(engine);
  Sequence sequence = engine.start(0, 1);
  std::vector<double> chunks;
  OpTable table;
  int skipped = 0;
  for (int left = length; left > 0;) {
    const int step = engine.options().step_tokens, chunk = std::min(left, step);
    if (p.deadline > 0 && left > step && std::time(nullptr) >= p.deadline) {
      skipped += left - step;
      sequence.done = length - step;
      left = step;
      continue;
    }
    left -= chunk;
    engine.time_steps(left == 0, 500);
    chunks.push_back(engine.step({{&sequence, chunk, left == 0}}).wall_ms);
  }
  table.add(engine, {engine.samples()});
  engine.time_steps(false, 0);
  engine.end(sequence);
  double ms = 0;
  for (const double chunk : chunks) ms += chunk;
  const double used = used_bytes(engine);
  std::printf("\n%s: %d tokens in %.2f s, %.0f tok/s (%d skipped); first chunk %.1f ms, last %.1f ms;"
              " memory of a device %.2f GB before, %.2f GB after\n",
              task.c_str(), length - skipped, ms / 1e3, (length - skipped) / ms * 1e3, skipped, chunks.front(), chunks.back(),
              before / 1e9, used / 1e9);
  std::printf("  the last chunk by operation:\n");
  table.print(engine, p.copy);
  table.write_json(p.json, engine, labels(p, task));
  if (p.json == nullptr) return;
  std::fprintf(p.json, "{\"kind\":\"long\",%s,\"tokens\":%d,\"skipped\":%d,\"ms\":%.1f,\"before_bytes\":%.0f,",
               labels(p, task).c_str(), length, skipped, ms, before);
  std::fprintf(p.json, "\"after_bytes\":%.0f,\"chunks_ms\":[", used);
  for (size_t i = 0; i < chunks.size(); ++i) std::fprintf(p.json, "%s%.2f", i ? "," : "", chunks[i]);
  std::fprintf(p.json, "]}\n");
}

void describe_run(Program& p) {
  const EngineOptions& o = p.options;
  cudaDeviceProp device;
  cudaGetDeviceProperties(&device, 0);
  char text[512];
  std::snprintf(text, sizeof text,
                "\"device\":\"%s\",\"tp\":%d,\"alone\":%s,\"mtp\":%d,\"step_tokens\":%d,\"context_tokens\":%d,\"copy\":%.4g",
                device.name, o.tp, o.alone ? "true" : "false", o.mtp, o.step_tokens, o.context_tokens, p.copy);
  p.machine = text;
  std::printf("%s, copy %.0f GB/s read and written; tp %d%s, mtp %d, steps of %d, context %d\n", device.name, p.copy / 1e9, o.tp,
              o.alone ? " (one rank alone)" : "", o.mtp, o.step_tokens, o.context_tokens);
}

BenchEngine& engine_of(Program& p) {
  if (p.engine) return *p.engine;
  p.engine = std::make_unique<BenchEngine>(p.options);
  BenchEngine& engine = *p.engine;
  p.labels = p.machine + ",\"layers_run\":" + std::to_string(engine.config().num_layers);
  const char* const text = p.labels.c_str();
  double bytes = 0;
  for (const auto& [kind, count] : engine.memory_bytes) bytes += count;
  std::printf("%d layers loaded in %.1f s (%.2f GB/s a rank); memory of a rank %.2f GB:\n", engine.config().num_layers,
              engine.load_seconds, engine.memory_bytes["weights"] / engine.load_seconds / 1e9, bytes / 1e9);
  for (const auto& [kind, count] : engine.memory_bytes) {
    std::printf("  %-26s %9.3f GB\n", kind.c_str(), count / 1e9);
    if (p.json) std::fprintf(p.json, "{\"kind\":\"memory\",%s,\"what\":\"%s\",\"bytes\":%.0f}\n", text, kind.c_str(), count);
  }
  for (const Memory& m : engine.memory()) {
    std::printf("  device: %.2f of %.2f GB used\n", static_cast<double>(m.total_bytes - m.free_bytes) / 1e9,
                static_cast<double>(m.total_bytes) / 1e9);
  }
  if (p.json) std::fprintf(p.json, "{\"kind\":\"load\",%s,\"seconds\":%.2f}\n", text, engine.load_seconds);
  return engine;
}

void run_task(Program& p, const std::string& task) {
  const size_t colon = task.find(':');
  const std::string name = task.substr(0, colon), value = colon == std::string::npos ? "" : task.substr(colon + 1);
  if (name == "attention") {
    p.attention = value;
    use_prefill_attention(value == "one-head"      ? PrefillAttention::kOneHead
                          : value == "eight-heads" ? PrefillAttention::kEightHeads
                                                   : PrefillAttention::kProduct);
    return;
  }
  const std::vector<int> at = numbers(value, '@');
  if (name == "layers" && at.size() == 2) {
    std::printf("\n%s\n", task.c_str());
    return run_layer_times(p.options, at[0], at[1], p.copy, p.json, p.machine);
  }
  BenchEngine& engine = engine_of(p);
  if (name == "chunk" && at.size() == 2) return run_chunk(p, engine, task, at[0], at[1]);
  if (name == "prefill" && at.size() == 1) return run_prefill(p, engine, task, at[0]);
  if (name == "long" && at.size() == 1) return run_long(p, engine, task, at[0]);
  if (name == "decode" && at.size() == 2) return run_decode(p, engine, task, at[0], at[1]);
  throw Error(ErrorCode::kBadOptions, "unknown task " + task);
}

}  // namespace

int main(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  try {
    Program program = parse(argc, argv);
    program.copy = copy_bandwidth();
    describe_run(program);
    for (const std::string& task : program.tasks) {
      run_task(program, task);
      if (program.json) std::fflush(program.json);
    }
  } catch (const std::exception& error) {
    std::printf("failed: %s\n", error.what());
    return 1;
  }
  return 0;
}
