// SPDX-License-Identifier: MIT
#include "common/check.h"

#include "runtime/error.h"

namespace twelvex::cuda {

namespace {

ErrorCode code_of(cudaError_t status) {
  switch (status) {
    case cudaErrorMemoryAllocation:
      return ErrorCode::kOutOfMemory;
    case cudaErrorInsufficientDriver:
    case cudaErrorNoDevice:
    case cudaErrorInvalidDevice:
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorSystemNotReady:
    case cudaErrorStubLibrary:
      return ErrorCode::kUnsupported;
    // Sticky: the context answers every later call with the same error.
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchTimeout:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorLaunchFailure:
    case cudaErrorAssert:
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorDevicesUnavailable:
    case cudaErrorContained:
      return ErrorCode::kDeviceLost;
    default:
      return ErrorCode::kInternal;
  }
}

}  // namespace

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  int device = -1;
  cudaGetDevice(&device);
  throw Error(code_of(status), std::string(what) + " failed on CUDA device " + std::to_string(device) + ": " +
                                   cudaGetErrorName(status) + " (" + cudaGetErrorString(status) + ")");
}

void* device_alloc(size_t bytes, const char* purpose, bool zero) {
  void* pointer = nullptr;
  const cudaError_t status = cudaMalloc(&pointer, bytes ? bytes : 256);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    size_t free_bytes = 0, total_bytes = 0;
    cudaMemGetInfo(&free_bytes, &total_bytes);
    int device = -1;
    cudaGetDevice(&device);
    throw Error(ErrorCode::kOutOfMemory, std::string(purpose) + " needs " + std::to_string(bytes >> 20) +
                                             " MiB on CUDA device " + std::to_string(device) + ", " +
                                             std::to_string(free_bytes >> 20) + " of " + std::to_string(total_bytes >> 20) +
                                             " MiB are free");
  }
  check(status, purpose);
  if (zero) {
    check(cudaMemset(pointer, 0, bytes), purpose);
    check(cudaStreamSynchronize(cudaStreamLegacy), purpose);  // no queue of the backend waits for the stream that it runs on
  }
  return pointer;
}

void fail_check(const char* where, const char* expression, long long a, long long b) {
  std::string file = where;
  const size_t slash = file.rfind('/');
  if (slash != std::string::npos) file = file.substr(slash + 1);
  throw Error(ErrorCode::kInternal,
              file + ": needs " + expression + ", got " + std::to_string(a) + " and " + std::to_string(b));
}

}  // namespace twelvex::cuda
