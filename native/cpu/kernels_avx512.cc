// SPDX-License-Identifier: MIT
// Compiled with this instruction set's flags (CMakeLists.txt); everything inside has internal linkage.
#define TWELVEX_WIDTH 16
#include "kernels_impl.h"

namespace twelvex::cpu {
constinit const Kernels kAvx512Kernels = make_table("avx512");
}  // namespace twelvex::cpu
