// SPDX-License-Identifier: MIT
// What npm does to options that are not behind `--`.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { test } from 'node:test';
import { flagName, optionKeys } from '../../../server/config.ts';
import { projectRoot } from '../../helpers/project.ts';

/** What a script of npm's says to options given to `npm start`. */
function start(...args: string[]): string {
  const folder = mkdtempSync(join(tmpdir(), 'twelvex-'));
  const module = pathToFileURL(join(projectRoot, 'scripts/taken-options.mjs')).href;
  const check = `refuseTakenOptions(${JSON.stringify(optionKeys.map(flagName))})`;
  const script = `import { refuseTakenOptions } from '${module}';
try { ${check}; console.log('started') } catch (error) { console.log(error.message) }`;
  writeFileSync(join(folder, 'start.mjs'), script);
  writeFileSync(join(folder, 'package.json'), JSON.stringify({ scripts: { start: 'node start.mjs' } }));
  return spawnSync('npm', ['start', '--silent', ...args], { cwd: folder, encoding: 'utf8' }).stdout;
}

test("an option that npm took is named, with where it belongs; one behind -- is not npm's", () => {
  assert.match(start('--port', '9000'), /npm took --port .*\n +npm start -- --port/);
  assert.match(start('--no-thinking'), /npm took --thinking/);
  assert.match(start('--max-model-len=4096'), /npm took --max-model-len/);
  assert.equal(start('--', '--port', '9000').trim(), 'started');
});
