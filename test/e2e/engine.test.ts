// SPDX-License-Identifier: MIT
// The engine on the demo checkpoint: speculation, seeds, prefix hits, sharing, stops, aborts, tools, prompt probabilities.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { GREEDY } from '../../engine/index.ts';
import type { Engine, EngineOptions, GenerationEvent, GenerationRequest, JsonText } from '../../engine/index.ts';
import { collected, until } from '../helpers/engine-run.ts';
import { NO_STOP, demoRequest, eventsOf, question, questions, withDemo } from '../helpers/demo-engine.ts';

const PROMPTS = 200;

async function tokensOf(engine: Engine, request: GenerationRequest): Promise<number[]> {
  return collected(await eventsOf(engine, request)).tokens;
}

async function assertIdle(engine: Engine): Promise<void> {
  await until(() => engine.stats().running + engine.stats().waiting === 0, 'nothing runs');
  const { freeContextBlocks, freeWindowBlocks, freeSlots } = engine.stats();
  const { contextBlocks, windowBlocks, slots } = engine.info.cache;
  assert.deepEqual([freeContextBlocks, freeWindowBlocks, freeSlots], [contextBlocks, windowBlocks, slots]);
}

/** About `words` tokens of story, so that a prompt covers several blocks. */
function longText(words: number): string {
  return Array.from({ length: words / 10 }, (_, i) => `The little cat number ${i} went to the garden. `).join('');
}

test(`greedy answers to ${PROMPTS} prompts are the same with 0, 1, 2 and 4 drafts`, async () => {
  let plain: number[][] = [];
  for (const mtp of [0, 1, 2, 4]) {
    await withDemo({ mtp }, async (engine) => {
      const answers = await Promise.all(
        questions(PROMPTS).map((input) => tokensOf(engine, demoRequest(input, { maxTokens: 16 }))),
      );
      if (mtp === 0) plain = answers;
      assert.deepEqual(answers, plain);
      const { draftTokens, acceptedTokens, acceptedPerPosition, drafts } = engine.stats();
      assert.equal(acceptedPerPosition.length, mtp);
      assert.equal(
        acceptedPerPosition.reduce((sum, count) => sum + count, 0),
        acceptedTokens,
      );
      if (mtp === 0) assert.equal(drafts, 0);
      else assert.ok(acceptedTokens > draftTokens * 0.3, `${acceptedTokens} of ${draftTokens} drafts accepted`);
      await assertIdle(engine);
    });
  }
});

test('answers are the same with one rank and with two, greedy and sampled, with exact and with served numerics', async () => {
  const requests = [...questions(24), question(longText(300))].flatMap((input, i) => [
    demoRequest(input, { maxTokens: 40 }),
    demoRequest(input, { maxTokens: 20, sampling: { ...GREEDY, temperature: 1, seed: BigInt(i) } }),
  ]);
  for (const changes of [{}, { numerics: 'served', kvCache: 'fp8' }] satisfies Partial<EngineOptions>[]) {
    const answers: number[][][] = [];
    for (const ranks of [{ tp: 1 }, { tp: 2, devices: [] }]) {
      await withDemo({ ...changes, ...ranks }, async (engine) => {
        answers.push(await Promise.all(requests.map((request) => tokensOf(engine, request))));
      });
    }
    assert.deepEqual(answers[1], answers[0]);
  }
});

test('a seeded request repeats exactly whatever else runs', async () => {
  await withDemo({}, async (engine) => {
    const seeded = (seed: bigint): GenerationRequest =>
      demoRequest(question('Tell me a story about a cat.'), { sampling: { ...GREEDY, temperature: 1, seed }, maxTokens: 30 });
    const seeds = [1n, 2n, 3n, 1n << 63n];
    const alone: number[][] = [];
    for (const seed of seeds) alone.push(await tokensOf(engine, seeded(seed)));
    assert.equal(new Set(alone.map(String)).size, seeds.length, 'seeds differ in what they give');
    const others = questions(20).map((input) => tokensOf(engine, demoRequest(input)));
    assert.deepEqual(await Promise.all(seeds.map((seed) => tokensOf(engine, seeded(seed)))), alone);
    await Promise.all(others);
  });
  await withDemo({ mtp: 0 }, async (engine) => {
    const request = demoRequest(question('Tell me a dream.'), { sampling: { ...GREEDY, temperature: 1, seed: 5n }, n: 3 });
    const events = await eventsOf(engine, request);
    for (const choice of [0, 1, 2]) {
      const single = { ...request, n: 1, sampling: { ...request.sampling, seed: 5n + BigInt(choice) } };
      assert.deepEqual(collected(events, choice).tokens, await tokensOf(engine, single));
    }
  });
});

test('sampled tokens have the distribution of the model, with drafts as without', async () => {
  const samples = 900;
  for (const mtp of [0, 2]) {
    await withDemo({ mtp }, async (engine) => {
      const observed = new Map<string, { counts: Map<number, number>; logprobs: Map<number, number>; total: number }>();
      const count = (history: string, event: GenerationEvent & { kind: 'tokens' }, i: number): void => {
        const seen = observed.get(history) ?? { counts: new Map(), logprobs: new Map(), total: 0 };
        observed.set(history, seen);
        seen.counts.set(event.ids[i]!, (seen.counts.get(event.ids[i]!) ?? 0) + 1);
        for (const { token, logprob } of event.logprobs![i]!.top) seen.logprobs.set(token, logprob);
        seen.total += 1;
      };
      const input = question('Tell me a story.');
      const sample = async (seed: number): Promise<void> => {
        const sampling = { ...GREEDY, temperature: 1, seed: BigInt(seed) };
        let history = '';
        for (const event of await eventsOf(engine, demoRequest(input, { sampling, maxTokens: 4, logprobs: 20 }))) {
          if (event.kind !== 'tokens') continue;
          event.ids.forEach((id, i) => {
            count(history, event, i);
            history += ` ${id}`;
          });
        }
      };
      await Promise.all(Array.from({ length: samples }, (_, seed) => sample(seed)));
      let tested = 0;
      for (const { counts, logprobs, total } of observed.values()) {
        if (total < 200) continue;
        tested += 1;
        assertDistribution(counts, logprobs, total);
      }
      assert.ok(tested >= 3, `${tested} histories have enough samples`);
    });
  }
});

/** Chi-square of the likely tokens and all others together; the bound is 1e-5 wrong alarms a history (Wilson-Hilferty). */
function assertDistribution(counts: Map<number, number>, logprobs: Map<number, number>, total: number): void {
  let statistic = 0;
  let bins = 0;
  let rest = { expected: total, observed: total };
  for (const [token, logprob] of logprobs) {
    const expected = Math.exp(logprob) * total;
    if (expected < 8) continue;
    const found = counts.get(token) ?? 0;
    statistic += (found - expected) ** 2 / expected;
    rest = { expected: rest.expected - expected, observed: rest.observed - found };
    bins += 1;
  }
  if (rest.expected >= 8) {
    statistic += (rest.observed - rest.expected) ** 2 / rest.expected;
    bins += 1;
  }
  const freedom = Math.max(1, bins - 1);
  const bound = freedom * (1 - 2 / (9 * freedom) + 4.27 * Math.sqrt(2 / (9 * freedom))) ** 3;
  assert.ok(statistic <= bound, `chi-square ${statistic} with ${freedom} degrees of freedom, bound ${bound}`);
}

test('a cached prefix changes the time, not the answer', async () => {
  await withDemo({}, async (engine) => {
    const request = demoRequest(question(longText(900)), { logprobs: 0 });
    const cold = collected(await eventsOf(engine, request));
    const cached = collected(await eventsOf(engine, request));
    const { promptTokens } = cold.end.usage;
    assert.ok(promptTokens > 700);
    assert.equal(cold.end.usage.cachedTokens, 0);
    assert.equal(cached.end.usage.cachedTokens, Math.floor((promptTokens - 1) / 128) * 128);
    assert.deepEqual(cached.tokens, cold.tokens);
    const logprobs = ({ events }: typeof cold): number[] =>
      events.flatMap((event) => (event.kind === 'tokens' ? event.logprobs!.map(({ logprob }) => logprob) : []));
    logprobs(cold).forEach((logprob, i) => assert.ok(Math.abs(logprob - logprobs(cached)[i]!) < 2e-3));
    const continued = collected(await eventsOf(engine, demoRequest(question(`${longText(900)} And then?`))));
    assert.ok(continued.end.usage.cachedTokens > 0, 'the conversation goes on from what is cached');
  });
});

test('short of memory, sequences are preempted and give what they give with plenty', async () => {
  const inputs = Array.from({ length: 6 }, (_, i) => question(`${longText(200 + 40 * i)} Tell me a story about it.`));
  const stop = { ...NO_STOP, ignoreEos: true };
  const ask = (engine: Engine): Promise<number[][]> =>
    Promise.all(inputs.map((input) => tokensOf(engine, demoRequest(input, { maxTokens: 150, stop }))));
  let plenty: number[][] = [];
  await withDemo({ mtp: 2 }, async (engine) => {
    plenty = await ask(engine);
    assert.equal(engine.stats().preemptions, 0);
  });
  const tight = { mtp: 2, maxModelLen: 640, maxSequences: 6, stepTokens: 160, kvMemoryBytes: 47 * 2 ** 20 };
  await withDemo(tight, async (engine) => {
    assert.deepEqual(await ask(engine), plenty);
    assert.ok(engine.stats().preemptions > 0);
    await assertIdle(engine);
  });
});

test('prompt log-probabilities are those the tokens had when they were sampled', async () => {
  await withDemo({}, async (engine) => {
    const input = question('What is the capital of France?');
    const first = collected(await eventsOf(engine, demoRequest(input, { logprobs: 3 })));
    const sampled = first.events.flatMap((event) => (event.kind === 'tokens' ? event.logprobs! : []));
    for (const { token, top } of sampled) assert.equal(top[0]!.token, token, 'the greedy token is the likeliest');
    const prompt = await engine.encode(input);
    const tokens = Int32Array.from([...prompt, ...first.tokens]);
    for (const maxTokens of [0, 1]) {
      const echo = demoRequest({ kind: 'tokens', tokens }, { maxTokens, promptLogprobs: 3 });
      const [told] = await eventsOf(engine, echo);
      assert.ok(told?.kind === 'prompt');
      sampled.forEach(({ token, logprob, top }, i) => {
        const entry = told.logprobs![prompt.length + i]!;
        assert.equal(entry.token, token);
        assert.ok(Math.abs(entry.logprob - logprob) < 2e-3);
        assert.deepEqual(
          entry.top.map((other) => other.token),
          top.map((other) => other.token),
        );
      });
    }
  });
});

test('a stop string ends the answer before it, wherever its tokens are cut', async () => {
  await withDemo({ mtp: 4 }, async (engine) => {
    const input = question('Tell me a story about a cat.');
    const whole = collected(await eventsOf(engine, demoRequest(input, { maxTokens: 60 })));
    for (const cut of [20, 33, 47]) {
      const stop = whole.text.slice(cut, cut + 5);
      const { text, end } = collected(
        await eventsOf(engine, demoRequest(input, { maxTokens: 60, stop: { ...NO_STOP, strings: [stop] } })),
      );
      assert.equal(text, whole.text.slice(0, whole.text.indexOf(stop)));
      assert.deepEqual([end.reason, end.stop], ['stop', stop]);
    }
    await assertIdle(engine);
  });
});

const WEATHER: JsonText = {
  json:
    '{"name": "get_weather", "description": "Get the current weather in a city", "parameters": {"type": "object", ' +
    '"properties": {"city": {"type": "string", "description": "The city"}}, "required": ["city"]}}',
};

test('a tool call comes as events, also one that is forced behind the reasoning', async () => {
  await withDemo({}, async (engine) => {
    for (const toolChoice of ['auto', 'required'] as const) {
      const content = toolChoice === 'auto' ? 'What is the weather in Paris?' : 'Paris?';
      const input = question(content, { thinking: true, tools: [WEATHER], toolChoice });
      const { events, end } = collected(await eventsOf(engine, demoRequest(input, { maxTokens: 200 })));
      const call = events.find((event) => event.kind === 'tool-call');
      assert.equal(call?.kind === 'tool-call' && call.name, 'get_weather');
      const text = events.map((event) => (event.kind === 'tool-arguments' ? event.text : '')).join('');
      assert.equal(typeof JSON.parse(text), 'object');
      assert.equal(end.reason, 'tool_calls');
      assert.ok(!events.some((event) => event.kind === 'answer' && event.text.includes('DSML')));
    }
  });
});

test('an answer keeps to its schema behind free reasoning, with and without drafts', async () => {
  const schema =
    '{"type": "object", "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}}, ' +
    '"required": ["name", "age"], "additionalProperties": false}';
  const grammar = { spec: { kind: 'json-schema', schema: { json: schema }, strict: true }, param: 'response_format' } as const;
  const answers: string[][] = [];
  for (const mtp of [0, 4]) {
    await withDemo({ mtp }, async (engine) => {
      const inputs = ['What is 2 + 2?', 'Write JSON about Tom.', 'Tell me a story.'].map((content) =>
        question(content, { thinking: true }),
      );
      const results = await Promise.all(inputs.map((input) => eventsOf(engine, demoRequest(input, { grammar, maxTokens: 200 }))));
      answers.push(results.map((events) => collected(events).text));
      for (const events of results) {
        const value = JSON.parse(collected(events).text) as { name: unknown; age: unknown };
        assert.equal(typeof value.name, 'string');
        assert.ok(Number.isInteger(value.age));
        assert.ok(events.some(({ kind }) => kind === 'reasoning'));
      }
      await assertIdle(engine);
    });
  }
  assert.deepEqual(answers[0], answers[1]);
});

test('an abort while the prompt is computed frees everything within a step', async () => {
  await withDemo({ stepTokens: 128, maxSequences: 4 }, async (engine) => {
    const controller = new AbortController();
    const request = demoRequest(question(longText(4000)), { signal: controller.signal, progress: true });
    const events: GenerationEvent[] = [];
    for await (const batch of engine.generate(request)) {
      events.push(...batch);
      if (batch.some(({ kind }) => kind === 'progress')) controller.abort();
    }
    assert.equal(collected(events).end.reason, 'aborted');
    assert.ok(events.filter(({ kind }) => kind === 'progress').length <= 2);
    await assertIdle(engine);
  });
});

test('the model says what it is, and refuses a prompt that is too long', async () => {
  await withDemo({ maxModelLen: 256 }, async (engine) => {
    assert.equal(engine.info.mtp, 2);
    assert.deepEqual(engine.info.layers, { swa: 2, csa: 2, hca: 2 });
    assert.deepEqual(engine.info.generationDefaults, { temperature: 0.7, topP: 0.95 });
    assert.equal(engine.info.encoderRevision, 'preview');
    const refused = engine
      .generate(demoRequest(question(longText(600))))
      [Symbol.asyncIterator]()
      .next();
    await assert.rejects(refused, { code: 'CONTEXT_LENGTH_EXCEEDED' });
    const stop = { ...NO_STOP, ignoreEos: true };
    const { end } = collected(await eventsOf(engine, demoRequest(question('Go on.'), { maxTokens: 5000, stop })));
    assert.equal(end.reason, 'length');
    assert.equal(end.usage.promptTokens + end.usage.completionTokens, 256);
  });
});
