// SPDX-License-Identifier: MIT

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Constraints } from '../../../engine/constraints.ts';
import type { StepPlan } from '../../../engine/native.ts';
import type { PreparedPrompt } from '../../../engine/prompts.ts';
import type { OpenOptions, StepRow } from '../../../engine/text/grammar/protocol.ts';
import { collect, collected, generationRequest, startEngine } from '../../helpers/engine-run.ts';
import { promptOf } from '../../helpers/scheduler-run.ts';

const THINK_CLOSE = 9;
const GRAMMAR = { spec: { kind: 'json-object' }, param: 'response_format' } as const;

/** A grammar service that says what was asked of it; matcher n fails in its `failAt`-th step. */
function recordingService(failAt = Infinity): {
  calls: string[];
  service: ConstructorParameters<typeof Constraints>[0];
} {
  const calls: string[] = [];
  let matchers = 0;
  let steps = 0;
  const service = {
    compile: async () => ({ source: { ebnf: '', own: true, markup: false } }),
    open: async (_: unknown, options: OpenOptions = {}) => {
      calls.push(`open ${JSON.stringify(options)}`);
      return matchers++;
    },
    step: async (rows: readonly StepRow[]) => {
      steps += 1;
      const masks = rows.flatMap(({ matcher, drafts }) => [matcher, ...drafts].flatMap((_, i) => [matcher * 16 + i, 1]));
      return { masks: Uint32Array.from(masks), failed: steps >= failAt ? rows.map(({ matcher }) => matcher) : [] };
    },
    release: (matcher: number) => void calls.push(`release ${matcher}`),
    close: async () => void calls.push('close'),
  };
  return { calls, service };
}

const prompt = (start: PreparedPrompt['parser']['start'], forced = 0): PreparedPrompt => ({
  tokens: Int32Array.of(1),
  parser: { start },
  ...(forced > 0 ? { forcedTokens: new Int32Array(forced) } : {}),
});

test('every choice has its matcher; behind reasoning it waits for the end of it and skips forced markup', async () => {
  const { calls, service } = recordingService();
  const constraints = new Constraints(service, 64, THINK_CLOSE);
  const request = generationRequest([2], { n: 2, grammar: GRAMMAR });
  assert.deepEqual(await constraints.open(request, prompt('answer'), 30), [0, 1]);
  assert.deepEqual(await constraints.open(request, prompt('reasoning', 3), 30), [2, 3]);
  assert.deepEqual(await constraints.open(generationRequest([2]), prompt('answer'), 30), []);
  const waiting = `open ${JSON.stringify({ maxTokens: 30, trigger: THINK_CLOSE, skip: 3 })}`;
  assert.deepEqual(calls, ['open {"maxTokens":30}', 'open {"maxTokens":30}', waiting, waiting]);
});

test('masks land in the rows that the plan reserved for them', async () => {
  const constraints = new Constraints(recordingService().service, 64, THINK_CLOSE);
  const masks = new Uint32Array(12).fill(7);
  await constraints.fill({ masks } as unknown as StepPlan, [
    { matcher: 1, accepted: [], drafts: [5], maskRow: 0 },
    { matcher: 2, accepted: [], drafts: [], maskRow: 4 },
  ]);
  assert.deepEqual([...masks], [16, 1, 17, 1, 7, 7, 7, 7, 32, 1, 7, 7]);
});

test('a completion whose matcher is lost ends with an error, others go on, and every matcher is given back', async () => {
  const { calls, service } = recordingService(3);
  const all = { ...service, step: async (rows: readonly StepRow[]) => openMasks(await service.step(rows)) };
  const run = startEngine({ constraints: new Constraints(all, 64, 0) });
  const other = collect(run.engine, generationRequest(promptOf(1, 30)));
  const events = await collect(run.engine, generationRequest(promptOf(2, 30), { grammar: GRAMMAR, n: 2 }));
  for (const choice of [0, 1]) assert.ok(['error', 'stop'].includes(collected(events, choice).end.reason));
  assert.equal(collected(events).end.error?.code, 'INTERNAL');
  assert.notEqual(collected(await other).end.reason, 'error');
  assert.deepEqual(calls.filter((call) => call.startsWith('release')).sort(), ['release 0', 'release 1']);
  await run.engine.close();
  assert.equal(calls.at(-1), 'close');
});

function openMasks<T extends { masks: Uint32Array }>(result: T): T {
  result.masks.fill(0xffffffff);
  return result;
}
