// SPDX-License-Identifier: MIT
#include "cores.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <sstream>
#include <thread>

namespace twelvex {
namespace {

constexpr double kNoQuota = std::numeric_limits<double>::infinity();

std::string read_text(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

/// "200000 100000": microseconds in each period of so many. "max" and -1 are no quota.
double parse_quota(const std::string& text) {
  std::istringstream in(text);
  double quota = 0, period = 0;
  return in >> quota >> period && quota > 0 && period > 0 ? quota / period : kNoQuota;
}

/// Of one group, by version 2 or by version 1.
double group_quota(const std::string& folder) {
  const std::string unified = read_text(folder + "/cpu.max");
  if (!unified.empty()) return parse_quota(unified);
  return parse_quota(read_text(folder + "/cpu.cfs_quota_us") + " " + read_text(folder + "/cpu.cfs_period_us"));
}

}  // namespace

double cpu_quota(const std::string& groups, const std::string& root) {
  double least = kNoQuota;
  std::istringstream lines(groups);
  for (std::string line; std::getline(lines, line);) {  // number:controllers:path
    const size_t controllers = line.find(':') + 1, path = line.find(':', controllers) + 1;
    if (controllers == 0 || path == 0) continue;
    const std::string names = "," + line.substr(controllers, path - 1 - controllers) + ",";
    const bool unified = names == ",,";
    if (!unified && names.find(",cpu,") == std::string::npos) continue;
    // In a container the path is often the host's, and the tree begins at the container's own group.
    for (std::string group = line.substr(path); group.starts_with('/'); group.erase(group.rfind('/'))) {
      least = std::min(least, group_quota(root + (unified ? "" : "/cpu") + group));
    }
    least = std::min(least, group_quota(root + (unified ? "" : "/cpu")));
  }
  return least;
}

int usable_cores() {
  const double cores = std::max(1u, std::thread::hardware_concurrency());
  return std::max(1, static_cast<int>(std::min(cores, cpu_quota(read_text("/proc/self/cgroup"), "/sys/fs/cgroup"))));
}

}  // namespace twelvex
