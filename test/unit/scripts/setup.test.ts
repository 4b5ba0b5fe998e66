// SPDX-License-Identifier: MIT
// What `npm start` says on a Node.js that is too old, and in a checkout that it may not write.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { chmodSync, cpSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { test } from 'node:test';
import { projectRoot } from '../../helpers/project.ts';

/** A checkout of nothing but its scripts, which whoever runs `build` may read and not write. */
function readOnlyCheckout(folders: string[]): string {
  const checkout = mkdtempSync(join(tmpdir(), 'twelvex-'));
  cpSync(join(projectRoot, 'scripts'), join(checkout, 'scripts'), { recursive: true });
  for (const folder of folders) mkdirSync(join(checkout, folder));
  for (const folder of [...folders, '.']) chmodSync(join(checkout, folder), 0o555);
  return checkout;
}

function build(checkout: string): { stderr: string; status: number | null } {
  // Root may write anywhere; so it builds as somebody else.
  const nobody = process.getuid?.() === 0 ? { uid: 65_534, gid: 65_534 } : {};
  const program = [join(checkout, 'scripts/run.mjs'), 'build'];
  return spawnSync(process.execPath, program, { ...nobody, encoding: 'utf8', timeout: 20_000 });
}

for (const [title, folders] of [
  ['that belongs to another user is named', []],
  ['that another user has built is named, not waited for', ['.cache']],
] as const) {
  test(`a checkout ${title}`, (t) => {
    const checkout = readOnlyCheckout([...folders]);
    t.after(() => {
      chmodSync(checkout, 0o755);
      rmSync(checkout, { recursive: true });
    });
    const { stderr, status } = build(checkout);
    assert.equal(status, 1);
    assert.match(stderr, /^\nThis checkout cannot be written: EACCES: permission denied.*\n.*as its owner/);
    assert.match(stderr, /node .*\/dist\/server\/main\.js\n$/);
  });
}

test('a Node.js that is too old is named, and 21, which lacks what 20.19 has', () => {
  const module = pathToFileURL(join(projectRoot, 'scripts/setup.mjs')).href;
  const said = (version: string): string => {
    const code = `import { requireNode } from '${module}';
try { requireNode('${version}') } catch (error) { console.log(error.message) }`;
    return spawnSync(process.execPath, ['--input-type=module', '-e', code], { encoding: 'utf8' }).stdout;
  };
  for (const version of ['18.20.4', '20.18.3', '21.7.3']) assert.match(said(version), new RegExp(`needs .*; this is ${version}`));
  for (const version of ['20.19.0', '22.0.0', '24.21.0']) assert.equal(said(version), '');
});
