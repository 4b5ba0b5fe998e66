// SPDX-License-Identifier: MIT
// Compiled with this instruction set's flags (CMakeLists.txt); everything inside has internal linkage.
#define TWELVEX_WIDTH 8
#include "kernels_impl.h"

namespace twelvex::cpu {
constinit const Kernels kAvx2Kernels = make_table("avx2");
}  // namespace twelvex::cpu
