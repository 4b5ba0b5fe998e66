// SPDX-License-Identifier: MIT
// The ground truth of test/oracle/NAME: prompts with the logits of their last positions. And how alike two rows of logits are.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "runtime/mapped_file.h"
#include "runtime/safetensors.h"
#include "support.h"

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
  if (list.empty()) expect(false, path + " holds no sequence");
  return list;
}

/// Kullback-Leibler divergence of the distribution of logits q from that of p.
inline double divergence(const float* p, const float* q, size_t vocab) {
  const auto normaliser = [vocab](const float* x) {
    double top = *std::max_element(x, x + vocab), total = 0;
    for (size_t i = 0; i < vocab; ++i) total += std::exp(x[i] - top);
    return top + std::log(total);
  };
  const double np = normaliser(p), nq = normaliser(q);
  double sum = 0;
  for (size_t i = 0; i < vocab; ++i) sum += std::exp(p[i] - np) * ((p[i] - np) - (q[i] - nq));
  return sum;
}

inline bool same_best(const float* p, const float* q, size_t vocab) {
  return std::max_element(p, p + vocab) - p == std::max_element(q, q + vocab) - q;
}

}  // namespace twelvex::test
