// SPDX-License-Identifier: MIT
// Stands in for the CUDA backend in builds without nvcc.
#include "runtime/backend.h"

#include "runtime/error.h"

namespace twelvex {

std::unique_ptr<Ops> make_cuda_backend(const BackendOptions&) {
  throw Error(
      ErrorCode::kUnsupported,
      "this build has no CUDA backend: run TWELVEX_CUDA=1 npm run build with nvcc 12.8 or newer in PATH, or use --device cpu");
}

}  // namespace twelvex
