// SPDX-License-Identifier: MIT
// Tables and pictures of what bench/native/cuda_bench.cc measured, beside published figures.
//
//   node dist/bench/flash-report.js DATA_FOLDER PAGE.md
//
// DATA_FOLDER holds one file of JSON lines a run, its first line {"kind":"run","name","commit","command"}. In PAGE.md what lies
// between "<!-- tables: NAME -->" and "<!-- end -->" is written anew; the pictures go beside it as PAGE.svg and PAGE-layers.svg.

import { readFileSync, writeFileSync } from 'node:fs';
import { readRuns } from './flash-data.ts';
import { renderPictures } from './flash-pictures.ts';
import { TABLES } from './flash-tables.ts';

const [folder, page] = process.argv.slice(2);
if (folder === undefined || page === undefined) throw new Error('usage: flash-report DATA_FOLDER PAGE.md');

const runs = readRuns(folder);
const marked = /(<!-- tables: (\w+) -->\n)[\s\S]*?(<!-- end -->)/g;
const text = readFileSync(page, 'utf8').replace(marked, (_, begin: string, name: string, end: string) => {
  const table = TABLES[name];
  if (table === undefined) throw new Error(`${page}: no tables are called ${name}`);
  return `${begin}\n${table(runs)}\n\n${end}`;
});
writeFileSync(page, text);
const { speeds, layers } = renderPictures(runs);
const base = page.replace(/\.md$/, '');
writeFileSync(`${base}.svg`, speeds);
if (layers !== undefined) writeFileSync(`${base}-layers.svg`, layers);
