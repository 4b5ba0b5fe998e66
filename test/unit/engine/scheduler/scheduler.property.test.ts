// SPDX-License-Identifier: MIT

import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import type { Sequence, SequenceRequest } from '../../../../engine/scheduler/sequence.ts';
import { GREEDY_SEQUENCE, SchedulerRun, alone, promptOf, sequenceRequest } from '../../../helpers/scheduler-run.ts';
import type { RunSizes } from '../../../helpers/scheduler-run.ts';

interface Arrival {
  step: number;
  choices: number;
  /** The prompt is what the n-th arrival before has come to, with a few more tokens: the next turn of a conversation. */
  continues?: number;
  request: SequenceRequest;
  /** Steps after arrival at which it is cancelled; Infinity: never. */
  abortAfter: number;
  /** Aborted while a step is in flight rather than between two. */
  abortInFlight: boolean;
  /** Steps after arrival at which its reader stalls, and for how long. */
  stall?: { after: number; steps: number };
}

const sizes: fc.Arbitrary<RunSizes> = fc
  .record({
    slots: fc.integer({ min: 1, max: 6 }),
    mtp: fc.integer({ min: 0, max: 4 }),
    extraStepTokens: fc.integer({ min: 32, max: 400 }),
    maxModelLen: fc.integer({ min: 200, max: 900 }),
    maxItlMs: fc.constantFrom(1, 3, 1000),
    spareWindows: fc.integer({ min: 0, max: 20 }),
    spareContexts: fc.integer({ min: 0, max: 20 }),
    draftQuality: fc.constantFrom(0, 0.5, 0.9, 1),
  })
  .map(({ slots, mtp, extraStepTokens, maxModelLen, spareWindows, spareContexts, ...rest }) => ({
    slots,
    mtp,
    vocabSize: 64,
    maxModelLen,
    stepTokens: slots * (1 + mtp) + extraStepTokens,
    windowBlocks: 4 + spareWindows,
    contextBlocks: Math.ceil((maxModelLen + mtp) / 128) + spareContexts,
    ...rest,
  }));

const sampling = fc.record({
  seed: fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }),
  temperature: fc.constantFrom(0, 0.5, 1),
  repetitionPenalty: fc.constantFrom(1, 1, 1, 1.2),
  presencePenalty: fc.constantFrom(0, 0, 0.5),
  mask: fc.constantFrom(undefined, undefined, Uint32Array.of(0xff00ff02, 0x0ff00ff0)),
  banned: fc.constantFrom([], [], [1], [5, 9]),
});

const arrival = (maxModelLen: number): fc.Arbitrary<Arrival> =>
  fc
    .record({
      step: fc.integer({ min: 0, max: 60 }),
      continues: fc.option(fc.integer({ min: 1, max: 5 }), { nil: undefined, freq: 2 }),
      choices: fc.constantFrom(1, 1, 1, 2, 3),
      family: fc.integer({ min: 0, max: 3 }),
      promptLength: fc.oneof(
        fc.integer({ min: 1, max: 40 }),
        fc.integer({ min: 1, max: maxModelLen - 1 }),
        fc.constant(Math.min(256, maxModelLen - 1)),
      ),
      maxTokens: fc.oneof(fc.integer({ min: 0, max: 8 }), fc.integer({ min: 1, max: 160 })),
      minTokens: fc.constantFrom(0, 0, 5, 30),
      promptLogprobs: fc.constantFrom(-1, -1, -1, 0),
      priority: fc.constantFrom(0, 0, 0, -1, 1),
      salt: fc.constantFrom('', '', 'other'),
      sampling,
      abortAfter: fc.oneof({ weight: 3, arbitrary: fc.constant(Infinity) }, { weight: 1, arbitrary: fc.nat(30) }),
      abortInFlight: fc.boolean(),
      stall: fc.option(fc.record({ after: fc.nat(20), steps: fc.integer({ min: 1, max: 40 }) }), { nil: undefined, freq: 5 }),
    })
    .map(({ family, promptLength, sampling: chosen, step, choices, continues, abortAfter, abortInFlight, stall, ...request }) => {
      const { mask, banned, ...numbers } = chosen;
      const bias = { tokens: Int32Array.from(banned), values: new Float32Array(banned.length).fill(-Infinity) };
      return {
        step,
        choices,
        abortAfter,
        abortInFlight,
        ...(stall === undefined ? {} : { stall }),
        // A turn behind what an earlier one has come to.
        ...(continues === undefined ? {} : { continues, step: step + 30 }),
        request: sequenceRequest(promptOf(family, promptLength), {
          ...request,
          sampling: { ...GREEDY_SEQUENCE, ...numbers, bias, ...(mask === undefined ? {} : { mask }) },
        }),
      };
    });

const scenario = sizes.chain((size) =>
  fc.record({ size: fc.constant(size), arrivals: fc.array(arrival(size.maxModelLen), { minLength: 1, maxLength: 14 }) }),
);

function start(run: SchedulerRun, { request, choices }: Arrival, earlier: Sequence | undefined, maxModelLen: number): Sequence[] {
  if (earlier !== undefined) {
    const history = [...earlier.tokens.slice(0, Math.min(earlier.tokens.length, maxModelLen - 4)), 5, 6, 7];
    request = { ...request, prompt: Int32Array.from(history), salt: earlier.request.salt };
  }
  const leader = run.add(request);
  const followers = Array.from({ length: choices - 1 }, (_, i) => {
    const seeded = { ...request.sampling, seed: BigInt.asUintN(64, request.sampling.seed + BigInt(i + 1)) };
    return run.add({ ...request, leader, sampling: seeded });
  });
  return [leader, ...followers];
}

/** Plays all arrivals, stalls and aborts; returns the sequences with what was asked of them. */
function play(run: SchedulerRun, arrivals: readonly Arrival[], maxModelLen: number): { sequence: Sequence; aborted: boolean }[] {
  const played = new Map<Arrival, Sequence[]>();
  const aborted = new Set<Sequence>();
  const abort = (at: Arrival): void => {
    for (const sequence of played.get(at) ?? []) {
      if (sequence.phase !== 'finished') aborted.add(sequence);
      run.scheduler.cancel(sequence);
    }
  };
  const lastEvent = Math.max(...arrivals.map((at) => at.step + (at.stall === undefined ? 0 : at.stall.after + at.stall.steps)));
  for (let step = 0, idle = false; !idle || step <= lastEvent + 40; step++) {
    assert.ok(step < 6000, 'every request ends');
    for (const at of arrivals) {
      if (at.step === step) {
        const earlier = at.continues === undefined ? undefined : [...played.values()].at(-at.continues)?.[0];
        played.set(at, start(run, at, earlier, maxModelLen));
      }
      if (at.step + at.abortAfter === step && !at.abortInFlight) abort(at);
      const { stall } = at;
      if (stall === undefined) continue;
      for (const sequence of played.get(at) ?? []) {
        sequence.paused = step >= at.step + stall.after && step < at.step + stall.after + stall.steps;
      }
    }
    idle = !run.step(() => {
      for (const at of arrivals) if (at.step + at.abortAfter === step && at.abortInFlight) abort(at);
    });
  }
  return [...played.values()].flat().map((sequence) => ({ sequence, aborted: aborted.has(sequence) }));
}

test('whatever arrives, stalls, aborts or runs short: what a request gives alone, one end, nothing left behind', () => {
  let steps = 0;
  let preemptions = 0;
  let hits = 0;
  let accepted = 0;
  const property = fc.property(scenario, ({ size, arrivals }) => {
    const run = new SchedulerRun(size);
    for (const { sequence, aborted } of play(run, arrivals, size.maxModelLen)) {
      const expected = alone(sequence.request, size.maxModelLen);
      const got = run.tokens.get(sequence)!;
      assert.equal(sequence.phase, 'finished');
      if (aborted) {
        assert.deepEqual(got, expected.slice(0, got.length));
      } else {
        assert.deepEqual(got, expected);
        assert.equal(run.ends.get(sequence)!.length, 1);
        checkPromptLogprobs(run, sequence);
      }
    }
    assert.ok(run.idle, 'all blocks and slots are given back');
    assert.equal(run.scheduler.freeSlots, size.slots);
    steps += run.steps;
    preemptions += run.scheduler.counters.preemptions;
    hits += run.scheduler.counters.prefixHits;
    accepted += run.scheduler.counters.acceptedPerPosition.reduce((sum, count) => sum + count, 0);
  });
  fc.assert(property, { numRuns: 300 });
  // The scenarios reach what they are there to test.
  assert.ok(steps > 5000, `${steps} steps`);
  assert.ok(preemptions > 50, `${preemptions} preemptions`);
  assert.ok(hits > 5000, `${hits} tokens from the prefix cache`);
  assert.ok(accepted > 1000, `${accepted} drafts accepted`);
});

function checkPromptLogprobs(run: SchedulerRun, sequence: Sequence): void {
  if (sequence.request.promptLogprobs < 0) return;
  const { prompt } = sequence.request;
  const known = run.promptLogprobs.get(sequence)!;
  for (let i = 0; i + 1 < prompt.length; i++) {
    assert.equal(known.get(i), Math.fround(-prompt[i + 1]! / 64), `log-probability behind prompt token ${i}`);
  }
}

test('a long prompt is done within the stated bound while short prompts keep arriving', () => {
  const scenarios = fc.record({
    longLength: fc.integer({ min: 400, max: 900 }),
    shortLength: fc.integer({ min: 1, max: 120 }),
    stepTokens: fc.integer({ min: 60, max: 300 }),
  });
  const property = fc.property(scenarios, ({ longLength, shortLength, stepTokens }) => {
    const run = new SchedulerRun({
      slots: 6,
      mtp: 0,
      vocabSize: 64,
      stepTokens,
      maxModelLen: 1024,
      maxItlMs: 1e6,
      windowBlocks: 40,
      contextBlocks: 60,
    });
    const long = run.add(sequenceRequest(promptOf(9, longLength)));
    const decodeRows = 5;
    const share = Math.floor((stepTokens - decodeRows) / 4);
    const bound = Math.ceil(longLength / share);
    for (let family = 10; long.generated === 0; family++) {
      if (run.scheduler.waiting.length < 4) run.add(sequenceRequest(promptOf(family, shortLength), { maxTokens: 3 }));
      run.step();
      assert.ok(run.steps <= bound, `${run.steps} steps, bound ${bound}`);
    }
  });
  fc.assert(property, { numRuns: 60 });
});
