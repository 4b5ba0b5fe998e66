// SPDX-License-Identifier: MIT

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { RequestWorker, WorkerLost, WorkerTimeout } from '../../../../engine/text/request-worker.ts';

type Query = { wait: number } | { fail: string } | { fatal: string } | { exit: number } | 'cancelled';

const newWorker = () => new RequestWorker<Query, number>(new URL('./request-worker-fixture.js', import.meta.url), 7);

test('answers go to their requests, whichever is ready first', async () => {
  const worker = newWorker();
  const order: number[] = [];
  const answers = [30, 0].map(async (wait) => order.push(await worker.request({ wait })));
  await Promise.all(answers);
  assert.deepEqual(order, [7, 37]);
  await worker.terminate();
});

test('an error concerns its request only, a fatal one ends the worker', async () => {
  const worker = newWorker();
  await assert.rejects(worker.request({ fail: 'no' }), /^Error: no$/);
  assert.equal(await worker.request({ wait: 0 }), 7);
  const other = worker.request({ wait: 60_000 });
  await Promise.all([
    assert.rejects(worker.request({ fatal: 'broken' }), WorkerLost),
    assert.rejects(other, (error) => error instanceof WorkerLost && error.message === 'broken'),
  ]);
  assert.equal(worker.alive, false);
  await assert.rejects(worker.request({ wait: 0 }), /broken/);
});

test('a worker that takes too long, or ends, is lost with all its requests', async () => {
  const slow = newWorker();
  const other = slow.request({ wait: 60_000 });
  await Promise.all([
    assert.rejects(slow.request({ wait: 60_000 }, { timeLimitMs: 20 }), WorkerTimeout),
    assert.rejects(other, /no answer within 20 ms/),
  ]);
  const ending = newWorker();
  await assert.rejects(ending.request({ exit: 1 }), /has ended/);
});

test('aborting rejects at once with the reason and tells the worker', async () => {
  const worker = newWorker();
  const controller = new AbortController();
  const running = worker.request({ wait: 60_000 }, { signal: controller.signal });
  controller.abort(new Error('gone'));
  await assert.rejects(running, /gone/);
  await assert.rejects(worker.request({ wait: 0 }, { signal: controller.signal }), /gone/);
  assert.equal(await worker.request('cancelled'), 1);
  await worker.terminate();
});

test('ending a worker rejects what it has not answered', async () => {
  const worker = newWorker();
  const running = assert.rejects(worker.request({ wait: 60_000 }), /closed/);
  await worker.terminate();
  await running;
});

test('a request that cannot be sent keeps nothing alive', async (t) => {
  const worker = newWorker();
  t.after(() => worker.terminate());
  const alive = () => process.getActiveResourcesInfo().filter((kind) => kind === 'MessagePort').length;
  assert.equal(await worker.request({ wait: 0 }), 7);
  const idle = alive();
  const running = worker.request({ wait: 20 });
  assert.equal(alive(), idle + 1);
  await running;
  await assert.rejects(worker.request({ fail: (() => {}) as never }), { name: 'DataCloneError' });
  assert.equal(alive(), idle);
});
