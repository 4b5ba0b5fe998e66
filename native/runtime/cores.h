// SPDX-License-Identifier: MIT
// How many threads this process can keep busy.
#pragma once

#include <string>

namespace twelvex {

/// The cores that the process may run on, but no more than the CPU quota of its control groups (`docker run --cpus`) pays for,
/// rounded down: one thread too many spends the time of all others, which then stand still until the next period. At least 1.
int usable_cores();

/// The quota in cores of a process whose /proc/self/cgroup says `groups`, read from the tree mounted at `root`: the least of its
/// group's and those above, in either version of control groups; infinity where none is set.
double cpu_quota(const std::string& groups, const std::string& root);

}  // namespace twelvex
