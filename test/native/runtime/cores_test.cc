// SPDX-License-Identifier: MIT
#include "runtime/cores.h"

#include <cmath>
#include <filesystem>
#include <thread>

#include "check.h"
#include "fixtures.h"

using namespace twelvex;
using twelvex::check::ScratchDirectory;

namespace {

void write(const ScratchDirectory& root, const std::string& folder, const std::string& name, const std::string& text) {
  std::filesystem::create_directories(root.path(folder));
  root.write(folder + "/" + name, text);
}

}  // namespace

TEST("the quota of a group is the least of its own and those above it") {
  const ScratchDirectory root;
  write(root, "a/b", "cpu.max", "max 100000\n");
  write(root, "a", "cpu.max", "250000 100000\n");
  CHECK_EQ(cpu_quota("0::/a/b\n", root.path()), 2.5);
  CHECK_EQ(cpu_quota("0::/\n", root.path()), INFINITY);
  write(root, "a/b", "cpu.max", "50000 100000\n");
  CHECK_EQ(cpu_quota("0::/a/b\n", root.path()), 0.5);
}

TEST("in a container the tree begins at its own group, whatever its path is called") {
  const ScratchDirectory root;
  write(root, ".", "cpu.max", "400000 100000\n");
  CHECK_EQ(cpu_quota("0::/\n", root.path()), 4);
  CHECK_EQ(cpu_quota("0::/docker/4711\n", root.path()), 4);
}

TEST("version 1 has quota and period in two files of the controller") {
  const ScratchDirectory root;
  const std::string groups = "9:cpuset:/x\n4:cpu,cpuacct:/x\n1:name=systemd:/\n0::/\n";
  write(root, "cpu/x", "cpu.cfs_quota_us", "-1\n");
  write(root, "cpu/x", "cpu.cfs_period_us", "100000\n");
  CHECK_EQ(cpu_quota(groups, root.path()), INFINITY);
  write(root, "cpu/x", "cpu.cfs_quota_us", "300000\n");
  CHECK_EQ(cpu_quota(groups, root.path()), 3);
}

TEST("what cannot be read or understood is no quota") {
  const ScratchDirectory root;
  CHECK_EQ(cpu_quota("", root.path()), INFINITY);
  CHECK_EQ(cpu_quota("0::/gone\n0::x\nnonsense\n1:cpu\n::\n", root.path()), INFINITY);
  write(root, ".", "cpu.max", "0 0\n");
  CHECK_EQ(cpu_quota("0::/\n", root.path()), INFINITY);
}

TEST("there is a core to use, and none that the machine has not") {
  CHECK(usable_cores() >= 1);
  CHECK(usable_cores() <= static_cast<int>(std::max(1u, std::thread::hardware_concurrency())));
}
