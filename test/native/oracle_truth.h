// SPDX-License-Identifier: MIT
// The ground truth of test/oracle/NAME: prompts with the logits of their last positions.
#pragma once

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "runtime/error.h"
#include "runtime/mapped_file.h"
#include "runtime/safetensors.h"

namespace twelvex::test {

struct Truth {
  std::vector<int32_t> tokens, greedy;
  std::vector<float> logits, mtp_logits;  // of the last positions
  size_t rows = 0, mtp_rows = 0;
  size_t vocab = 0;
};

inline std::vector<Truth> read_truth(const std::string& oracle) {
  const std::string path = oracle + "/expected.safetensors";
  const MappedFile file(path);
  const auto entries = parse_safetensors_header(file.bytes(), file.size(), path);
  std::vector<Truth> list;
  const auto read = [&](const std::string& name, auto& out) -> const SafetensorsEntry* {
    const auto at = std::find_if(entries.begin(), entries.end(), [&](const auto& entry) { return entry.name == name; });
    if (at == entries.end()) return nullptr;
    out.resize(at->bytes / 4);
    std::memcpy(out.data(), file.data() + at->offset, at->bytes);
    return &*at;
  };
  for (int i = 0;; ++i) {
    Truth t;
    const std::string prefix = std::to_string(i) + ".";
    if (!read(prefix + "tokens", t.tokens)) break;
    read(prefix + "greedy", t.greedy);
    const SafetensorsEntry* logits = read(prefix + "logits", t.logits);
    const SafetensorsEntry* mtp = read(prefix + "mtp_logits", t.mtp_logits);
    t.rows = static_cast<size_t>(logits->shape[0]);
    t.vocab = static_cast<size_t>(logits->shape[1]);
    t.mtp_rows = static_cast<size_t>(mtp->shape[0]);
    list.push_back(std::move(t));
  }
  if (list.empty()) throw Error(ErrorCode::kBadCheckpoint, path + " holds no sequence");
  return list;
}

}  // namespace twelvex::test
