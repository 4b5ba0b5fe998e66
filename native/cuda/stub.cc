// SPDX-License-Identifier: MIT
// Stands in for the CUDA backend in builds without nvcc.
#include "runtime/backend.h"

#include "runtime/error.h"

namespace twelvex {

std::unique_ptr<Ops> make_cuda_backend(const BackendOptions&) {
  throw Error(
      ErrorCode::kUnsupported,
      "this build has no CUDA backend: build with nvcc 12.8 or newer on the PATH and TWELVEX_CUDA=ON, or use --device cpu");
}

}  // namespace twelvex
