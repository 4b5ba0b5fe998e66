// SPDX-License-Identifier: MIT
#include "backend.h"

#include <algorithm>
#include <cstdlib>
#include <mutex>

#include "attention/gather.h"
#include "attention/sparse_decode.h"
#include "common/archs.h"
#include "common/check.h"
#include "common/device.h"
#include "hyper/hyper.h"
#include "runtime/error.h"
#include "runtime/shard.h"

namespace twelvex::cuda {

namespace {

/// Places arrays one behind the other; with a null base it only counts.
class Carver {
 public:
  explicit Carver(void* base) : base_(static_cast<uint8_t*>(base)) {}
  template <class T>
  void take(T*& array, size_t count) {
    array = reinterpret_cast<T*>(base_ + bytes_);
    bytes_ += (count * sizeof(T) + 255) / 256 * 256;
  }
  size_t bytes() const { return bytes_; }

 private:
  uint8_t* base_;
  size_t bytes_ = 0;
};

/// All kernels are loaded when the context is made. Loaded at first use they would wait for the device, and that for a rank
/// that waits in a collective for this one; the first request would also pay for the loading.
void load_kernels_at_start() {
  static std::once_flag once;
  std::call_once(once, [] { setenv("CUDA_MODULE_LOADING", "EAGER", 0); });
}

void require_device(int device) {
  load_kernels_at_start();
  int count = 0;
  if (const cudaError_t status = cudaGetDeviceCount(&count); status != cudaSuccess) {
    throw Error(ErrorCode::kUnsupported,
                std::string("no GPU can be used: ") + cudaGetErrorName(status) + " (" + cudaGetErrorString(status) +
                    "). nvidia-smi has to show one and a driver for CUDA " + std::to_string(CUDART_VERSION / 1000) + "." +
                    std::to_string(CUDART_VERSION % 1000 / 10) + " or newer; a container sees one with --gpus all");
  }
  if (device < 0 || device >= count) {
    throw Error(ErrorCode::kUnsupported,
                "CUDA device " + std::to_string(device) + " does not exist; the machine has " + std::to_string(count));
  }
  check(cudaSetDevice(device), "cudaSetDevice");
  const int arch = device_info().arch;
  if (!has_kernels(TWELVEX_CUDA_ARCHS, arch)) {
    throw Error(ErrorCode::kUnsupported, "CUDA device " + std::to_string(device) + " is sm_" + std::to_string(arch) +
                                             "; this build has kernels for " TWELVEX_CUDA_ARCHS
                                             " (TWELVEX_CUDA_ARCHS)");
  }
}

}  // namespace

CudaOps::CudaOps(const BackendOptions& options) : options_(options), config_(options_.config) {
  require_device(options.device);
  if (options.rows == RowFormat::kF32) {
    throw Error(ErrorCode::kUnsupported, "the CUDA backend stores cache rows as bf16 or fp8, not as f32");
  }
  check(cudaStreamCreateWithFlags(&queue_, cudaStreamNonBlocking), "cudaStreamCreate");
  check(cudaStreamCreateWithFlags(&gather_queue_, cudaStreamNonBlocking), "cudaStreamCreate");
  check(cudaEventCreateWithFlags(&rows_stored_, cudaEventDisableTiming), "cudaEventCreate");
  check(cudaEventCreateWithFlags(&gathered_, cudaEventDisableTiming), "cudaEventCreate");
  weights_ = std::make_unique<WeightStore>(queue_);
  if (options.shape.ranks == 1) return;
  comm_ = std::make_unique<Communicator>(options.group, options.shape.rank, options.device);
  pieces_ = std::make_unique<PieceReduction>(*comm_);
  listener_ = options.group->listen([comm = comm_.get()](bool failed) { failed ? comm->abandon() : comm->recover(); });
}

CudaOps::~CudaOps() {
  if (comm_) options_.group->leave_alone(listener_);
  cudaSetDevice(options_.device);
  graphs_.abandon(queue_);
  cudaDeviceSynchronize();
  for (void* pointer : owned_) cudaFree(pointer);
  cudaEventDestroy(rows_stored_);
  cudaEventDestroy(gathered_);
  cudaStreamDestroy(gather_queue_);
  weights_.reset();
  cudaStreamDestroy(queue_);
}

void* CudaOps::allocate_bytes(size_t bytes, const char* purpose) {
  owned_.push_back(device_alloc(bytes, purpose, true));
  return owned_.back();
}

Array CudaOps::array(size_t count, size_t element, const char* purpose) {
  return {allocate<uint8_t>(count * element, purpose), count * element};
}

Memory CudaOps::memory() {
  check(cudaSetDevice(options_.device), "cudaSetDevice");
  Memory memory;
  check(cudaMemGetInfo(&memory.free_bytes, &memory.total_bytes), "cudaMemGetInfo");
  return memory;
}

int CudaOps::max_logit_rows() const {
  return std::max(limits_.rows * (1 + limits_.mtp), limits_.logit_slice);
}

void CudaOps::reserve_scratch() {
  const auto tokens = static_cast<size_t>(limits_.step_tokens), all = tokens + static_cast<size_t>(limits_.rows);
  const auto dim = static_cast<size_t>(config_.hidden_size),
             heads = static_cast<size_t>(shard_heads(config_, options_.shape).size());
  const auto groups = static_cast<size_t>(shard_groups(config_, options_.shape).size());
  const auto width = static_cast<int>(shard_expert_width(config_, options_.shape).size());
  const size_t decode = static_cast<size_t>(limits_.rows) * static_cast<size_t>(1 + limits_.mtp);
  size_t splits = 1;
  for (const LayerKind kind : {LayerKind::kSwa, LayerKind::kCsa, LayerKind::kHca}) {
    splits = std::max(splits, static_cast<size_t>(decode_splits(kind, config_.index_topk, limits_.context_tokens)));
  }
  const MoeShape moe{.tokens = static_cast<int>(all), .hidden = config_.hidden_size, .experts = config_.num_experts,
                     .picks = config_.experts_per_token, .width = width, .shared_width = width,
                     .parts = options_.shape.ranks == 1 ? static_cast<int>(kParts) : 1};
  const auto carve = [&](void* base) {
    Carver attention(base), drafts(base);
    attention.take(scratch_.quantised, all * std::max({dim, heads * kHeadDim, static_cast<size_t>(config_.q_lora_rank)}));
    attention.take(scratch_.kv, tokens * 2 * kHeadDim);
    attention.take(scratch_.gate, tokens * 2 * kHeadDim);
    attention.take(scratch_.index_kv, tokens * 2 * kIndexDim);
    attention.take(scratch_.index_gate, tokens * 2 * kIndexDim);
    attention.take(scratch_.index_query, tokens * static_cast<size_t>(config_.index_heads) * kIndexDim);
    attention.take(scratch_.index_weights, tokens * static_cast<size_t>(config_.index_heads));
    attention.take(scratch_.low_rank, all * groups * static_cast<size_t>(config_.o_lora_rank));
    if (options_.shape.ranks == 1) attention.take(scratch_.part, all * dim);
    attention.take(scratch_.decode_partial, decode_parts(decode, splits) * heads * kHeadDim);
    attention.take(scratch_.decode_state, decode_parts(decode, splits) * heads);
    __nv_bfloat16* input = nullptr;  // quantised input of e_proj and h_proj
    drafts.take(input, all * kStreams * dim);
    drafts.take(scratch_.draft_rows, all * kStreams * dim);
    drafts.take(scratch_.draft_embed, all * dim);
    drafts.take(scratch_.draft_proj, all * dim);
    return std::max({attention.bytes(), limits_.mtp > 0 ? drafts.bytes() : 0, moe_workspace_bytes(moe)});
  };
  void* shared = allocate<uint8_t>(carve(nullptr), "the scratch buffers");
  carve(shared);
  scratch_.moe = carve_moe_workspace(shared, moe);
  scratch_.scores = allocate<float>(kScoreFloats, "indexer scores");
  scratch_.hidden_quantised = allocate<__nv_bfloat16>(kStreamTokens * dim, "quantised hidden states");
  constexpr size_t kAwaited = static_cast<size_t>(kAwaitedTokens) * kAwaitedEntries;
  scratch_.awaited_scores = allocate<uint32_t>(kAwaited, "indexer scores");
  check(cudaMemset(scratch_.awaited_scores, 0xff, kAwaited * sizeof(kNotThere)), "cudaMemset");
  scratch_.hidden_ready = allocate<uint32_t>(1, "counters");
  scratch_.hyper = allocate<float>(hyper_scratch_floats(config_.hidden_size), "mHC sums");
  scratch_.head_rows = allocate<__nv_bfloat16>(static_cast<size_t>(max_logit_rows()) * dim, "head input");
  // Room for one sequence of any length, or for several that share a chunk while they are shorter.
  const int longest = limits_.context_tokens / kCsaRatio + limits_.step_tokens + kWindow;
  scratch_.workspace_rows =
      options_.rows == RowFormat::kFp8 ? std::max(longest, std::min(longest * kPrefillChunkRows, 128 * 1024)) : 1;
  scratch_.workspace = allocate<uint8_t>(static_cast<size_t>(scratch_.workspace_rows) * kBf16RowBytes, "the KV gather workspace");
}

Activations CudaOps::reserve(const Limits& limits) {
  check(cudaSetDevice(options_.device), "cudaSetDevice");
  weights_->finish();
  limits_ = limits;
  const auto tokens = static_cast<size_t>(limits.step_tokens), all = tokens + static_cast<size_t>(limits.rows);
  const auto dim = static_cast<size_t>(config_.hidden_size),
             heads = static_cast<size_t>(shard_heads(config_, options_.shape).size());
  constexpr size_t kBf16 = 2;
  Activations a;
  a.streams = array(tokens * kStreams * dim, kBf16, "residual streams");
  a.draft_streams = limits.mtp > 0 ? array(all * kStreams * dim, kBf16, "draft streams") : Array{};
  a.mix = array(all * kHyperKept, sizeof(float), "mHC mixes");
  a.hidden = array(all * dim, kBf16, "hidden states");
  a.latent = array(all * static_cast<size_t>(config_.q_lora_rank), kBf16, "query latents");
  a.query = array(all * heads * kHeadDim, kBf16, "queries");
  a.kv = array(all * kHeadDim, kBf16, "kv rows");
  a.selection = array(tokens * static_cast<size_t>(config_.index_topk), sizeof(int32_t), "selected entries");
  a.attended = array(all * heads * kHeadDim, kBf16, "attention outputs");
  a.output = array(all * dim, kBf16, "sub-layer outputs");
  a.routing = array(all * static_cast<size_t>(config_.experts_per_token), 8, "routing");
  a.logits = array(static_cast<size_t>(max_logit_rows()) * static_cast<size_t>(config_.vocab_size), sizeof(float), "logits");
  reserve_scratch();
  reserve_sampling();
  batches_ = std::make_unique<StepBatches>(config_, limits, scratch_.workspace_rows);
  batches_->reserve(arena_);
  arena_.add(sampling_.info, static_cast<size_t>(limits.rows));
  batches_->reserve_tables(arena_);
  arena_.allocate();
  sampling_arena_.allocate();
  if (comm_) {
    output_peers_ = comm_->exchange(a.output.data);
    logits_peers_ = comm_->exchange(a.logits.data);
    selection_peers_ = comm_->exchange(a.selection.data);
  }
  return a;
}

void CudaOps::allocate_cache(const CacheLayout& layout, const CachePlan& plan) {
  check(cudaSetDevice(options_.device), "cudaSetDevice");
  release_cache();  // of an attempt that found no room, here or on another rank
  layout_ = layout;
  size_t window = 0, context = 0, slot = 0;
  const auto blocks = static_cast<size_t>(plan.window_blocks), contexts = static_cast<size_t>(plan.context_blocks);
  // Blocks of one layer lie together, so that a layer's pages share L2 and TLB reach.
  for (const LayerCacheBytes& layer : layout.layers) {
    window_at_.push_back(window);
    context_at_.push_back(context);
    slot_at_.push_back(slot);
    window += layer.window_block * blocks;
    context += layer.context_block * contexts;
    slot += layer.slot * static_cast<size_t>(plan.slots);
  }
  streams_tail_at_ = window;
  window += layout.streams_tail * blocks;
  window_ = allocate<uint8_t>(window, "the window cache");
  context_ = allocate<uint8_t>(context, "the context cache");
  slots_ = allocate<uint8_t>(slot, "the state slots");
  check(cudaDeviceSynchronize(), "allocating the cache");
}

void CudaOps::release_cache() {
  for (uint8_t** part : {&window_, &context_, &slots_}) {
    std::erase(owned_, *part);
    cudaFree(*part);
    *part = nullptr;
  }
  for (auto* places : {&window_at_, &context_at_, &slot_at_}) places->clear();
}

RowPages CudaOps::window_pages(int layer) const {
  const auto i = static_cast<size_t>(layer);
  return {window_ + window_at_[i], layout_.layers[i].window_block, kBlockTokens, layout_.format};
}

RowPages CudaOps::context_pages(int layer, bool index) const {
  const auto i = static_cast<size_t>(layer);
  const LayerCacheBytes& bytes = layout_.layers[i];
  const int rows = bytes.kind == LayerKind::kHca ? kHcaRowsPerBlock : kCsaRowsPerBlock;
  return {context_ + context_at_[i] + (index ? bytes.context_rows : 0), bytes.context_block, rows, layout_.format};
}

}  // namespace twelvex::cuda

namespace twelvex {

std::unique_ptr<Ops> make_cuda_backend(const BackendOptions& options) { return std::make_unique<cuda::CudaOps>(options); }

}  // namespace twelvex
