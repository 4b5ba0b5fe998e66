// SPDX-License-Identifier: MIT
// Finds CMake, a C++20 compiler, Ninja and the CUDA toolkit, and says what to install where one is missing.

import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { SetupError } from './steps.mjs';

const minCmake = [3, 22];
const minCuda = [12, 8];

const installHints = {
  cmake: [
    ['Debian, Ubuntu', 'sudo apt-get install cmake'],
    ['Fedora', 'sudo dnf install cmake'],
    ['macOS', 'brew install cmake'],
  ],
  compiler: [
    ['Debian, Ubuntu', 'sudo apt-get install g++ make'],
    ['Fedora', 'sudo dnf install gcc-c++ make'],
    ['macOS', 'xcode-select --install'],
  ],
};

/** First output line of a program, or undefined when it is not there. */
function versionLine(command, args = ['--version']) {
  const { status, stdout } = spawnSync(command, args, { encoding: 'utf8' });
  return status === 0 ? stdout.trim() : undefined;
}

function versionOf(text, pattern) {
  const match = pattern.exec(text ?? '');
  return match === null ? undefined : [Number(match[1]), Number(match[2])];
}

function atLeast(version, least) {
  return version !== undefined && (version[0] > least[0] || (version[0] === least[0] && version[1] >= least[1]));
}

function missing(what, hints) {
  const lines = hints.map(([system, command]) => `    ${`${system}:`.padEnd(16)} ${command}`);
  return new SetupError(`${what}\n  Install it with:\n${lines.join('\n')}\n  and run the same command again.`);
}

/** @throws SetupError naming the package to install when CMake or a C++20 compiler is missing. */
export function requireToolchain() {
  const cmake = versionOf(versionLine('cmake'), /version (\d+)\.(\d+)/);
  if (!atLeast(cmake, minCmake)) {
    const found = cmake === undefined ? 'was not found' : `is version ${cmake.join('.')}`;
    throw missing(
      `twelvex builds a native addon and needs CMake ${minCmake.join('.')} or newer; cmake ${found}.`,
      installHints.cmake,
    );
  }
  const compiler = process.env.CXX ?? ['c++', 'g++', 'clang++'].find((name) => versionLine(name) !== undefined);
  if (compiler === undefined) {
    throw missing(
      'twelvex builds a native addon and needs a C++20 compiler; none of c++, g++, clang++ was found.',
      installHints.compiler,
    );
  }
  const probe = spawnSync(compiler, ['-std=c++20', '-fsyntax-only', '-x', 'c++', '-'], {
    input: '#include <concepts>\n#include <span>\ntemplate <std::integral T> T twice(T x) { return 2 * x; }\n',
    encoding: 'utf8',
  });
  if (probe.status !== 0) {
    throw missing(`${compiler} does not compile C++20 (GCC 11, Clang 14 or newer do):\n${probe.stderr}`, installHints.compiler);
  }
  if (ninja() === undefined && versionLine('make') === undefined) {
    throw missing('CMake needs make or ninja to build with; neither was found.', installHints.compiler);
  }
}

/** True when Ninja is there to build with; otherwise make is used. */
export function ninja() {
  return versionLine('ninja');
}

/**
 * Whether to build the CUDA backend: with nvcc 12.8 or newer, and a GPU in the machine or TWELVEX_CUDA=1.
 * Kernels for three architectures take minutes to compile; without a GPU nobody would run them.
 * @throws SetupError when TWELVEX_CUDA=1 asks for a build that nvcc cannot do.
 */
export function wantsCuda() {
  const asked = process.env.TWELVEX_CUDA;
  if (asked === '0') return false;
  const nvcc = versionOf(versionLine('nvcc'), /release (\d+)\.(\d+)/);
  if (asked === '1' && !atLeast(nvcc, minCuda)) {
    const found = nvcc === undefined ? 'nvcc was not found' : `nvcc is ${nvcc.join('.')}`;
    throw new SetupError(`TWELVEX_CUDA=1 needs the CUDA toolkit ${minCuda.join('.')} or newer with nvcc in PATH; ${found}.`);
  }
  return asked === '1' || (atLeast(nvcc, minCuda) && hasGpu());
}

/** True when an NVIDIA GPU is visible to this machine. */
export function hasGpu() {
  return existsSync('/dev/nvidia0') || versionLine('nvidia-smi', ['-L'])?.includes('GPU ') === true;
}
