// SPDX-License-Identifier: MIT
// Brings a checkout up to date: packages, native addon, TypeScript. Each does only what changed.

import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { run, SetupError, step } from './steps.mjs';
import { ninja, requireToolchain, unusedGpu, wantsCuda } from './toolchain.mjs';

export const root = fileURLToPath(new URL('..', import.meta.url));
export const nativeBuild = join(root, 'native/build');
const at = (...parts) => join(root, ...parts);
export const bin = (name) => at('node_modules/.bin', name);

/**
 * Runs `work` while no other set-up of this checkout does; waits for one that is under way.
 * @throws SetupError when the checkout cannot be written.
 */
export async function exclusively(work) {
  const lock = at('.cache/setup.lock');
  for (let waited = false; !tryLock(lock); waited = true) {
    if (!waited) console.log('• Waiting for another build of this checkout (.cache/setup.lock names its process)');
    await sleep(500);
  }
  try {
    return await work();
  } finally {
    rmSync(lock, { force: true });
  }
}

function tryLock(file) {
  try {
    mkdirSync(at('.cache'), { recursive: true });
    writeFileSync(file, String(process.pid), { flag: 'wx' });
    return true;
  } catch (error) {
    if (error.code !== 'EEXIST') {
      throw new SetupError(
        `This checkout cannot be written: ${error.message}\n` +
          '  npm keeps what it builds in it. Run the same command as its owner, or serve what was built before with\n' +
          `    node ${at('dist/server/main.js')}`,
      );
    }
    if (!holderAlive(file)) rmSync(file, { force: true });
    return false;
  }
}

function holderAlive(file) {
  try {
    const pid = Number(readFileSync(file, 'utf8'));
    // The file is empty for a moment while its owner writes it.
    if (pid === 0) return Date.now() - statSync(file).mtimeMs < 5000;
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error.code === 'EPERM';
  }
}

/** Installs from the lockfile unless every package of it is in place already. */
export async function ensurePackages() {
  if (!packagesStale()) return;
  await step('Installing packages (npm ci)', (show) =>
    run('npm', ['ci', '--include=dev', '--no-audit', '--no-fund'], { cwd: root, show }),
  );
}

function packagesStale() {
  const installed = at('node_modules/.package-lock.json');
  if (!existsSync(installed)) return true;
  const wanted = JSON.parse(readFileSync(at('package-lock.json'), 'utf8')).packages;
  const present = JSON.parse(readFileSync(installed, 'utf8')).packages;
  return Object.entries(wanted).some(
    ([path, entry]) => path !== '' && entry.optional !== true && present[path]?.version !== entry.version,
  );
}

/**
 * Builds the addon, or with target 'all' the native tests too.
 * @throws SetupError with the compiler's output, or naming the package to install.
 */
export async function ensureNative({ target = 'twelvex', cuda = wantsCuda() } = {}) {
  if (configurationStale(cuda)) {
    requireToolchain();
    const unused = cuda ? undefined : unusedGpu();
    if (unused !== undefined) console.log(`! ${unused}`);
    await step(`Configuring the native build (CUDA ${cuda ? 'on' : 'off'})`, (show) => configure(cuda, show));
  }
  const jobs = String(availableParallelism());
  await step(`Building the native ${target === 'all' ? 'addon and tests' : 'addon'}`, (show) =>
    run('cmake', ['--build', nativeBuild, '--config', 'Release', '--target', target, '--parallel', jobs], { cwd: root, show }),
  );
}

const configurationFile = join(nativeBuild, '.configuration');

function configurationKey(cuda) {
  const generator = ninja() === undefined ? 'make' : 'ninja';
  const { CXX: compiler = '', TWELVEX_CUDA_ARCHS: archs = '' } = process.env;
  return JSON.stringify({ generator, cuda, archs, node: process.versions.node, compiler, root });
}

function configurationStale(cuda) {
  if (!existsSync(configurationFile)) return true;
  return readFileSync(configurationFile, 'utf8') !== configurationKey(cuda);
}

function sameTools(cuda) {
  if (!existsSync(configurationFile)) return false;
  const tools = (text) => {
    const { generator, compiler, root: folder } = JSON.parse(text);
    return JSON.stringify([generator, compiler, folder]);
  };
  return tools(readFileSync(configurationFile, 'utf8')) === tools(configurationKey(cuda));
}

async function configure(cuda, show) {
  // CMake cannot change generator or compiler of a folder; anything else it takes in place.
  if (!sameTools(cuda)) rmSync(nativeBuild, { recursive: true, force: true });
  const generator = ninja() === undefined ? 'Unix Makefiles' : 'Ninja';
  const tests = existsSync(at('test/native/CMakeLists.txt')) ? 'ON' : 'OFF';
  const args = ['configure', '-d', 'native', '-O', 'native/build', '-G', generator];
  const options = [`--CDTWELVEX_CUDA=${cuda ? 'ON' : 'OFF'}`, `--CDTWELVEX_TESTS=${tests}`];
  const archs = process.env.TWELVEX_CUDA_ARCHS;
  if (archs !== undefined) options.push(`--CDTWELVEX_CUDA_ARCHS=${archs}`);
  await run(bin('cmake-js'), [...args, ...options], { cwd: root, show });
  writeFileSync(configurationFile, configurationKey(cuda));
}

const typescriptFolders = ['server', 'engine', 'test', 'bench', 'scripts'];

/**
 * Compiles TypeScript to dist/ unless no source changed, and removes what belongs to deleted sources.
 * @throws SetupError with the type errors.
 */
export async function ensureTypescript() {
  const stamp = at('dist/.stamp');
  const sources = typescriptFolders.flatMap((folder) => filesUnder(folder, '.ts'));
  const key = fingerprint([...sources, 'tsconfig.json', 'package-lock.json']);
  if (existsSync(stamp) && readFileSync(stamp, 'utf8') === key) return;
  await step('Compiling TypeScript', (show) => run(bin('tsc'), ['-p', '.'], { cwd: root, show }));
  const known = new Set(sources.map((source) => join('dist', source.replace(/\.ts$/, '.js'))));
  for (const output of filesUnder('dist', '.js').filter((file) => !known.has(file))) rmSync(at(output));
  writeFileSync(stamp, key);
}

function fingerprint(files) {
  const hash = createHash('sha256');
  for (const file of files) {
    const { size, mtimeMs } = statSync(at(file));
    hash.update(`${file}:${size}:${mtimeMs};`);
  }
  return hash.digest('hex');
}

/** Paths relative to the project root of files below `folder` that end in `ending`, sorted. */
export function filesUnder(folder, ending) {
  if (!existsSync(at(folder))) return [];
  return readdirSync(at(folder), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith(ending))
    .map((entry) => join(entry.parentPath ?? entry.path, entry.name).slice(root.length))
    .sort();
}

/** @throws SetupError when this Node.js is too old to run the project; 21 lacks what 20.19 was given later. */
export function requireNode(version = process.versions.node) {
  const [major, minor] = version.split('.').map(Number);
  if (major >= 22 || (major === 20 && minor >= 19)) return;
  throw new SetupError(`twelvex needs Node.js 20.19 or newer, other than 21; this is ${version}. See https://nodejs.org`);
}
