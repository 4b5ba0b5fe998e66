// SPDX-License-Identifier: MIT

import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { EngineError } from '../../../engine/errors.ts';
import { MAX_UNREAD_EVENTS } from '../../../engine/event-stream.ts';
import type { GenerationEvent, GenerationRequest } from '../../../engine/types.ts';
import { collect, collected, generationRequest, startEngine, textOf, until } from '../../helpers/engine-run.ts';
import type { EngineRun } from '../../helpers/engine-run.ts';
import { GREEDY_SEQUENCE, alone, promptOf, sequenceRequest } from '../../helpers/scheduler-run.ts';

/** Tokens that a request gives alone, with the seed of its choice. */
function expected(request: GenerationRequest, maxModelLen: number, choice = 0): number[] {
  if (request.input.kind !== 'tokens') throw new Error('needs a prompt of tokens');
  const prompt = request.input.tokens;
  const stopTokens = new Set([...(request.stop.ignoreEos ? [] : [1]), ...request.stop.tokens]);
  const sampling = {
    ...GREEDY_SEQUENCE,
    temperature: request.sampling.temperature,
    seed: BigInt.asUintN(64, request.sampling.seed! + BigInt(choice)),
  };
  const maxTokens = Math.min(request.maxTokens ?? Infinity, maxModelLen - prompt.length);
  return alone(sequenceRequest(prompt, { maxTokens, minTokens: request.stop.minTokens, stopTokens, sampling }), maxModelLen);
}

async function assertIdle({ engine, sizes }: EngineRun): Promise<void> {
  await until(() => engine.stats().running + engine.stats().waiting === 0, 'nothing runs');
  const stats = engine.stats();
  assert.equal(stats.freeContextBlocks, sizes.contextBlocks);
  assert.equal(stats.freeWindowBlocks, sizes.windowBlocks);
  assert.equal(stats.freeSlots, sizes.slots);
  assert.equal(stats.kvUsage, 0);
}

async function refusal(engine: EngineRun['engine'], request: GenerationRequest): Promise<EngineError> {
  try {
    await engine.generate(request).next();
  } catch (error) {
    assert.ok(error instanceof EngineError);
    return error;
  }
  assert.fail('the request was accepted');
}

test('a request is accepted with an empty batch, then tells prompt, tokens with their text, and one end', async () => {
  const run = startEngine();
  const request = generationRequest(promptOf(1, 20), { maxTokens: 24 });
  const batches: GenerationEvent[][] = [];
  for await (const batch of run.engine.generate(request)) batches.push(batch);
  assert.deepEqual(batches[0], []);
  const { events, tokens, text, end } = collected(batches.flat());
  assert.deepEqual(tokens, expected(request, run.sizes.maxModelLen));
  assert.equal(text, textOf(tokens));
  assert.equal(events[0]!.kind, 'prompt');
  assert.equal(events.at(-1), end);
  assert.equal(end.usage.promptTokens, 20);
  assert.equal(end.usage.completionTokens, tokens.length);
  assert.ok(end.timing.queuedMs <= end.timing.firstTokenMs && end.timing.firstTokenMs <= end.timing.totalMs);
  await assertIdle(run);
  await run.engine.close();
  assert.ok(run.native.closed);
});

test('choices have their own seeds, share the prompt blocks and end once each', async () => {
  const run = startEngine();
  const request = generationRequest(promptOf(2, 300), { n: 3 });
  const events = await collect(run.engine, request);
  for (const choice of [0, 1, 2]) {
    const { tokens, ends, events: own } = collected(events, choice);
    assert.deepEqual(tokens, expected(request, run.sizes.maxModelLen, choice));
    assert.equal(ends.length, 1);
    const prompt = own[0]!;
    assert.ok(prompt.kind === 'prompt');
    assert.equal(prompt.cachedTokens, choice === 0 ? 0 : 256);
  }
  await assertIdle(run);
  await run.engine.close();
});

test('without a prefix cache only choices of one request share', async () => {
  const run = startEngine({ prefixCache: false });
  await collect(run.engine, generationRequest(promptOf(2, 300)));
  const events = await collect(run.engine, generationRequest(promptOf(2, 300), { n: 2 }));
  assert.equal(collected(events, 0).end.usage.cachedTokens, 0);
  assert.equal(collected(events, 1).end.usage.cachedTokens, 256);
  await run.engine.close();
});

test('a prefix is reused for the same salt only, and leaves the result as it is', async () => {
  const run = startEngine();
  const request = generationRequest(promptOf(3, 400));
  const first = collected(await collect(run.engine, request));
  const again = collected(await collect(run.engine, request));
  const other = collected(await collect(run.engine, { ...request, cacheSalt: 'other' }));
  assert.deepEqual(
    [first, again, other].map(({ end }) => end.usage.cachedTokens),
    [0, 384, 0],
  );
  assert.deepEqual(again.tokens, first.tokens);
  assert.deepEqual(other.tokens, first.tokens);
  assert.equal(run.engine.stats().prefixQueries, 1200);
  assert.equal(run.engine.stats().prefixHits, 384);
  await run.engine.close();
});

test('a stop string cuts the text, and tokens behind it are neither shown nor counted', async () => {
  const run = startEngine({ mtp: 4, draftQuality: 1 });
  const request = generationRequest(promptOf(4, 10), { maxTokens: 40 });
  const all = expected(request, run.sizes.maxModelLen);
  const stop = textOf(all.slice(6, 8));
  for (const includeInOutput of [false, true]) {
    const stopped = { ...request, stop: { ...request.stop, strings: [stop], includeInOutput } };
    const { tokens, text, end } = collected(await collect(run.engine, stopped));
    const cut = textOf(all).indexOf(stop);
    assert.equal(text, textOf(all).slice(0, cut + (includeInOutput ? stop.length : 0)));
    assert.deepEqual(tokens, all.slice(0, cut + 2));
    assert.equal(end.reason, 'stop');
    assert.equal(end.stop, stop);
    assert.equal(end.usage.completionTokens, cut + 2);
  }
  await assertIdle(run);
  await run.engine.close();
});

test('stop strings wait for the least number of tokens', async () => {
  const run = startEngine();
  const request = generationRequest(promptOf(5, 10), { maxTokens: 30 });
  const all = expected({ ...request, stop: { ...request.stop, minTokens: 10 } }, run.sizes.maxModelLen);
  const letters = [...new Set(textOf(all.slice(0, 5)))];
  const stopped = { ...request, stop: { ...request.stop, strings: letters, minTokens: 10 } };
  const { tokens } = collected(await collect(run.engine, stopped));
  assert.ok(tokens.length >= 10);
  assert.deepEqual(tokens, all.slice(0, tokens.length));
  await run.engine.close();
});

test('a stop token ends the choice and is named; its text is shown only on demand', async () => {
  const run = startEngine();
  const request = generationRequest(promptOf(6, 10), { maxTokens: 30 });
  const stopToken = expected(request, run.sizes.maxModelLen)[4]!;
  for (const includeInOutput of [false, true]) {
    const stop = { ...request.stop, tokens: [stopToken], includeInOutput };
    const { tokens, text, end } = collected(await collect(run.engine, { ...request, stop }));
    assert.equal(tokens.at(-1), stopToken);
    assert.equal(text, textOf(includeInOutput ? tokens : tokens.slice(0, -1)));
    assert.equal(end.stop, stopToken);
    assert.equal(end.reason, 'stop');
  }
  await run.engine.close();
});

test('with maxTokens 0 only the prompt is computed, with its log-probabilities on demand', async () => {
  const run = startEngine();
  const prompt = promptOf(7, 300);
  await collect(run.engine, generationRequest(prompt));
  const { events, end } = collected(await collect(run.engine, generationRequest(prompt, { maxTokens: 0, promptLogprobs: 0 })));
  const [told] = events;
  assert.ok(told?.kind === 'prompt');
  assert.equal(end.reason, 'length');
  assert.equal(end.usage.completionTokens, 0);
  assert.equal(end.usage.cachedTokens, 0, 'prompt log-probabilities are computed, not taken from the cache');
  assert.deepEqual(
    told.logprobs!.map(({ token }) => token),
    prompt,
  );
  assert.ok(Number.isNaN(told.logprobs![0]!.logprob));
  for (let i = 1; i < prompt.length; i++) assert.equal(told.logprobs![i]!.logprob, Math.fround(-prompt[i]! / 64));
  await run.engine.close();
});

test('every sampled token has its log-probability once, in order, with as many alternatives as asked for', async () => {
  const run = startEngine({ mtp: 3, draftQuality: 0.9 });
  const wide = collect(run.engine, generationRequest(promptOf(8, 30), { maxTokens: 40, logprobs: 5 }));
  const request = generationRequest(promptOf(9, 30), { maxTokens: 40, logprobs: 2 });
  const { events, tokens } = collected(await collect(run.engine, request));
  const logprobs = events.flatMap((event) => (event.kind === 'tokens' ? event.logprobs! : []));
  assert.deepEqual(
    logprobs.map(({ token }) => token),
    tokens,
  );
  for (const { token, logprob, top } of logprobs) {
    assert.equal(logprob, Math.fround(-token / 64));
    assert.equal(top.length, 2);
    assert.equal(top[0]!.token, token);
  }
  await wide;
  await run.engine.close();
});

test('progress counts up to the whole prompt before the first token', async () => {
  const run = startEngine({ stepTokens: 100 });
  const { events } = collected(await collect(run.engine, generationRequest(promptOf(10, 350), { progress: true })));
  const kinds = events.map(({ kind }) => kind);
  const progress = events.filter((event) => event.kind === 'progress');
  assert.deepEqual(
    progress.map(({ computedTokens }) => computedTokens),
    [100, 200, 300, 350],
  );
  assert.ok(kinds.lastIndexOf('progress') < kinds.indexOf('tokens'));
  await run.engine.close();
});

test('requests that can never be served are refused in place of the first batch', async () => {
  const run = startEngine();
  const good = generationRequest([2, 3]);
  const { maxModelLen } = run.sizes;
  const long = await refusal(run.engine, generationRequest(promptOf(1, maxModelLen)));
  assert.equal(long.code, 'CONTEXT_LENGTH_EXCEEDED');
  assert.deepEqual(long.details, { promptTokens: maxModelLen, maxModelLen, param: 'prompt' });
  const cases: [Partial<GenerationRequest>, string][] = [
    [{ input: { kind: 'tokens', tokens: new Int32Array(0) } }, 'prompt'],
    [{ input: { kind: 'tokens', tokens: Int32Array.of(64) } }, 'prompt'],
    [{ n: 0 }, 'n'],
    [{ logprobs: 21 }, 'logprobs'],
    [{ sampling: { ...good.sampling, topP: 1.5 } }, 'top_p'],
    [{ sampling: { ...good.sampling, temperature: NaN } }, 'temperature'],
    [{ sampling: { ...good.sampling, logitBias: new Map([[64, 1]]) } }, 'logit_bias'],
    [{ sampling: { ...good.sampling, allowedTokens: [] } }, 'allowed_token_ids'],
    [{ stop: { ...good.stop, tokens: [-1] } }, 'stop_token_ids'],
  ];
  for (const [change, param] of cases) {
    const error = await refusal(run.engine, { ...good, ...change });
    assert.equal(error.code, 'INVALID_REQUEST');
    assert.equal(error.details.param, param);
  }
  assert.equal(run.native.steps, 0);
  await run.engine.close();
});

test('a full queue refuses at once and says when to come back', async () => {
  const run = startEngine({ slots: 1, maxQueuedRequests: 2, delayMs: 5 });
  const readers = Array.from({ length: 3 }, () => collect(run.engine, generationRequest(promptOf(1, 50), { maxTokens: 20 })));
  await until(() => run.engine.stats().running === 1 && run.engine.stats().waiting === 2, 'one runs and two wait');
  const error = await refusal(run.engine, generationRequest(promptOf(1, 50)));
  assert.equal(error.code, 'QUEUE_FULL');
  assert.ok(error.details.retryAfterMs! >= 1000);
  for (const events of await Promise.all(readers)) assert.equal(collected(events).ends.length, 1);
  assert.equal(collected(await collect(run.engine, generationRequest([2, 3]))).ends.length, 1);
  await run.engine.close();
});

test('an abort takes effect while tokenising, in the queue, between prefill chunks and while decoding', async () => {
  const run = startEngine({ slots: 1, encodeMs: 20, delayMs: 2, stepTokens: 64 });
  const endOf = async (request: GenerationRequest, when: (events: GenerationEvent[]) => boolean): Promise<GenerationEvent[]> => {
    const controller = new AbortController();
    const events: GenerationEvent[] = [];
    for await (const batch of run.engine.generate({ ...request, signal: controller.signal })) {
      events.push(...batch);
      if (when(events)) controller.abort();
    }
    return events;
  };
  const long = generationRequest(promptOf(1, 900), { maxTokens: 100, progress: true });
  const prefill = await endOf(long, (events) => events.some(({ kind }) => kind === 'progress'));
  assert.ok(!prefill.some(({ kind }) => kind === 'tokens'));
  assert.equal(collected(prefill).end.reason, 'aborted');
  const retry = collected(await collect(run.engine, long));
  assert.ok(retry.end.usage.cachedTokens > 0, 'what was computed before the abort is reused');
  const decode = await endOf(long, (events) => events.some(({ kind }) => kind === 'tokens'));
  assert.equal(collected(decode).end.reason, 'aborted');
  assert.ok(collected(decode).tokens.length < 100);
  assert.deepEqual(collected(decode).tokens, retry.tokens.slice(0, collected(decode).tokens.length));

  const running = collect(run.engine, generationRequest(promptOf(2, 100), { maxTokens: 30 }));
  await until(() => run.engine.stats().running === 1, 'the seat is taken');
  const queued = await endOf(generationRequest(promptOf(3, 10), { n: 2 }), () => true);
  assert.deepEqual(
    queued.map((event) => event.kind === 'end' && event.reason),
    ['aborted', 'aborted'],
  );
  const tokenising = new AbortController();
  setTimeout(() => tokenising.abort(), 5);
  const text = await collect(run.engine, {
    ...generationRequest([]),
    input: { kind: 'text', text: 'abc' },
    signal: tokenising.signal,
  });
  assert.deepEqual(
    text.map((event) => event.kind === 'end' && event.reason),
    ['aborted'],
  );
  await running;
  await assertIdle(run);
  await run.engine.close();
});

test('a reader that leaves aborts its request', async () => {
  const run = startEngine({ delayMs: 1 });
  for await (const batch of run.engine.generate(generationRequest(promptOf(1, 10), { maxTokens: 500 }))) {
    if (batch.some(({ kind }) => kind === 'tokens')) break;
  }
  await assertIdle(run);
  assert.equal(run.engine.stats().finished.aborted, 1);
  await run.engine.close();
});

test('a stalled reader stops its own sequence only, and misses nothing', async () => {
  const run = startEngine({ slots: 1, maxModelLen: 3000, contextBlocks: 60, windowBlocks: 30, mtp: 0 });
  const stop = { strings: [], tokens: [], includeInOutput: false, ignoreEos: true, minTokens: 0 };
  const request = generationRequest(promptOf(1, 10), { maxTokens: 2000, stop });
  const stalled = run.engine.generate(request);
  await stalled.next();
  await until(() => run.engine.stats().generatedTokens * 2 >= MAX_UNREAD_EVENTS - 1, 'the reader is far behind');
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.ok(run.engine.stats().generatedTokens < MAX_UNREAD_EVENTS, 'the sequence is paused');
  // Its seat is given to others meanwhile.
  const other = generationRequest(promptOf(2, 10));
  assert.deepEqual(collected(await collect(run.engine, other)).tokens, expected(other, run.sizes.maxModelLen));
  const events: GenerationEvent[] = [];
  for await (const batch of stalled) events.push(...batch);
  assert.deepEqual(collected(events).tokens, expected(request, run.sizes.maxModelLen));
  await assertIdle(run);
  await run.engine.close();
});

test('a refused plan ends what was in it; the engine goes on', async () => {
  const run = startEngine();
  run.native.failure = Object.assign(new Error('row 0: no such slot'), { code: 'INVALID_PLAN' });
  const { end } = collected(await collect(run.engine, generationRequest(promptOf(1, 10), { n: 2 })));
  assert.equal(end.reason, 'error');
  assert.equal(end.error?.code, 'INVALID_PLAN');
  assert.deepEqual(run.engine.health(), { ok: true });
  const request = generationRequest(promptOf(1, 200));
  assert.deepEqual(collected(await collect(run.engine, request)).tokens, expected(request, run.sizes.maxModelLen));
  await assertIdle(run);
  await run.engine.close();
});

test('a lost device ends everything with its code, turns health red and refuses what comes', async () => {
  const run = startEngine({ slots: 2, delayMs: 1 });
  const readers = Array.from({ length: 4 }, (_, i) =>
    collect(run.engine, generationRequest(promptOf(i, 200), { maxTokens: 200, n: 2 })),
  );
  await until(() => run.engine.stats().generatedTokens > 4, 'answers run');
  run.native.failure = Object.assign(new Error('device 0 fell off the bus'), { code: 'DEVICE_LOST' });
  for (const events of await Promise.all(readers)) {
    for (const choice of [0, 1]) {
      assert.equal(collected(events, choice).ends.length, 1);
      assert.ok(['error', 'stop'].includes(collected(events, choice).end.reason));
    }
  }
  assert.deepEqual(run.engine.health(), { ok: false, reason: 'device 0 fell off the bus' });
  assert.equal((await refusal(run.engine, generationRequest([2, 3]))).code, 'DEVICE_LOST');
  await assertIdle(run);
  await run.engine.close();
});

test('draining finishes what runs, aborts what takes too long and admits nothing', async () => {
  const run = startEngine({ delayMs: 1 });
  const short = collect(run.engine, generationRequest(promptOf(1, 10), { maxTokens: 5 }));
  const stop = { strings: [], tokens: [], includeInOutput: false, ignoreEos: true, minTokens: 0 };
  const long = collect(run.engine, generationRequest(promptOf(2, 10), { maxTokens: 900, stop }));
  await until(() => run.engine.stats().running === 2, 'both run');
  const drained = run.engine.drain(100);
  assert.equal((await refusal(run.engine, generationRequest([2, 3]))).code, 'CLOSED');
  await drained;
  assert.notEqual(collected(await short).end.reason, 'aborted');
  assert.equal(collected(await long).end.reason, 'aborted');
  await assertIdle(run);
  await run.engine.close();
});

test('a grammar holds for every choice, with drafts as without, whatever else runs', async () => {
  const results: string[][] = [];
  for (const mtp of [0, 3]) {
    const run = startEngine({ mtp, draftQuality: 0.9 });
    const other = collect(run.engine, generationRequest(promptOf(1, 200), { maxTokens: 60 }));
    const grammar = { spec: { kind: 'regex', pattern: '([a-f]{3}-?[0-9]){2,5}Z' }, param: 'regex' } as const;
    const request = generationRequest(promptOf(2, 150), { maxTokens: 60, n: 3, grammar });
    const events = await collect(run.engine, { ...request, stop: { ...request.stop, ignoreEos: true, minTokens: 50 } });
    results.push([0, 1, 2].map((choice) => collected(events, choice).text));
    for (const choice of [0, 1, 2]) {
      assert.match(collected(events, choice).text, /^([a-f]{3}[0-9]){2,5}Z$/);
      assert.equal(collected(events, choice).end.reason, 'stop');
    }
    await other;
    await assertIdle(run);
    await run.engine.close();
  }
  assert.deepEqual(results[0], results[1]);
});

test('a grammar that cannot be used is refused and named by its field', async () => {
  const run = startEngine();
  const error = await refusal(
    run.engine,
    generationRequest([2, 3], {
      grammar: { spec: { kind: 'ebnf', grammar: 'root ::= undefined_rule' }, param: 'guided_grammar' },
    }),
  );
  assert.equal(error.code, 'INVALID_REQUEST');
  assert.equal(error.details.param, 'guided_grammar');
  await run.engine.close();
});

test('whatever is asked, aborted and stopped at once, every choice ends once and its tokens are those it has alone', async () => {
  const arbitraryRequest = fc.record({
    family: fc.nat(3),
    length: fc.integer({ min: 1, max: 500 }),
    maxTokens: fc.integer({ min: 0, max: 40 }),
    n: fc.constantFrom(1, 1, 2, 3),
    seed: fc.bigInt({ min: 0n, max: 1n << 40n }),
    stops: fc.array(fc.string({ minLength: 1, maxLength: 2, unit: fc.constantFrom(...'abcdefgh') }), { maxLength: 2 }),
    abortAfterEvents: fc.option(fc.nat(20), { freq: 3 }),
    startMs: fc.nat(10),
  });
  const property = fc.asyncProperty(
    fc.array(arbitraryRequest, { minLength: 1, maxLength: 8 }),
    fc.nat(4),
    fc.boolean(),
    async (requests, mtp, tight) => {
      const run = startEngine({ mtp, ...(tight ? { windowBlocks: 9, contextBlocks: 12 } : {}) });
      const readers = requests.map(async ({ family, length, maxTokens, n, seed, stops, abortAfterEvents, startMs }) => {
        await new Promise((resolve) => setTimeout(resolve, startMs));
        const base = generationRequest(promptOf(family, length), { maxTokens, n });
        const controller = new AbortController();
        const request = { ...base, sampling: { ...base.sampling, seed }, stop: { ...base.stop, strings: stops } };
        const events: GenerationEvent[] = [];
        for await (const batch of run.engine.generate({ ...request, signal: controller.signal })) {
          events.push(...batch);
          if (abortAfterEvents !== null && events.length >= abortAfterEvents) controller.abort();
        }
        for (let choice = 0; choice < n; choice++) {
          const { tokens, text, ends, end } = collected(events, choice);
          assert.equal(ends.length, 1);
          const whole = expected(request, run.sizes.maxModelLen, choice);
          assert.deepEqual(tokens, whole.slice(0, tokens.length));
          assert.ok(textOf(tokens).startsWith(text));
          if (end.reason === 'length' || (end.reason === 'stop' && end.stop === undefined)) assert.deepEqual(tokens, whole);
        }
      });
      await Promise.all(readers);
      await assertIdle(run);
      await run.engine.close();
    },
  );
  await fc.assert(property, { numRuns: 60 });
});
