// SPDX-License-Identifier: MIT
#include "recording_ops.h"

#include <cmath>
#include <cstring>

#include "runtime/error.h"

namespace twelvex::check {

namespace {

float decode_fp8(uint8_t code) {
  const int exponent = code >> 3 & 15, mantissa = code & 7;
  const float magnitude = exponent == 0 ? std::ldexp(static_cast<float>(mantissa) / 8, -6)
                                        : std::ldexp(1 + static_cast<float>(mantissa) / 8, exponent - 7);
  return code & 128 ? -magnitude : magnitude;
}

float decode_fp4(unsigned nibble) {
  const float values[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
  return nibble & 8 ? -values[nibble & 7] : values[nibble & 7];
}

float decode(const MatrixView& view, int64_t row, int64_t col) {
  const uint8_t* line = view.data + static_cast<size_t>(row) * view.row_bytes;
  const auto scale = [&](int64_t scale_row, int64_t scale_col) {
    const size_t at = static_cast<size_t>(scale_row) * view.scale_row_bytes + static_cast<size_t>(scale_col);
    return std::ldexp(1.0f, view.scale[at] - 127);
  };
  uint32_t bits = 0;
  float value = 0;
  switch (view.format) {
    case WeightFormat::kF32: std::memcpy(&value, line + col * 4, 4); return value;
    case WeightFormat::kBF16:
      std::memcpy(&bits, line + col * 2, 2);
      bits <<= 16;
      std::memcpy(&value, &bits, 4);
      return value;
    case WeightFormat::kFp8Block128: return decode_fp8(line[col]) * scale(row / 128, col / 128);
    case WeightFormat::kFp4Group32: return decode_fp4(col % 2 ? line[col / 2] >> 4 : line[col / 2] & 15) * scale(row, col / 32);
  }
  return 0;
}

class Lister {
 public:
  std::vector<RecordedWeight> list(const ModelWeights& weights, bool with_mtp) {
    add("embed", weights.embed, Split::kRows);
    add("head", weights.lm_head, Split::kRows);
    head("", weights.head);
    for (const LayerWeights& layer : weights.layers) block("layers." + std::to_string(layer.index) + ".", layer);
    if (with_mtp) {
      add("mtp.0.enorm", weights.mtp.enorm);
      add("mtp.0.hnorm", weights.mtp.hnorm);
      add("mtp.0.e_proj", weights.mtp.e_proj);
      add("mtp.0.h_proj", weights.mtp.h_proj);
      block("mtp.0.", weights.mtp.layer);
      head("mtp.0.", weights.mtp.head);
    }
    return std::move(all_);
  }

 private:
  template <class Handle>
  void add(const std::string& name, const Handle& handle, Split split = Split::kNone) {
    all_.push_back({name, split, {&RecordingOps::of(handle)}});
  }

  void add(const std::string& name, const Parts<Linear>& parts) {
    RecordedWeight weight{name, Split::kCols, {}};
    for (const Linear& part : parts) {
      if (part.cols > 0) weight.parts.push_back(&RecordingOps::of(part));
    }
    all_.push_back(std::move(weight));
  }

  void hyper(const std::string& name, const HyperWeights& weights) {
    add(name + "_fn", weights.fn);
    add(name + "_base", weights.base);
    add(name + "_scale", weights.scale);
  }

  void head(const std::string& prefix, const HeadWeights& weights) {
    hyper(prefix + "hc_head", weights.hyper);
    add(prefix + "norm", weights.norm);
  }

  void compressor(const std::string& prefix, const CompressorWeights& weights) {
    add(prefix + "wkv", weights.wkv);
    add(prefix + "wgate", weights.wgate);
    add(prefix + "ape", weights.ape);
    add(prefix + "norm", weights.norm);
  }

  void block(const std::string& prefix, const LayerWeights& layer) {
    hyper(prefix + "hc_attn", layer.attn_hyper);
    hyper(prefix + "hc_ffn", layer.ffn_hyper);
    add(prefix + "attn_norm", layer.attn_norm);
    add(prefix + "ffn_norm", layer.ffn_norm);
    attention(prefix + "attn.", layer.attn);
    moe(prefix + "ffn.", layer.moe);
  }

  void attention(const std::string& prefix, const AttentionWeights& attn) {
    add(prefix + "wq_a", attn.wq_a);
    add(prefix + "wq_b", attn.wq_b, Split::kRows);
    add(prefix + "wkv", attn.wkv);
    add(prefix + "wo_a", attn.wo_a, Split::kRows);
    add(prefix + "wo_b", attn.wo_b);
    add(prefix + "q_norm", attn.q_norm);
    add(prefix + "kv_norm", attn.kv_norm);
    add(prefix + "attn_sink", attn.sinks, Split::kCols);
    if (attn.kind != LayerKind::kSwa) compressor(prefix + "compressor.", attn.compressor);
    if (attn.kind != LayerKind::kCsa) return;
    add(prefix + "indexer.wq_b", attn.indexer.wq_b);
    add(prefix + "indexer.weights_proj", attn.indexer.weights_proj);
    compressor(prefix + "indexer.compressor.", attn.indexer.compressor);
  }

  void moe(const std::string& prefix, const MoeWeights& moe) {
    add(prefix + "gate", moe.gate);
    if (moe.bias.data != nullptr) add(prefix + "gate.bias", moe.bias);
    if (moe.tid2eid.data != nullptr) add(prefix + "gate.tid2eid", moe.tid2eid);
    add(prefix + "shared_experts.w1", moe.shared_gate, Split::kRows);
    add(prefix + "shared_experts.w3", moe.shared_up, Split::kRows);
    add(prefix + "shared_experts.w2", moe.shared_down);
    const std::vector<RecordedExpert>& experts = RecordingOps::of(moe.experts);
    for (size_t e = 0; e < experts.size(); ++e) {
      const std::string expert = prefix + "experts." + std::to_string(e) + ".";
      all_.push_back({expert + "w1", Split::kRows, {&experts[e].w1}});
      all_.push_back({expert + "w3", Split::kRows, {&experts[e].w3}});
      all_.push_back({expert + "w2", Split::kCols, {&experts[e].w2[0], &experts[e].w2[1]}});
    }
  }

  std::vector<RecordedWeight> all_;
};

}  // namespace

RecordedMatrix dequantised(const MatrixView& view) {
  RecordedMatrix matrix{view.rows, view.cols, {}};
  for (int64_t row = 0; row < view.rows; ++row) {
    for (int64_t col = 0; col < view.cols; ++col) matrix.values.push_back(decode(view, row, col));
  }
  return matrix;
}

RecordedMatrix joined(const std::vector<const RecordedMatrix*>& parts, Split split) {
  RecordedMatrix all = *parts.at(0);
  for (size_t i = 1; i < parts.size(); ++i) {
    const RecordedMatrix& part = *parts[i];
    if (split == Split::kRows) {
      all.rows += part.rows;
      all.values.insert(all.values.end(), part.values.begin(), part.values.end());
    } else if (split == Split::kCols) {
      RecordedMatrix wider{all.rows, all.cols + part.cols, {}};
      for (int64_t row = 0; row < all.rows; ++row) {
        for (int64_t col = 0; col < all.cols; ++col) wider.values.push_back(all.at(row, col));
        for (int64_t col = 0; col < part.cols; ++col) wider.values.push_back(part.at(row, col));
      }
      all = std::move(wider);
    } else if (part.values != all.values) {
      throw Error(ErrorCode::kInternal, "what every rank has a copy of differs");
    }
  }
  return all;
}

std::vector<RecordedWeight> recorded_weights(const ModelWeights& weights, bool with_mtp) {
  return Lister().list(weights, with_mtp);
}

}  // namespace twelvex::check
