// SPDX-License-Identifier: MIT

import assert from 'node:assert/strict';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { encoderRevision, generationDefaults } from '../../../engine/model-info.ts';

async function withFiles(files: Record<string, string>, use: (path: string) => Promise<void>): Promise<void> {
  const path = await mkdtemp(join(tmpdir(), 'twelvex-model-info-'));
  try {
    for (const [name, text] of Object.entries(files)) {
      await mkdir(dirname(join(path, name)), { recursive: true });
      await writeFile(join(path, name), text);
    }
    await use(path);
  } finally {
    await rm(path, { recursive: true });
  }
}

const ENCODER = 'encoding/encoding_dsv4.py';

test('the shipped encoder tells its revision; without one the configuration does; an option overrides both', async () => {
  await withFiles({ [ENCODER]: 'EFFORT = {"low": "", "high": "..."}' }, async (path) => {
    assert.equal(await encoderRevision('auto', path, false), '0731');
    assert.equal(await encoderRevision('preview', path, true), 'preview');
  });
  await withFiles({ [ENCODER]: 'if effort == "max": pass' }, async (path) => {
    assert.equal(await encoderRevision('auto', path, true), 'preview');
  });
  await withFiles({}, async (path) => {
    assert.equal(await encoderRevision('auto', path, true), '0731');
    assert.equal(await encoderRevision('auto', path, false), 'preview');
    assert.equal(await encoderRevision('0731', path, false), '0731');
  });
});

test('sampling defaults come from generation_config.json', async () => {
  const read = async (text: string): Promise<unknown> => {
    let defaults: unknown;
    await withFiles({ 'generation_config.json': text }, async (path) => {
      defaults = await generationDefaults(path);
    });
    return defaults;
  };
  assert.deepEqual(await read('{"temperature": 0.7, "top_p": 0.95}'), { temperature: 0.7, topP: 0.95 });
  assert.deepEqual(await read('{"temperature": 0.7, "do_sample": false}'), { temperature: 0, topP: 1 });
  assert.deepEqual(await read('{"temperature": null}'), { temperature: 1, topP: 1 });
  // Requests that name neither would be refused for them.
  await assert.rejects(read('{"top_p": "much"}'), { code: 'BAD_CHECKPOINT', message: /_config\.json: expected top_p .*"much"/ });
  await assert.rejects(read('{"temperature": -5}'), { code: 'BAD_CHECKPOINT', message: /expected temperature .*found -5/ });
  await assert.rejects(read('null'), { code: 'BAD_CHECKPOINT', message: /expected an object, found null/ });
  await assert.rejects(read('{'), { code: 'BAD_CHECKPOINT', message: /generation_config\.json is not JSON/ });
  await withFiles({}, async (path) => assert.deepEqual(await generationDefaults(path), { temperature: 1, topP: 1 }));
});
