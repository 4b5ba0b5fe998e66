// SPDX-License-Identifier: MIT

import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { lstatSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import type { TestContext } from 'node:test';
import { HubError, resolveModel } from '../../../server/hub.ts';
import type { HubProgress } from '../../../server/hub.ts';
import { COMMIT, startLoopbackHub } from '../../helpers/loopback-hub.ts';
import type { HubFaults } from '../../helpers/loopback-hub.ts';

const NAME = 'org/model';
const shard = (bytes: number): Buffer => randomBytes(bytes);

function repository(): Record<string, Buffer> {
  return {
    'config.json': Buffer.from('{"model_type":"deepseek_v4"}'),
    'tokenizer.json': Buffer.from('{}'),
    'model.safetensors.index.json': Buffer.from(
      JSON.stringify({ weight_map: { a: 'model-1.safetensors', b: 'model-2.safetensors' } }),
    ),
    'model-1.safetensors': shard(300_000),
    'model-2.safetensors': shard(200_000),
    'README.md': Buffer.from('not needed'),
    'assets/picture.png': Buffer.from('not needed'),
  };
}

async function setUp(t: TestContext, files: Record<string, Buffer>, faults: HubFaults = {}) {
  const hub = await startLoopbackHub(NAME, files, faults);
  const cacheDir = mkdtempSync(join(tmpdir(), 'twelvex-hub-'));
  t.after(async () => {
    await hub.close();
    rmSync(cacheDir, { recursive: true });
  });
  return { hub, cacheDir, options: { cacheDir, endpoint: hub.endpoint, concurrency: 2 } };
}

test('a directory that exists is used as it is', async (t) => {
  const { hub, options } = await setUp(t, repository());
  assert.equal(await resolveModel(options.cacheDir, options), options.cacheDir);
  assert.equal(hub.requests.length, 0);
});

test('a name that is neither a directory nor org/name is refused with the expected form', async (t) => {
  const { options } = await setUp(t, repository());
  await assert.rejects(resolveModel('./no/such/dir', options), /no directory .*org\/name\[@revision\]/);
});

test('a repository is downloaded in the cache layout of the hub clients, without files nobody needs', async (t) => {
  const files = repository();
  const { hub, cacheDir, options } = await setUp(t, files);
  const seen: HubProgress[] = [];
  const folder = await resolveModel(NAME, { ...options, onProgress: (progress) => seen.push(progress) });
  assert.equal(folder, join(cacheDir, 'models--org--model', 'snapshots', COMMIT));
  for (const name of Object.keys(files).filter((path) => !path.includes('README') && !path.includes('picture'))) {
    assert.deepEqual(readFileSync(join(folder, name)), files[name], name);
    assert.ok(lstatSync(join(folder, name)).isSymbolicLink());
  }
  assert.deepEqual(readdirSync(folder).includes('README.md'), false);
  assert.equal(readFileSync(join(cacheDir, 'models--org--model', 'refs', 'main'), 'utf8'), COMMIT);
  const last = seen.at(-1)!;
  assert.deepEqual([last.doneBytes, last.doneFiles], [last.totalBytes, last.totalFiles]);
  const before = hub.requests.length;
  assert.equal(await resolveModel(NAME, options), folder);
  assert.equal(hub.requests.length, before, 'a complete snapshot needs no network');
});

test('cut connections are resumed from the last byte', async (t) => {
  const files = repository();
  const { hub, options } = await setUp(t, files, { cutAfterBytes: 120_000 });
  const folder = await resolveModel(NAME, options);
  assert.deepEqual(readFileSync(join(folder, 'model-1.safetensors')), files['model-1.safetensors']);
  const ranges = hub.requests.filter((request) => request.path.endsWith('model-1.safetensors')).map((request) => request.range);
  assert.equal(ranges[0], undefined);
  assert.ok(ranges.length >= 3 && ranges.slice(1).every((range) => /^bytes=[1-9]\d*-$/.test(range ?? '')), String(ranges));
});

test('a download interrupted in an earlier run continues, also when the server ignores ranges', async (t) => {
  for (const ignoreRanges of [false, true]) {
    const files = repository();
    const { cacheDir, options } = await setUp(t, files, { cutAfterBytes: ignoreRanges ? 1e9 : 150_000, ignoreRanges });
    const stop = new AbortController();
    const first = resolveModel(NAME, {
      ...options,
      signal: stop.signal,
      onProgress: ({ doneBytes }) => doneBytes > 100_000 && stop.abort(),
    });
    await assert.rejects(first);
    const blobs = readdirSync(join(cacheDir, 'models--org--model', 'blobs'));
    assert.ok(
      blobs.some((name) => name.endsWith('.incomplete')),
      String(blobs),
    );
    const folder = await resolveModel(NAME, options);
    assert.deepEqual(readFileSync(join(folder, 'model-1.safetensors')), files['model-1.safetensors']);
  }
});

test('a file with the wrong checksum is removed and named', async (t) => {
  const files = repository();
  const wrong = shard(300_000);
  const { cacheDir, options } = await setUp(t, files, { corrupt: { 'model-1.safetensors': wrong } });
  await assert.rejects(resolveModel(NAME, options), (error: Error) => {
    assert.ok(error instanceof HubError);
    return /model-1\.safetensors: checksum .* the hub says .* run again/.test(error.message);
  });
  const left = readdirSync(join(cacheDir, 'models--org--model', 'blobs'));
  assert.equal(left.filter((name) => name.endsWith('.incomplete')).length, 0);
});

test('a token is sent, and a refusal says which variable to set', async (t) => {
  const { hub, options } = await setUp(t, repository(), { token: 'secret' });
  await assert.rejects(resolveModel(NAME, options), /\(401\); set HF_TOKEN/);
  await resolveModel(NAME, { ...options, token: 'secret' });
  assert.equal(hub.requests.at(-1)?.authorization, 'Bearer secret');
});

test('an unknown repository or revision names both', async (t) => {
  const { options } = await setUp(t, repository());
  await assert.rejects(resolveModel('org/model@nowhere', options), /no repository org\/model with revision nowhere/);
});

test('an unreachable hub says how to go on without it', async (t) => {
  const { hub, options } = await setUp(t, repository());
  await hub.close();
  await assert.rejects(resolveModel(NAME, options), /cannot reach .*ECONNREFUSED.*local directory.*HF_ENDPOINT/);
});

test('files are downloaded side by side, no more than asked for', async (t) => {
  const { hub, options } = await setUp(t, repository(), { holdMs: 60 });
  await resolveModel(NAME, options);
  assert.equal(hub.peakDownloads, 2);
});

test('too little space is told before anything is downloaded', async (t) => {
  const { hub, options } = await setUp(t, repository(), { claimSizes: { 'model-1.safetensors': 1e17 } });
  await assert.rejects(resolveModel(NAME, options), /needs 100000000\.00 GB more .* free/);
  assert.equal(hub.requests.filter((request) => request.path.includes('/resolve/')).length, 0);
});

test('a disk that fills up during the download is named, and what is there stays', async (t) => {
  const files = repository();
  const { hub, cacheDir, options } = await setUp(t, files);
  // /dev/full answers every write with ENOSPC.
  const tree = (await (await fetch(`${hub.endpoint}/api/models/${NAME}/tree/${COMMIT}`)).json()) as {
    path: string;
    lfs?: { oid: string };
  }[];
  const blobs = join(cacheDir, 'models--org--model', 'blobs');
  mkdirSync(blobs, { recursive: true });
  const partial = join(blobs, `${tree.find((entry) => entry.path === 'model-1.safetensors')!.lfs!.oid}.incomplete`);
  symlinkSync('/dev/full', partial);
  await assert.rejects(resolveModel(NAME, options), /disk of .* is full; free some space and run again/);
  rmSync(partial);
  const folder = await resolveModel(NAME, options);
  assert.deepEqual(readFileSync(join(folder, 'model-1.safetensors')), files['model-1.safetensors']);
});

test('a cached snapshot with a missing shard is completed', async (t) => {
  const { options } = await setUp(t, repository());
  const folder = await resolveModel(NAME, options);
  rmSync(join(folder, 'model-2.safetensors'));
  writeFileSync(join(folder, 'note.txt'), 'left alone');
  await resolveModel(NAME, options);
  assert.ok(lstatSync(join(folder, 'model-2.safetensors')).isSymbolicLink());
});
