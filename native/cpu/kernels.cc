// SPDX-License-Identifier: MIT
#include "kernels.h"

namespace twelvex::cpu {

std::vector<const Kernels*> usable_kernels() {
  std::vector<const Kernels*> usable{&kPortableKernels};
#ifdef TWELVEX_X86_KERNELS
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) usable.push_back(&kAvx2Kernels);
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq")) {
    usable.push_back(&kAvx512Kernels);
  }
#endif
  return usable;
}

const Kernels& best_kernels() {
  static const Kernels& best = *usable_kernels().back();
  return best;
}

}  // namespace twelvex::cpu
