// SPDX-License-Identifier: MIT
// What `npm start` says on a machine that lacks a tool.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { chmodSync, mkdtempSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { describe, test } from 'node:test';
import { projectRoot } from '../../helpers/project.ts';

const toolchain = pathToFileURL(join(projectRoot, 'scripts/toolchain.mjs')).href;

/** A folder to stand as PATH, with node and the given scripts in it. */
function pathOf(programs: Record<string, string>): string {
  const folder = mkdtempSync(join(tmpdir(), 'twelvex-'));
  symlinkSync(process.execPath, join(folder, 'node'));
  for (const [name, script] of Object.entries(programs)) {
    writeFileSync(join(folder, name), `#!/bin/sh\n${script}\n`);
    chmodSync(join(folder, name), 0o755);
  }
  return folder;
}

/** Runs a check of scripts/toolchain.mjs with only the given programs in PATH; returns what it printed. */
function check(call: string, programs: Record<string, string>, environment: Record<string, string> = {}): string {
  const code = `import * as t from '${toolchain}'; try { console.log(t.${call}) } catch (error) { console.log(error.message) }`;
  const env = { PATH: pathOf(programs), ...environment };
  return spawnSync(process.execPath, ['--input-type=module', '-e', code], { env, encoding: 'utf8' }).stdout;
}

const cmake = { cmake: 'echo "cmake version 3.25.1"' };
const compiler = { 'c++': 'exit 0', make: 'exit 0' };

describe('the tools that a build needs', () => {
  test('without CMake, its package is named for each system', () => {
    const said = check('requireToolchain()', compiler);
    assert.match(said, /needs CMake 3\.22 or newer; cmake was not found/);
    assert.match(said, /Debian, Ubuntu: +sudo apt-get install cmake/);
    assert.match(said, /Fedora: +sudo dnf install cmake/);
    assert.match(said, /macOS: +brew install cmake/);
  });

  test('with a CMake that is too old, its version is named', () => {
    assert.match(check('requireToolchain()', { ...compiler, cmake: 'echo "cmake version 3.16.0"' }), /cmake is version 3\.16/);
  });

  test('without a compiler, its package is named', () => {
    const said = check('requireToolchain()', cmake); // and without make
    assert.match(said, /needs a C\+\+20 compiler/);
    assert.match(said, /sudo apt-get install g\+\+ make\n/);
  });

  test('without any of them, all are named at once, with one command', () => {
    const said = check('requireToolchain()', {});
    assert.match(said, /cmake was not found.*\n.*C\+\+20 compiler.*\n.*make or ninja/);
    assert.match(said, /sudo apt-get install cmake g\+\+ make\n/);
    assert.match(said, /brew install cmake && xcode-select --install\n/);
  });

  const refusing = '[ "$1" = --version ] || { echo "unknown standard" >&2; exit 1; }';

  test('a compiler that cannot do C++20 is named with what it said', () => {
    const old = { ...cmake, make: 'exit 0', 'c++': refusing };
    assert.match(check('requireToolchain()', old), /c\+\+ does not compile the C\+\+20 .*\n.*unknown standard/);
  });

  test('a compiler is asked for what GCC 10 lacks', () => {
    const asked = (header: string): string => {
      const found = `case "$(/bin/cat)" in *"#include <${header}>"*) echo "no ${header}" >&2; exit 1;; esac`;
      return check('requireToolchain()', { ...cmake, make: 'exit 0', 'c++': `[ "$1" = --version ] || ${found}` });
    };
    for (const header of ['atomic', 'bit', 'charconv']) assert.match(asked(header), new RegExp(`no ${header}`));
  });

  test('CXX may hold a launcher and arguments; a program that is not there is named', () => {
    const launcher = { ...cmake, make: 'exit 0', ccache: 'exec "$@"', 'old-c++': refusing, 'new-c++': 'exit 0' };
    const said = (compiler: string): string => check('requireToolchain()', launcher, { CXX: compiler });
    assert.equal(said('ccache new-c++').trim(), 'undefined');
    assert.match(said('ccache old-c++'), /unknown standard/);
    assert.match(said('nonsuch-c++'), /CXX names nonsuch-c\+\+, which cannot be run \(ENOENT\)/);
  });

  test('with everything there, nothing is said', () => {
    assert.equal(check('requireToolchain()', { ...cmake, ...compiler }).trim(), 'undefined');
  });
});

describe('the CUDA backend', () => {
  const nvcc = (release: string): Record<string, string> => ({ nvcc: `echo "Cuda compilation tools, release ${release}, V1"` });
  const gpu = { 'nvidia-smi': 'echo "GPU 0: something"' };

  test('is built where there are nvcc 12.8 and a GPU', () => {
    assert.equal(check('wantsCuda()', { ...nvcc('12.8'), ...gpu }).trim(), 'true');
    assert.equal(check('wantsCuda()', { ...nvcc('12.4'), ...gpu }).trim(), 'false');
  });

  test('is left out or asked for with TWELVEX_CUDA', () => {
    assert.equal(check('wantsCuda()', { ...nvcc('13.0'), ...gpu }, { TWELVEX_CUDA: '0' }).trim(), 'false');
    assert.equal(check('wantsCuda()', nvcc('13.0'), { TWELVEX_CUDA: '1' }).trim(), 'true');
    assert.match(check('wantsCuda()', {}, { TWELVEX_CUDA: '1' }), /needs the CUDA toolkit 12\.8 or newer .* nvcc was not found/);
    assert.match(check('wantsCuda()', {}, { TWELVEX_CUDA: 'ON' }), /TWELVEX_CUDA is 1 .* or 0 .*, not ON/);
  });

  test('that is left out although there is a GPU is spoken of, with what is missing', () => {
    assert.match(check('unusedGpu()', gpu), /has a GPU, but nvcc is not in PATH .*CUDA 12\.8 or newer is needed/);
    assert.match(check('unusedGpu()', { ...nvcc('12.4'), ...gpu }), /has a GPU, but nvcc is 12\.4/);
    const command = [join(projectRoot, 'scripts/run.mjs'), 'test:gpu'];
    const { stderr } = spawnSync(process.execPath, command, { env: { PATH: pathOf(gpu) }, encoding: 'utf8' });
    assert.match(stderr, /has a GPU, but nvcc is not in PATH/);
    for (const said of [check('unusedGpu()', { ...nvcc('13.0'), ...gpu }), check('unusedGpu()', gpu, { TWELVEX_CUDA: '0' })])
      assert.equal(said.trim(), 'undefined');
  });
});
