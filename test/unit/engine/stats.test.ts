// SPDX-License-Identifier: MIT

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { collect, collected, generationRequest, startEngine, until } from '../../helpers/engine-run.ts';
import { promptOf } from '../../helpers/scheduler-run.ts';

test('statistics count every prompt and generated token in one step, and tell who waits for what', async () => {
  const run = startEngine({ slots: 1, encodeMs: 20, delayMs: 2, stepTokens: 64, mtp: 0 });
  const readers = [150, 10].map((length) => collect(run.engine, generationRequest(promptOf(1, length), { maxTokens: 8 })));
  const { waiting, preparing } = run.engine.stats();
  assert.deepEqual([waiting, preparing], [2, 2]);
  await until(() => run.engine.stats().running === 1 && run.engine.stats().waiting === 1, 'one runs and one waits');
  assert.equal(run.engine.stats().preparing, 0);
  const generated = (await Promise.all(readers)).reduce(
    (sum, events) => sum + collected(events).ends[0]!.usage.completionTokens,
    0,
  );
  const { stepTokens, steps } = run.engine.stats();
  assert.equal(stepTokens.sum, 150 + 10 + generated);
  assert.equal(
    stepTokens.counts.reduce((sum, count) => sum + count, 0),
    steps,
  );
  const most = stepTokens.counts.findLastIndex((count) => count > 0);
  assert.equal(stepTokens.bounds[most], 64);
  await run.engine.close();
});
