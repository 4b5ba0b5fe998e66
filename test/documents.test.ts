// SPDX-License-Identifier: MIT
// Documents: what they point at is there, and what has to be listed is.

import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { test } from 'node:test';
import { projectFiles, projectRoot, readProject } from './helpers/project.ts';

const folders = ['server', 'engine', 'native', 'test', 'bench', 'scripts', 'docker', 'models'];
const documents = [
  ...['README.md', 'ARCHITECTURE.md', 'CONTRIBUTING.md', 'CHANGELOG.md'],
  ...folders.flatMap((folder) => projectFiles(folder, ['.md'])),
];

/** The anchors of a document's headings, as GitHub names them. */
function anchorsOf(document: string): string[] {
  return [...readProject(document).matchAll(/^#+ (.*)$/gm)].map(([, heading = '']) =>
    heading
      .replaceAll(/\[([^\]]*)\]\([^)]*\)/g, '$1')
      .toLowerCase()
      .replaceAll(/[^\p{L}\p{N}_\- ]/gu, '')
      .replaceAll(' ', '-'),
  );
}

test('links lead to files and headings that there are', () => {
  const dead = documents.flatMap((document) =>
    [...readProject(document).matchAll(/\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)/g)]
      .filter(([, path = '', anchor]) => {
        const target = path === '' ? document : join(dirname(document), path);
        return !existsSync(join(projectRoot, target)) || (anchor !== undefined && !anchorsOf(target).includes(anchor));
      })
      .map(([link]) => `${document} ${link}`),
  );
  assert.deepEqual(dead, []);
});

test('paths that documents name are there', () => {
  const path = new RegExp(
    `(?<![\\w/.-])(?:${folders.join('|')})/[\\w./-]+\\.(?:ts|mjs|md|sh|cc|cu|h|cuh|py|yml|yaml|json)\\b`,
    'g',
  );
  const missing = documents.flatMap((document) =>
    [...readProject(document).matchAll(path)]
      .filter(([name]) => !existsSync(join(projectRoot, name)) && !existsSync(join(projectRoot, dirname(document), name)))
      .map(([name]) => `${document} names ${name}`),
  );
  assert.deepEqual(missing, []);
});

test('bench/README.md lists every page of results, and every program', () => {
  const index = readProject('bench/README.md');
  const pages = projectFiles('bench/results', ['.md']).map((page) => `results/${basename(page)}`);
  const programs = projectFiles('bench', ['.ts'])
    .filter((file) => /^\/\/ +node dist\/bench\//m.test(readProject(file)))
    .map((file) => `node dist/${file.replace(/\.ts$/, '.js')}`);
  assert.ok(pages.length > 10 && programs.length > 5);
  assert.deepEqual(
    [...pages, ...programs].filter((name) => !index.includes(name)),
    [],
  );
});
