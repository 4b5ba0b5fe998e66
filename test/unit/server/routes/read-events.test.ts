// SPDX-License-Identifier: MIT

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { GenerationEvent } from '../../../../engine/index.ts';
import { readAll } from '../../../../server/routes/read-events.ts';
import type { Accepted } from '../../../../server/routes/read-events.ts';

interface Source extends Accepted {
  /** Batches it has been asked for. */
  asked: number;
  left: boolean;
}

/** Gives `batches` batches behind the first, as fast as they are asked for. */
function endless(batches = Infinity, failure?: Error): Source {
  const source: Source = {
    asked: 0,
    left: false,
    first: { done: false, value: [] },
    source: {
      next: async () => {
        if (source.asked === batches && failure !== undefined) throw failure;
        if (source.asked === batches) return { done: true, value: undefined };
        source.asked += 1;
        return { done: false, value: [] as GenerationEvent[] };
      },
      return: async () => {
        source.left = true;
        return { done: true, value: undefined };
      },
    },
  };
  return source;
}

test('a request whose events are not taken is not read on, and does not hold up the others', async () => {
  const slow = endless(5);
  const quick = endless(100);
  let release = (): void => undefined;
  const blocked = new Promise<void>((resolve) => (release = resolve));
  const reading = readAll([slow, quick], (prompt) => (prompt === 0 ? blocked : undefined));
  await sleep(20);
  assert.equal(slow.asked, 0);
  assert.equal(quick.asked, 100);
  release();
  await reading;
  assert.equal(slow.asked, 5);
});

test('the first failure ends the reading of all', async () => {
  const good = endless();
  const bad = endless(3, new Error('broken'));
  let used = 0;
  const reading = readAll([good, bad], () => {
    used += 1;
    return sleep(1);
  });
  await assert.rejects(reading, /broken/);
  const before = used;
  await sleep(20);
  assert.equal(used, before);
  assert.ok(good.left && bad.left);
});

test('a failure of the reader ends it too', async () => {
  const source = endless();
  await assert.rejects(
    readAll([source], () => {
      throw new Error('cannot write');
    }),
    /cannot write/,
  );
  assert.ok(source.left);
});
