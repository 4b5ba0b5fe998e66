// SPDX-License-Identifier: MIT

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { atOnce, inTurns, letOthersRun } from '../../../engine/event-loop.ts';

/** Turns of the event loop that come while `work` is under way. */
async function turnsOf(work: Promise<unknown>): Promise<number> {
  let turns = 0;
  const count = (): void => {
    turns += 1;
    waiting = setImmediate(count);
  };
  let waiting = setImmediate(count);
  await work;
  clearImmediate(waiting);
  return turns;
}

function* sum(steps: number, stepMs: number): Generator<void, number> {
  let total = 0;
  for (let step = 1; step <= steps; step++) {
    for (const until = performance.now() + stepMs; performance.now() < until;);
    total += step;
    yield;
  }
  return total;
}

test('long work is done in many turns of the event loop, with the same result as at once', async () => {
  let result = 0;
  const turns = await turnsOf(inTurns(sum(60, 1)).then((value) => (result = value)));
  assert.equal(result, atOnce(sum(60, 0)));
  assert.ok(turns >= 10, `${turns} turns`);
});

test('short work is done in the turn that began it', async () => {
  assert.equal(await turnsOf(inTurns(sum(1, 0))), 0);
  assert.equal(await turnsOf(letOthersRun(1000)), 0);
});

test('a mistake on the way is thrown', async () => {
  const failing = function* (): Generator<void, never> {
    yield;
    throw new Error('bad');
  };
  await assert.rejects(inTurns(failing()), /bad/);
  assert.throws(() => atOnce(failing()), /bad/);
});
