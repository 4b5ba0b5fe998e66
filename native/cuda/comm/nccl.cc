// SPDX-License-Identifier: MIT
#include "comm/nccl.h"

#include <dlfcn.h>

#include <string>

#include "runtime/error.h"

namespace twelvex::cuda {

namespace {

// The part of nccl.h that is used; its ABI has been stable since NCCL 2.10 (bf16).
struct UniqueId {
  char bytes[128];
};
constexpr int kBfloat16 = 9, kSum = 0;

}  // namespace

struct Nccl::Api {
  int (*get_unique_id)(UniqueId*);
  int (*comm_init_rank)(void**, int, UniqueId, int);
  int (*comm_abort)(void*);
  int (*all_reduce)(const void*, void*, size_t, int, int, void*, cudaStream_t);
  const char* (*error_string)(int);

  void check(int status, const char* what) const {
    if (status != 0) throw Error(ErrorCode::kInternal, std::string(what) + ": " + error_string(status));
  }

  /// The library stays loaded: its threads outlive communicators.
  static const Api* load() {
    static const Api* const api = []() -> const Api* {
      void* library = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
      if (library == nullptr) return nullptr;
      static Api loaded;
      const auto find = [library](const char* name, auto& function) {
        function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, name));
        return function != nullptr;
      };
      const bool complete = find("ncclGetUniqueId", loaded.get_unique_id) && find("ncclCommInitRank", loaded.comm_init_rank) &&
                            find("ncclCommAbort", loaded.comm_abort) && find("ncclAllReduce", loaded.all_reduce) &&
                            find("ncclGetErrorString", loaded.error_string);
      return complete ? &loaded : nullptr;
    }();
    return api;
  }
};

std::unique_ptr<Nccl> Nccl::join(RankGroup& group, int rank) {
  const Api* api = Api::load();
  struct Offer {
    bool loaded = false;
    UniqueId id{};
  } mine;
  mine.loaded = api != nullptr && (rank != 0 || api->get_unique_id(&mine.id) == 0);
  const std::vector<void*> all = group.enter(rank, &mine);
  bool everywhere = true;
  for (void* offer : all) everywhere &= static_cast<const Offer*>(offer)->loaded;
  const UniqueId id = static_cast<const Offer*>(all[0])->id;
  group.leave();
  if (!everywhere) return nullptr;
  std::unique_ptr<Nccl> joined(new Nccl);
  joined->api_ = api;
  void* comm = nullptr;
  api->check(api->comm_init_rank(&comm, group.ranks(), id, rank), "ncclCommInitRank");
  joined->comm_ = comm;
  return joined;
}

Nccl::~Nccl() {
  // Abort rather than destroy: a rank may be closing because another one failed inside a collective.
  give_up();
}

void Nccl::give_up() {
  if (void* comm = comm_.exchange(nullptr)) api_->comm_abort(comm);
}

void Nccl::all_reduce(void* array, int64_t count, cudaStream_t stream) const {
  void* comm = comm_;
  if (comm == nullptr) throw Error(ErrorCode::kInternal, "ncclAllReduce: another rank failed");
  api_->check(api_->all_reduce(array, array, static_cast<size_t>(count), kBfloat16, kSum, comm, stream), "ncclAllReduce");
}

}  // namespace twelvex::cuda
