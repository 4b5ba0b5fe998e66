// SPDX-License-Identifier: MIT
// Compiled with this instruction set's flags (CMakeLists.txt); everything inside has internal linkage.
#define TWELVEX_WIDTH 4
#include "kernels_impl.h"

namespace twelvex::cpu {
constinit const Kernels kPortableKernels = make_table("portable");
}  // namespace twelvex::cpu
