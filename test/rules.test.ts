// SPDX-License-Identifier: MIT
// The rules that keep the layers apart and the pieces small. Function lengths of TypeScript are eslint's part.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { dirname, join, normalize } from 'node:path';
import { cppFunctions } from './helpers/cpp-functions.ts';
import { projectFiles, readProject } from './helpers/project.ts';

const typescript = ['server', 'engine', 'test', 'bench', 'scripts'].flatMap((folder) => projectFiles(folder, ['.ts', '.mjs']));
const cpp = ['native', 'test/native'].flatMap((folder) => projectFiles(folder, ['.h', '.cc', '.cu', '.cuh']));
const maxLine = 130;

function importsOf(file: string): string[] {
  const pattern = /(?:from\s+|import\s*\(\s*|import\s+)['"]([^'"]+)['"]/g;
  return [...readProject(file).matchAll(pattern)].map((match) => {
    const target = match[1] ?? '';
    return target.startsWith('.') ? normalize(join(dirname(file), target)) : target;
  });
}

function includesOf(file: string): string[] {
  return [...readProject(file).matchAll(/^\s*#\s*include\s+[<"]([^>"]+)[>"]/gm)].map((match) => match[1] ?? '');
}

/** Fails with one line per violation. */
function expectNone(violations: string[]): void {
  assert.deepEqual(violations, [], `\n${violations.join('\n')}\n`);
}

function offending(files: string[], prefix: string, forbidden: (target: string) => boolean): string[] {
  return files
    .filter((file) => file.startsWith(prefix))
    .flatMap((file) =>
      importsOf(file)
        .filter(forbidden)
        .map((target) => `${file} imports ${target}`),
    );
}

test('the server imports the engine through engine/index.ts only', () => {
  expectNone(offending(typescript, 'server/', (target) => target.startsWith('engine/') && target !== 'engine/index.ts'));
});

test('the engine imports no HTTP framework, no schemas and nothing of the server', () => {
  expectNone(
    offending(typescript, 'engine/', (target) => /^(fastify|zod|@fastify\/.*|server\/.*|bench\/.*|test\/.*)$/.test(target)),
  );
});

test('the scheduler and the cache keep no clock and do no input or output', () => {
  const pure = typescript.filter((file) => /^engine\/(scheduler|cache)\//.test(file));
  const impure = /\b(Date\.now|performance\.now|setTimeout|setInterval|Math\.random)\b|from 'node:(fs|net|http)/;
  expectNone(
    pure.filter((file) => impure.test(readProject(file))).map((file) => `${file} uses ${impure.exec(readProject(file))?.[0]}`),
  );
});

test('server/config.ts is the only reader of the environment', () => {
  const readers = typescript.filter((file) => /^(server|engine)\//.test(file) && readProject(file).includes('process.env'));
  assert.deepEqual(readers, ['server/config.ts']);
});

test('server/main.ts holds the only process.exit', () => {
  expectNone(
    typescript.filter(
      (file) => /^(server|engine)\//.test(file) && file !== 'server/main.ts' && /process\.exit\(/.test(readProject(file)),
    ),
  );
});

test('engine/native.ts is the only file that loads the addon', () => {
  expectNone(
    typescript.filter(
      (file) => /^(server|engine)\//.test(file) && file !== 'engine/native.ts' && /twelvex\.node/.test(readProject(file)),
    ),
  );
});

test('napi.h is included in native/addon only', () => {
  const users = cpp.filter((file) => includesOf(file).some((target) => /^(napi|node_api|js_native_api)\b/.test(target)));
  expectNone(users.filter((file) => !file.startsWith('native/addon/')));
});

test('native layers include downwards only', () => {
  const forbidden: [RegExp, RegExp][] = [
    [/^native\/runtime\//, /^(addon|cpu|cuda)\/|(^|\/)(cuda|nccl)[^/]*\.h$/],
    [/^native\/cpu\//, /^(addon|cuda)\//],
    [/^native\/cuda\//, /^(addon|cpu)\//],
  ];
  const violations = forbidden.flatMap(([files, targets]) =>
    cpp
      .filter((file) => files.test(file))
      .flatMap((file) =>
        includesOf(file)
          .filter((target) => targets.test(target))
          .map((target) => `${file} includes ${target}`),
      ),
  );
  expectNone(violations);
});

test('native code throws; it never exits, aborts or prints', () => {
  const pattern = /\b(std::)?(abort|exit|_Exit|quick_exit)\s*\(|\bstd::c(out|err)\b|\b(f?printf|puts)\s*\(|\bassert\s*\(/;
  const product = cpp.filter((file) => file.startsWith('native/'));
  const violations = product.flatMap((file) =>
    readProject(file)
      .split('\n')
      .map((line, index) => ({ line: line.replace(/\/\/.*|"(?:\\.|[^"\\])*"/g, ''), index }))
      .filter(({ line }) => pattern.test(line))
      .map(({ line, index }) => `${file}:${index + 1} ${line.trim()}`),
  );
  expectNone(violations);
});

test('native code keeps to what GCC 11 has', () => {
  expectNone(
    cpp.filter((file) => readProject(file).includes('__builtin_shufflevector(')).map((file) => `${file}: GCC 12 has it first`),
  );
});

test('files keep to their size', () => {
  const limit = (file: string): number => (/\.cuh?$/.test(file) ? 600 : /\.(h|cc)$/.test(file) ? 500 : 450);
  const lines = (file: string): number => readProject(file).trimEnd().split('\n').length;
  expectNone(
    [...typescript, ...cpp]
      .filter((file) => lines(file) > limit(file))
      .map((file) => `${file} has ${lines(file)} lines (limit ${limit(file)})`),
  );
});

test('C++ functions keep to their size', () => {
  const violations = cpp
    .filter((file) => file.startsWith('native/'))
    .flatMap((file) =>
      cppFunctions(readProject(file))
        .filter((found) => found.lines > (found.device ? 250 : 60))
        .map((found) => `${file}:${found.firstLine} ${found.name} has ${found.lines} lines`),
    );
  expectNone(violations);
});

test('lines keep to 130 characters', () => {
  const violations = [...typescript, ...cpp].flatMap((file) =>
    readProject(file)
      .split('\n')
      .map((line, index) => ({ line, index }))
      .filter(({ line }) => [...line].length > maxLine)
      .map(({ index }) => `${file}:${index + 1}`),
  );
  expectNone(violations);
});

test('every source file names its licence', () => {
  const named = (file: string): boolean =>
    readProject(file)
      .split('\n', 2)
      .some((line) => line.includes('SPDX-License-Identifier: MIT'));
  expectNone([...typescript, ...cpp].filter((file) => !named(file)));
});

test('no file leaves work for later in a comment', () => {
  const marker = new RegExp(`\\b(${['TO', 'FIX', 'XX'].map((start, index) => start + ['DO', 'ME', 'X'][index]).join('|')})\\b`);
  expectNone([...typescript, ...cpp].filter((file) => marker.test(readProject(file))));
});

test('TypeScript and JavaScript files are named in kebab-case, C++ files in snake_case', () => {
  const base = (file: string): string => file.slice(file.lastIndexOf('/') + 1);
  const kebab = /^[a-z0-9]+(-[a-z0-9]+)*(\.[a-z]+)*\.(ts|mjs)$/;
  const snake = /^[a-z0-9]+(_[a-z0-9]+)*(\.[a-z]+)*\.(h|cc|cu|cuh)$/;
  expectNone([...typescript.filter((file) => !kebab.test(base(file))), ...cpp.filter((file) => !snake.test(base(file)))]);
});
