// SPDX-License-Identifier: MIT

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { BlockTable } from '../../../../engine/cache/kv-cache.ts';
import { ROW_ALL_LOGPROBS, ROW_RESUME, ROW_SAMPLE } from '../../../../engine/native.ts';
import { MIN_PREFILL_TOKENS } from '../../../../engine/scheduler/policy.ts';
import { MAX_BYPASSES } from '../../../../engine/scheduler/scheduler.ts';
import { EOS, GREEDY_SEQUENCE, SMALL, SchedulerRun, alone, promptOf, sequenceRequest } from '../../../helpers/scheduler-run.ts';

const NEVER = { stopTokens: new Set<number>(), maxTokens: 200 };

test('answers go first, the prompt gets what is left of the step', () => {
  const run = new SchedulerRun({ ...SMALL, mtp: 0 });
  run.add(sequenceRequest(promptOf(1, 10), NEVER));
  run.step();
  run.add(sequenceRequest(promptOf(2, 400), NEVER));
  const plan = run.scheduler.schedule()!;
  assert.deepEqual([...plan.count], [1, 127]);
  assert.deepEqual([...plan.flags], [ROW_SAMPLE, 0]);
  assert.equal(plan.nextToken[1], promptOf(2, 400)[127]);
});

test('while answers run a prompt gets only what fits the inter-token time, but always something', () => {
  for (const [maxItlMs, fitting] of [
    [10, 90],
    [1, MIN_PREFILL_TOKENS],
  ] as const) {
    const run = new SchedulerRun({ ...SMALL, mtp: 0, maxItlMs });
    run.add(sequenceRequest(promptOf(1, 10), NEVER));
    for (let i = 0; i < 4; i++) run.step();
    run.add(sequenceRequest(promptOf(2, 900), NEVER));
    for (let i = 0; i < 6; i++) {
      const plan = run.scheduler.schedule()!;
      const count = plan.count[1]!;
      assert.ok(Math.abs(count - fitting) <= fitting * 0.15, `${count} tokens, ${fitting} fit`);
      run.scheduler.commit(run.native.runStep(plan), 1 + count * 0.1);
    }
  }
});

test('a row behind a prefix hit resumes from the block border, once', () => {
  const run = new SchedulerRun({ ...SMALL, stepTokens: 64 });
  run.add(sequenceRequest(promptOf(1, 300)));
  run.runAll();
  run.add(sequenceRequest(promptOf(1, 380)));
  const plan = run.scheduler.schedule()!;
  assert.equal(plan.position[0], 256);
  assert.equal(plan.flags[0], ROW_RESUME);
  run.scheduler.commit(run.native.runStep(plan), 1);
  assert.equal(run.scheduler.schedule()!.flags[0], ROW_SAMPLE);
});

test('the whole of a prompt is never taken from the cache', () => {
  const run = new SchedulerRun(SMALL);
  run.add(sequenceRequest(promptOf(1, 256)));
  run.runAll();
  const again = run.add(sequenceRequest(promptOf(1, 256)));
  run.runAll();
  assert.equal(again.cachedTokens, 128);
});

test('prompt log-probabilities are computed for the whole prompt, also when its prefix is cached', () => {
  const run = new SchedulerRun(SMALL);
  run.add(sequenceRequest(promptOf(1, 300)));
  run.runAll();
  const echo = run.add(sequenceRequest(promptOf(1, 300), { promptLogprobs: 0 }));
  const plan = run.scheduler.schedule()!;
  assert.equal(plan.position[0], 0);
  assert.equal(plan.flags[0], ROW_ALL_LOGPROBS);
  run.scheduler.commit(run.native.runStep(plan), 1);
  run.runAll();
  assert.equal(echo.cachedTokens, 0);
});

test('blocks run out: the newest gives way, comes back and loses nothing', () => {
  const sizes = { ...SMALL, slots: 3, mtp: 0, contextBlocks: 8, windowBlocks: 12 };
  const run = new SchedulerRun(sizes);
  const requests = [1, 2, 3].map((family) => sequenceRequest(promptOf(family, 100), { ...NEVER, maxTokens: 400 }));
  const [first, second, third] = requests.map((request) => run.add(request));
  run.runAll();
  assert.ok(run.scheduler.counters.preemptions > 0);
  for (const [i, sequence] of [first, second, third].entries()) {
    assert.deepEqual(run.tokens.get(sequence!), alone(requests[i]!, sizes.maxModelLen));
  }
  assert.ok(run.idle);
});

test('a prompt waits until all of it fits, and may be overtaken only so often', () => {
  const run = new SchedulerRun({ ...SMALL, slots: 3, mtp: 0, contextBlocks: 9 });
  run.add(sequenceRequest(promptOf(1, 300), { ...NEVER, maxTokens: 300 }));
  run.step();
  const long = run.add(sequenceRequest(promptOf(2, 900), { maxTokens: 1 }));
  let overtook = 0;
  for (let family = 10; long.phase === 'waiting'; family++) {
    const short = run.add(sequenceRequest(promptOf(family, 20), { maxTokens: 1 }));
    for (let i = 0; i < 2; i++) run.step();
    if (short.phase === 'finished' && long.phase === 'waiting') overtook += 1;
    assert.ok(run.steps < 2000);
  }
  assert.equal(overtook, MAX_BYPASSES);
  run.runAll();
  assert.ok(run.idle);
});

test('choices wait for the prompt of the first and then share its whole blocks', () => {
  const run = new SchedulerRun({ ...SMALL, stepTokens: 100 });
  const leader = run.add(sequenceRequest(promptOf(1, 300)));
  const follower = run.add(sequenceRequest(promptOf(1, 300), { leader, sampling: { ...GREEDY_SEQUENCE, seed: 8n } }));
  for (let i = 0; i < 3; i++) {
    run.step();
    assert.equal(follower.phase, 'waiting');
  }
  run.runAll();
  assert.equal(follower.cachedTokens, 256);
  assert.deepEqual(run.tokens.get(follower), alone(follower.request, SMALL.maxModelLen));
});

test('no stop is sampled before the least number of tokens, whatever drafts say', () => {
  const run = new SchedulerRun({ ...SMALL, mtp: 4, draftQuality: 1 });
  const stopTokens = new Set([EOS, ...Array.from({ length: 20 }, (_, i) => 20 + i)]);
  for (const minTokens of [1, 7, 30]) {
    const request = sequenceRequest(promptOf(3, 20), { stopTokens, minTokens, maxTokens: 60 });
    const sequence = run.add(request);
    run.runAll();
    const tokens = run.tokens.get(sequence)!;
    assert.ok(tokens.length > minTokens);
    assert.deepEqual(tokens, alone(request, SMALL.maxModelLen));
  }
});

test('forced tokens follow their trigger once, and sampling goes on behind them', () => {
  for (const mtp of [0, 3]) {
    const run = new SchedulerRun({ ...SMALL, mtp, draftQuality: 1 });
    const plain = sequenceRequest(promptOf(4, 30), { stopTokens: new Set(), maxTokens: 40 });
    const after = alone(plain, SMALL.maxModelLen)[7]!;
    const forced = Int32Array.of(11, 12, 13, 14, 15);
    const sequence = run.add({ ...plain, forced: { after, tokens: forced } });
    run.runAll();
    const tokens = run.tokens.get(sequence)!;
    const cut = tokens.indexOf(after);
    const prefix = [...plain.prompt, ...tokens.slice(0, cut + 1), ...forced];
    const rest = alone({ ...plain, prompt: Int32Array.from(prefix), maxTokens: 40 - cut - 1 - forced.length }, SMALL.maxModelLen);
    assert.deepEqual(tokens.slice(cut + 1), rest);
    assert.ok(run.idle);
  }
});

test('the end of the context ends a sequence and is never passed by a draft', () => {
  for (const mtp of [0, 1, 4]) {
    const sizes = { ...SMALL, mtp, maxModelLen: 130, contextBlocks: 4, draftQuality: 1 };
    const run = new SchedulerRun(sizes);
    const request = sequenceRequest(promptOf(5, 100), { stopTokens: new Set(), maxTokens: 1000 });
    const sequence = run.add(request);
    run.runAll();
    assert.equal(sequence.tokens.length, 130);
    assert.deepEqual(run.ends.get(sequence), [{ reason: 'length' }]);
  }
});

test('what was computed for tokens behind a stop is not findable', () => {
  const run = new SchedulerRun({ ...SMALL, mtp: 4, draftQuality: 1 });
  const plain = sequenceRequest(promptOf(7, 124), { stopTokens: new Set(), maxTokens: 20 });
  const stop = alone(plain, SMALL.maxModelLen)[1]!;
  const sequence = run.add({ ...plain, stopTokens: new Set([stop]) });
  run.runAll();
  assert.equal(sequence.tokens.length, 126);
  const padded = Int32Array.from([...sequence.tokens.slice(0, 126), 0, 0]);
  const history = { length: 128, slice: (begin: number, end: number) => padded.subarray(begin, end) };
  assert.equal(run.cache.lookup(new BlockTable(''), history, 128).tokens, 0);
});

test('drafts are counted where they are accepted', () => {
  const run = new SchedulerRun({ ...SMALL, mtp: 2, draftQuality: 1 });
  run.add(sequenceRequest(promptOf(6, 10), { stopTokens: new Set(), maxTokens: 31 }));
  run.runAll();
  const { drafts, draftTokens, acceptedPerPosition } = run.scheduler.counters;
  assert.deepEqual([drafts, draftTokens, acceptedPerPosition], [10, 20, [10, 10]]);
});
