// SPDX-License-Identifier: MIT
// Writes the options table of README.md from the schema in server/config.ts (npm run docs).

import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { optionsTable } from '../dist/server/cli/options-text.js';

const readme = fileURLToPath(new URL('../README.md', import.meta.url));
const text = readFileSync(readme, 'utf8');
const table = `<!-- options -->\n${optionsTable()}\n<!-- /options -->`;
writeFileSync(
  readme,
  text.replace(/<!-- options -->[\s\S]*?<!-- \/options -->/, () => table),
);
