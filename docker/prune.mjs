// SPDX-License-Identifier: MIT
// Removes from node_modules what the running server never opens: prebuilt binaries of other platforms, sources, maps, docs.
// usage: node docker/prune.mjs node_modules
import { readdirSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';

const root = process.argv[2];
if (!root) throw new Error('usage: prune.mjs NODE_MODULES');
const keepBinary = `linux-${process.arch}-gnu`;
const droppable = /(\.d\.[cm]?ts|\.map|\.md|\.markdown|\.ts|\.flow)$/;
const droppableFolders = new Set(['test', 'tests', 'docs', 'examples', 'benchmarks', '.github', 'benchmark']);
let freed = 0;

/** @param {string} path */
function drop(path) {
  const info = statSync(path);
  if (info.isDirectory()) for (const name of readdirSync(path)) freed += statSync(join(path, name)).size;
  else freed += info.size;
  rmSync(path, { recursive: true });
}

/** @param {string} folder */
function walk(folder) {
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) {
      if (droppableFolders.has(entry.name)) drop(path);
      else walk(path);
    } else if (entry.name.endsWith('.node') && entry.name.includes('-') && !entry.name.includes(keepBinary)) {
      drop(path);
    } else if (droppable.test(entry.name) && !/^licen[cs]e/i.test(entry.name)) {
      drop(path);
    }
  }
}

walk(root);
console.log(`pruned ${(freed / 1e6).toFixed(1)} MB from ${root}`);
