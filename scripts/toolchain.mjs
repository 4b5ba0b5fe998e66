// SPDX-License-Identifier: MIT
// Finds CMake, a C++20 compiler, Ninja and the CUDA toolkit, and says what to install where one is missing.

import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { SetupError } from './steps.mjs';

const minCmake = [3, 22];
const minCuda = [12, 8];
const nvccRelease = /release (\d+)\.(\d+)/;

/** What installs each tool, by system. */
const packages = {
  cmake: { debian: 'cmake', fedora: 'cmake', macos: 'brew install cmake' },
  compiler: { debian: 'g++', fedora: 'gcc-c++', macos: 'xcode-select --install' },
  make: { debian: 'make', fedora: 'make', macos: 'xcode-select --install' },
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

/** @throws SetupError naming all that is missing, and what to install, when CMake or a C++20 compiler is missing or too old. */
export function requireToolchain() {
  const problems = { cmake: cmakeProblem(), compiler: compilerProblem(), make: makeProblem() };
  const tools = Object.keys(problems).filter((tool) => problems[tool] !== undefined);
  if (tools.length === 0) return;
  const of = (system) => [...new Set(tools.map((tool) => packages[tool][system]))];
  const commands = [
    `    Debian, Ubuntu:  sudo apt-get install ${of('debian').join(' ')}`,
    `    Fedora:          sudo dnf install ${of('fedora').join(' ')}`,
    `    macOS:           ${of('macos').join(' && ')}`,
  ];
  const what = tools.map((tool) => problems[tool]).join('\n');
  throw new SetupError(`${what}\n  Install with:\n${commands.join('\n')}\n  and run the same command again.`);
}

function cmakeProblem() {
  const version = versionOf(versionLine('cmake'), /version (\d+)\.(\d+)/);
  if (atLeast(version, minCmake)) return undefined;
  const found = version === undefined ? 'was not found' : `is version ${version.join('.')}`;
  return `twelvex builds a native addon and needs CMake ${minCmake.join('.')} or newer; cmake ${found}.`;
}

/** What of C++20 and its library the sources use and GCC 10 lacks. */
const probe = `
#include <atomic>
#include <bit>
#include <charconv>
#include <concepts>
template <std::integral T> T twice(T x) { return 2 * x; }
float halved(unsigned bits) { return std::bit_cast<float>(bits) / 2; }
bool parsed(const char* begin, const char* end, double& x) { return std::from_chars(begin, end, x).ec == std::errc(); }
void wake(std::atomic<unsigned>& turn) { turn.notify_all(); }
`;

function compilerProblem() {
  // As CMake reads it: a program and its arguments, such as "ccache g++".
  const named = process.env.CXX?.trim().split(/\s+/);
  const [compiler, ...args] = named ?? ['c++', 'g++', 'clang++'].filter((name) => versionLine(name) !== undefined).slice(0, 1);
  if (compiler === undefined) {
    return 'twelvex builds a native addon and needs a C++20 compiler; none of c++, g++, clang++ was found.';
  }
  const { error, status, stderr } = spawnSync(compiler, [...args, '-std=c++20', '-fsyntax-only', '-x', 'c++', '-'], {
    input: probe,
    encoding: 'utf8',
  });
  if (status === null && error !== undefined) return `CXX names ${compiler}, which cannot be run (${error.code}).`;
  if (status === 0) return undefined;
  const said = stderr.trimEnd().split('\n').slice(0, 3).join('\n');
  return `${compiler} does not compile the C++20 that twelvex is written in (GCC 11, Clang 14 or newer do):\n${said}`;
}

function makeProblem() {
  if (ninja() !== undefined || versionLine('make') !== undefined) return undefined;
  return 'CMake needs make or ninja to build with; neither was found.';
}

/** True when Ninja is there to build with; otherwise make is used. */
export function ninja() {
  return versionLine('ninja');
}

/**
 * Whether to build the CUDA backend: with nvcc 12.8 or newer, and a GPU in the machine or TWELVEX_CUDA=1.
 * Kernels for three architectures take minutes to compile; without a GPU nobody would run them.
 * @throws SetupError when TWELVEX_CUDA=1 asks for a build that nvcc cannot do, or is neither 0 nor 1.
 */
export function wantsCuda() {
  const asked = process.env.TWELVEX_CUDA ?? '';
  if (!['', '0', '1'].includes(asked))
    throw new SetupError(`TWELVEX_CUDA is 1 (with the CUDA backend) or 0 (without), not ${asked}.`);
  if (asked === '0') return false;
  const nvcc = versionOf(versionLine('nvcc'), nvccRelease);
  if (asked === '1' && !atLeast(nvcc, minCuda)) {
    const found = nvcc === undefined ? 'nvcc was not found' : `nvcc is ${nvcc.join('.')}`;
    throw new SetupError(`TWELVEX_CUDA=1 needs the CUDA toolkit ${minCuda.join('.')} or newer with nvcc in PATH; ${found}.`);
  }
  return asked === '1' || (atLeast(nvcc, minCuda) && hasGpu());
}

/** Why a machine with a GPU gets a build that cannot use it; undefined where nothing is to be said. */
export function unusedGpu() {
  if (process.env.TWELVEX_CUDA === '0' || wantsCuda() || !hasGpu()) return undefined;
  const nvcc = versionOf(versionLine('nvcc'), nvccRelease);
  const found = nvcc === undefined ? 'nvcc is not in PATH (look in /usr/local/cuda/bin)' : `nvcc is ${nvcc.join('.')}`;
  return `This machine has a GPU, but ${found}: this build leaves it unused. CUDA ${minCuda.join('.')} or newer is needed.`;
}

/** True when an NVIDIA GPU is visible to this machine. */
export function hasGpu() {
  return existsSync('/dev/nvidia0') || versionLine('nvidia-smi', ['-L'])?.includes('GPU ') === true;
}
