// SPDX-License-Identifier: MIT
#include "error.h"

namespace twelvex {

const char* error_code_name(ErrorCode code) {
  switch (code) {
    case ErrorCode::kBadCheckpoint: return "BAD_CHECKPOINT";
    case ErrorCode::kBadConfig: return "BAD_CONFIG";
    case ErrorCode::kBadOptions: return "BAD_OPTIONS";
    case ErrorCode::kInvalidPlan: return "INVALID_PLAN";
    case ErrorCode::kOutOfMemory: return "OUT_OF_MEMORY";
    case ErrorCode::kDeviceLost: return "DEVICE_LOST";
    case ErrorCode::kUnsupported: return "UNSUPPORTED";
    case ErrorCode::kClosed: return "CLOSED";
    case ErrorCode::kInternal: return "INTERNAL";
  }
  return "INTERNAL";
}

}  // namespace twelvex
