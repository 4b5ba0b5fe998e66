// SPDX-License-Identifier: MIT
// Native errors as JavaScript errors with a `code`.
#pragma once

#include <exception>
#include <napi.h>

#include "runtime/error.h"

namespace twelvex {

/// Any exception of native code as a coded Error: bad_alloc is kOutOfMemory, what is not ours is kInternal.
Error to_error(std::exception_ptr exception);

/// A JavaScript Error with the message and `code`, e.g. "INVALID_PLAN".
Napi::Error error_value(Napi::Env env, const Error& error);

}  // namespace twelvex
