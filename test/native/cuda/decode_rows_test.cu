// SPDX-License-Identifier: MIT
// What a decode step keeps of a layer in one launch: every byte as the separate launches leave it (whose values compressor_test,
// hyper_test and the whole model check).
#include "attention/decode_rows.h"

#include "fake_cache.h"
#include "gemm/quantise.h"
#include "runtime/step.h"

using namespace twelvex;
using namespace twelvex::test;

namespace {

constexpr int kBlocks = 12, kSlots = 8;
constexpr int kLatentDim = 384 + 64;  // its last group of 128 columns is short

/// Everything that the launches write.
struct State {
  DeviceArray<__nv_bfloat16> latent, kv;
  DeviceArray<uint8_t> window, entries[2], ring[2], tail[2];
};

struct Layer {
  LayerKind kind;
  RowFormat format;
  int compressors() const { return kind == LayerKind::kCsa ? 2 : kind == LayerKind::kHca ? 1 : 0; }
  int ratio() const { return kind == LayerKind::kCsa ? kCsaRatio : kHcaRatio; }
  int rows() const { return kBlockTokens / ratio(); }
  int ring_rows() const { return kind == LayerKind::kCsa ? kCsaRing : kHcaRing; }
  int width(int i) const { return (i == 0 ? kHeadDim : kIndexDim) * (kind == LayerKind::kCsa ? 2 : 1); }
};

template <class T>
std::vector<uint8_t> bytes_of(const std::vector<T>& v) {
  const auto* data = reinterpret_cast<const uint8_t*>(v.data());
  return {data, data + v.size() * sizeof(T)};
}

/// Streams that leave by a mix.
std::vector<__nv_bfloat16> leave(const DeviceArray<float>& mix, int tokens, bool comb_ready) {
  constexpr int kDim = 128;
  const auto count = static_cast<size_t>(tokens) * kDim;
  std::vector<__nv_bfloat16> output(count), streams(count * kStreams);
  for (size_t i = 0; i < output.size(); ++i) output[i] = __float2bfloat16(static_cast<float>(i % 97) - 48);
  for (size_t i = 0; i < streams.size(); ++i) streams[i] = __float2bfloat16(static_cast<float>(i % 89) - 44);
  const DeviceArray<__nv_bfloat16> d_output(output), d_streams(streams);
  cuda::HyperParams p;
  p.tokens = tokens;
  p.dim = kDim;
  p.leave = p.late_comb = true;
  p.comb_ready = comb_ready;
  p.streams = d_streams;
  p.output = d_output;
  p.mix = mix;
  cuda::run_hyper(p, nullptr);
  sync("leave");
  return d_streams.download();
}

void check_case(const Layer& layer, const std::vector<RowSpec>& rows, bool resumed) {
  FakeBatch drawn(rows, kBlocks, kBlocks);
  if (resumed) drawn.flags[0] = kRowResume;
  drawn.token_row.back() = -1;  // padding
  const FakeBatch batch(drawn, rows.size());
  const auto tokens = static_cast<size_t>(batch.tokens());
  const auto latent = random_bf16(tokens * kLatentDim), kv = random_bf16(tokens * kHeadDim);
  const size_t window_bytes = row_block_bytes(layer.format, kBlockTokens, false);
  State together, apart;
  for (State* s : {&together, &apart}) {
    s->latent = DeviceArray<__nv_bfloat16>(latent), s->kv = DeviceArray<__nv_bfloat16>(kv);
    s->window = DeviceArray<uint8_t>(window_bytes * kBlocks);
    s->window.poison();
  }
  const DeviceArray<float> q_norm(random_f32(kLatentDim)), kv_norm(random_f32(kHeadDim));
  std::vector<DeviceArray<float>> inputs;
  cuda::DecodeRowsParams p, q;  // together, apart
  for (int i = 0; i < layer.compressors(); ++i) {
    const auto width = static_cast<size_t>(layer.width(i));
    const auto ring = bytes_of(random_f32(kSlots * layer.ring_rows() * 2 * width)),
               tail = bytes_of(random_f32(kBlocks * kCsaRatio * 2 * width));
    const size_t stride = (row_block_bytes(layer.format, layer.rows(), i == 1) + 255) / 256 * 256;  // as in the product
    const size_t first = inputs.size();
    for (const size_t count : {tokens * width, tokens * width, layer.ratio() * width, width})
      inputs.emplace_back(random_f32(count));
    for (auto& [s, to] : {std::pair{&together, &p}, std::pair{&apart, &q}}) {
      s->ring[i] = DeviceArray<uint8_t>(ring), s->tail[i] = DeviceArray<uint8_t>(tail);
      s->entries[i] = DeviceArray<uint8_t>(stride * kBlocks);
      s->entries[i].poison();
      cuda::CompressorParams& c = to->compressors[i];
      c.batch = batch.view();
      c.entries = {s->entries[i].get(), stride, layer.rows(), layer.format};
      c.ratio = layer.ratio();
      c.dim = i == 0 ? kHeadDim : kIndexDim;
      for (int f = 0; f < 32; ++f) c.frequencies.pair[f] = static_cast<float>(std::pow(160000.0, -f / 32.0));
      c.kv = inputs[first], c.gate = inputs[first + 1], c.ape = inputs[first + 2], c.norm = inputs[first + 3];
      c.ring = s->ring[i];
      c.ring_rows = layer.ring_rows();
      c.slot_stride = layer.ring_rows() * 2 * width * sizeof(float);
      c.tail = s->tail[i];
      c.tail_stride = kCsaRatio * 2 * width * sizeof(float);
    }
  }
  p.num_compressors = layer.compressors();
  for (auto& [s, to] : {std::pair{&together, &p}, std::pair{&apart, &q}}) {
    to->batch = batch.view();
    to->window = {s->window.get(), window_bytes, kBlockTokens, layer.format};
    to->norm.tokens = batch.tokens();
    to->norm.latent_dim = kLatentDim;
    to->norm.latent = s->latent;
    to->norm.kv = s->kv;
    to->norm.q_norm = q_norm;
    to->norm.kv_norm = kv_norm;
    to->norm.rope = batch.view().rope_plain;
  }
  const std::vector<float> entered = random_f32(tokens * cuda::kHyperKept);
  const DeviceArray<float> mix(entered), unfinished(entered);
  p.comb = {mix, cuda::HyperParams{}.sinkhorn_iters, cuda::HyperParams{}.hc_eps};
  p.quantise_latent = layer.format == RowFormat::kFp8;
  cuda::run_decode_rows(p, nullptr);
  cuda::run_latent_kv(q.norm, nullptr);
  if (p.quantise_latent) {
    cuda::run_quantise({.rows = batch.tokens(), .cols = kLatentDim, .ldx = kLatentDim, .x = q.norm.latent, .y = q.norm.latent});
  }
  cuda::run_store_window({.batch = q.batch, .window = q.window, .kv = q.norm.kv}, nullptr);
  for (int i = 0; i < layer.compressors(); ++i) cuda::run_compressor(q.compressors[i], nullptr);
  sync("decode_rows");
  bool same = bytes_of(together.latent.download()) == bytes_of(apart.latent.download()) &&
              together.window.download() == apart.window.download();
  for (int i = 0; i < layer.compressors(); ++i) {
    same &= together.entries[i].download() == apart.entries[i].download() &&
            together.ring[i].download() == apart.ring[i].download() && together.tail[i].download() == apart.tail[i].download();
  }
  same &= bytes_of(leave(mix, batch.tokens(), true)) == bytes_of(leave(unfinished, batch.tokens(), false));
  char text[160];
  std::snprintf(text, sizeof text, "%s, %s rows, %d tokens in %zu rows from %d%s: the bytes of separate launches",
                layer.kind == LayerKind::kSwa   ? "swa"
                : layer.kind == LayerKind::kCsa ? "csa"
                                                : "hca",
                layer.format == RowFormat::kFp8 ? "fp8" : "bf16", batch.tokens(), rows.size(), rows[0].position,
                resumed ? ", resumed" : "");
  expect(same, text);
}

}  // namespace

int main(int argc, char** argv) {
  start("decode_rows", argc, argv);
  for (const RowFormat format : {RowFormat::kBF16, RowFormat::kFp8}) {
    for (const LayerKind kind : {LayerKind::kSwa, LayerKind::kCsa, LayerKind::kHca}) {
      const Layer layer{kind, format};
      check_case(layer, {{0, 1}, {3, 1}}, false);
      check_case(layer, {{126, 5}, {251, 3}, {0, 5}, {383, 1}, {7, 2}}, false);
      check_case(layer, {{255, 5}, {0, 0}, {509, 4}}, false);
      check_case(layer, {{128, 5}, {379, 5}}, true);
    }
  }
  return finish("decode_rows");
}
