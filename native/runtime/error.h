// SPDX-License-Identifier: MIT
// The one exception type of native code. The addon turns it into a JavaScript Error with a `code`.
#pragma once

#include <stdexcept>
#include <string>

namespace twelvex {

enum class ErrorCode {
  kBadCheckpoint,  // a file of the checkpoint is missing, malformed or does not fit its configuration
  kBadConfig,      // config.json cannot be understood
  kBadOptions,     // load options contradict each other or the checkpoint
  kInvalidPlan,    // a step plan refers to rows, blocks, slots or tokens that do not exist
  kOutOfMemory,    // host or device memory is exhausted
  kDeviceLost,     // a device stopped answering; the model is unusable afterwards
  kUnsupported,    // this build or this device cannot do what was asked
  kClosed,         // the model was closed
  kInternal,       // a broken invariant of ours
};

/// Stable upper-case spelling, e.g. "BAD_CHECKPOINT".
const char* error_code_name(ErrorCode code);

/// `message` names what was expected, what came and where (file, tensor, row, device).
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ErrorCode code() const { return code_; }

 private:
  ErrorCode code_;
};

}  // namespace twelvex
