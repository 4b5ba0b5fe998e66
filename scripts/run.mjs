#!/usr/bin/env node
// SPDX-License-Identifier: MIT
// Behind every npm script. Plain Node.js without packages, because it installs them.

import { pathToFileURL } from 'node:url';
import { join } from 'node:path';
import { ensureNative, ensurePackages, ensureTypescript, exclusively, filesUnder } from './setup.mjs';
import { bin, nativeBuild, requireNode, root } from './setup.mjs';
import { run, runVisibly, SetupError, step } from './steps.mjs';
import { refuseTakenOptions } from './taken-options.mjs';
import { hasGpu, unusedGpu } from './toolchain.mjs';

const testConcurrency = 2;

const commands = {
  start,
  build,
  test,
  lint,
  docs,
  format: async (files) => formatted('--write', files),
  'test:native': async (filters) => nativeTests(filters),
  'test:gpu': gpuTests,
};

/** Builds what changed, then hands over to the command line in this same process, so that signals reach it directly. */
async function start(args) {
  await build();
  const { flagName, optionKeys } = await import('../dist/server/config.js');
  refuseTakenOptions(optionKeys.map(flagName));
  const main = join(root, 'dist/server/main.js');
  const command = args[0] === undefined || args[0].startsWith('-') ? ['serve'] : [];
  process.argv = [process.argv[0], main, ...command, ...args];
  await import(pathToFileURL(main).href);
}

async function build() {
  await exclusively(async () => {
    await ensurePackages();
    await ensureNative();
    await ensureTypescript();
  });
}

async function lint() {
  await exclusively(ensurePackages);
  return runVisibly(bin('eslint'), ['--max-warnings=0', '.'], { cwd: root });
}

/** Brings generated parts of the documents up to date. */
async function docs() {
  await build();
  await import('./options-table.mjs');
}

async function formatted(mode, files) {
  await exclusively(ensurePackages);
  return runVisibly(bin('prettier'), [mode, ...(files.length > 0 ? files : ['.'])], { cwd: root });
}

/** Every check of the project; the node tests come last, so that their summary ends the output. */
async function test(filters) {
  await exclusively(async () => {
    await ensurePackages();
    await ensureNative({ target: 'all' });
    await ensureTypescript();
  });
  const failed = [];
  await check(failed, 'Formatting (fix with: npm run format)', bin('prettier'), ['--check', '--log-level=warn', '.']);
  await check(failed, 'Linting', bin('eslint'), ['--max-warnings=0', '.']);
  await check(failed, 'Native tests', 'ctest', ctestArgs());
  if (!hasGpu())
    console.log('• GPU tests: skipped, this machine has no NVIDIA GPU (npm run test:gpu runs them where there is one)');
  if (failed.length > 0) console.log(`✗ failed before the node tests: ${failed.join('; ')}`);
  const status = await nodeTests(filters);
  return failed.length > 0 ? 1 : status;
}

/** Runs one check; a failure is shown in full and remembered, and the next check still runs. */
async function check(failed, title, command, args) {
  try {
    await step(title, (show) => run(command, args, { cwd: root, show }));
  } catch (error) {
    console.log(error.message);
    failed.push(title);
  }
}

function ctestArgs(more = []) {
  return ['--test-dir', nativeBuild, '--output-on-failure', '--no-tests=error', '-j', String(testConcurrency), ...more];
}

/** Node tests whose path contains one of the filters, or all. */
async function nodeTests(filters) {
  const files = filesUnder('dist/test', '.test.js').filter(
    (file) => filters.length === 0 || filters.some((part) => file.includes(part)),
  );
  if (files.length === 0) throw new SetupError(`no test file matches ${filters.join(', ')}`);
  console.log(`• Node tests (${files.length} files)`);
  const options = ['--enable-source-maps', '--test', `--test-concurrency=${testConcurrency}`, '--test-reporter=spec'];
  return runVisibly(process.execPath, [...options, ...files], { cwd: root });
}

async function nativeTests(filters) {
  await exclusively(async () => {
    await ensurePackages();
    await ensureNative({ target: 'all' });
  });
  const chosen = filters.length > 0 ? ['-R', filters.join('|')] : [];
  return runVisibly('ctest', ctestArgs(chosen), { cwd: root });
}

/** Kernel tests, all or those named, then the tests of the CUDA backend; on a machine with a GPU. */
async function gpuTests(names) {
  if (!hasGpu()) throw new SetupError('npm run test:gpu needs an NVIDIA GPU; this machine has none');
  const unused = unusedGpu();
  if (unused !== undefined) throw new SetupError(unused);
  const kernels = await runVisibly('bash', ['scripts/gpu-tests.sh', ...names], { cwd: root });
  if (names.length > 0) return kernels;
  await exclusively(async () => {
    await ensurePackages();
    await ensureNative({ cuda: true });
    await ensureTypescript();
  });
  const node = await nodeTests(['.gpu.test.js']);
  return kernels === 0 ? node : kernels;
}

async function main([name, ...args]) {
  requireNode();
  const command = commands[name];
  if (command === undefined) throw new SetupError(`no command ${name}; one of: ${Object.keys(commands).join(', ')}`);
  process.exitCode = (await command(args)) ?? 0;
}

main(process.argv.slice(2)).catch((error) => {
  console.error(error instanceof SetupError ? `\n${error.message}` : error);
  process.exitCode = 1;
});
