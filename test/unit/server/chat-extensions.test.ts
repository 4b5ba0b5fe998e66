// SPDX-License-Identifier: MIT
// What completions take and give beyond OpenAI's fields.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { ChatInput, GenerationEvent } from '../../../engine/index.ts';
import { chunksOf, post, testServer } from '../../helpers/http.ts';
import { answer, progress, scriptedEngine } from '../../helpers/scripted-engine.ts';
import type { ScriptedEngine } from '../../helpers/scripted-engine.ts';

const hello = { messages: [{ role: 'user', content: 'Hello' }] };

interface Chunk {
  choices: { index: number; delta: Record<string, unknown>; text: string; finish_reason: string | null }[];
  usage?: object | null;
  timings?: Record<string, number>;
  prompt_progress?: Record<string, number>;
}

/** An engine whose ends say what a real one would have measured. */
function measured(engine: ScriptedEngine): ScriptedEngine {
  const play = engine.generate.bind(engine);
  const filled = (event: GenerationEvent): GenerationEvent => {
    if (event.kind !== 'end') return event;
    const usage = {
      ...event.usage,
      promptTokens: 30,
      cachedTokens: 10,
      completionTokens: 5,
      draftedTokens: 4,
      acceptedTokens: 3,
    };
    return { ...event, usage, timing: { queuedMs: 10, firstTokenMs: 50, totalMs: 150 } };
  };
  engine.generate = async function* (request) {
    for await (const batch of play(request)) yield batch.map(filled);
  };
  return engine;
}

const timings = {
  ...{ queue_ms: 10, cache_n: 10, prompt_n: 20, prompt_ms: 40, prompt_per_second: 500 },
  ...{ predicted_n: 5, predicted_ms: 100, predicted_per_second: 50, draft_n: 4, draft_n_accepted: 3 },
};

describe('timings', () => {
  test('come with a whole answer that asked for them, and only then', async (t) => {
    const { url } = await testServer(t, measured(scriptedEngine([answer('Hi')])));
    const asked = (await (await post(`${url}/v1/chat/completions`, { ...hello, return_timings: true })).json()) as Chunk;
    assert.deepEqual(asked.timings, timings);
    const plain = (await (await post(`${url}/v1/chat/completions`, hello)).json()) as Chunk;
    assert.ok(!('timings' in plain));
  });

  test('stand on the chunk with the finish reason, added up over the choices that have ended', async (t) => {
    const { url } = await testServer(t, measured(scriptedEngine([answer('Hi')])));
    const body = { ...hello, stream: true, return_timings: true, n: 2 };
    const chunks = await chunksOf<Chunk>(await post(`${url}/v1/chat/completions`, body));
    assert.deepEqual(
      chunks.filter((chunk) => chunk.timings !== undefined).map((chunk) => [chunk.choices[0]?.finish_reason, chunk.timings]),
      [
        ['stop', timings],
        ['stop', { ...timings, predicted_n: 10, predicted_per_second: 100, draft_n: 8, draft_n_accepted: 6 }],
      ],
    );
  });
});

describe('text completions', () => {
  const path = '/v1/completions';

  test('have timings too, prompts added up', async (t) => {
    const { url } = await testServer(t, measured(scriptedEngine([answer('Hi')])));
    const body = { prompt: ['a', 'b'], return_timings: true };
    const both = { ...timings, cache_n: 20, prompt_n: 40, prompt_per_second: 1000 };
    const all = { ...both, predicted_n: 10, predicted_per_second: 100, draft_n: 8, draft_n_accepted: 6 };
    assert.deepEqual(((await (await post(`${url}${path}`, body)).json()) as Chunk).timings, all);
    const chunks = await chunksOf<Chunk>(await post(`${url}${path}`, { ...body, stream: true }));
    const told = chunks.filter((chunk) => chunk.timings !== undefined);
    assert.deepEqual(
      told.map(({ choices, timings: at }) => [choices[0]?.finish_reason, at]),
      [
        ['stop', timings],
        ['stop', all],
      ],
    );
    assert.ok(!('timings' in ((await (await post(`${url}${path}`, { prompt: 'a' })).json()) as Chunk)));
  });

  test('tell the progress of each prompt in chunks without text', async (t) => {
    const engine = scriptedEngine([progress(1), answer('Hi')]);
    const { url } = await testServer(t, engine);
    const body = { prompt: ['ab', 'c'], stream: true, return_progress: true };
    const chunks = await chunksOf<Chunk>(await post(`${url}${path}`, body));
    const told = chunks.filter((chunk) => chunk.prompt_progress !== undefined);
    const seen = told.map(({ choices: [choice], prompt_progress: at }) => [
      choice?.index,
      choice?.text,
      at?.['processed'],
      at?.['total'],
    ]);
    assert.deepEqual(
      seen.sort((a, b) => Number(a[0]) - Number(b[0])),
      [
        [0, '', 1, 2],
        [1, '', 1, 1],
      ],
    );
    assert.ok(engine.requests.every((request) => request.progress === true));
  });
});

describe('usage of streams', () => {
  for (const [path, body] of [
    ['/v1/chat/completions', hello],
    ['/v1/completions', { prompt: 'x' }],
  ] as const) {
    test(`comes last on ${path} when the server sends it unasked`, async (t) => {
      const { url } = await testServer(t, scriptedEngine([answer('Hi')]), { forceIncludeUsage: true });
      const chunks = await chunksOf<Chunk>(await post(`${url}${path}`, { ...body, stream: true }));
      const last = chunks.at(-1);
      assert.deepEqual(last?.choices, []);
      assert.ok(last?.usage);
    });
  }
});

describe('progress of the prompt', () => {
  test('is told in chunks with an empty delta', async (t) => {
    const engine = scriptedEngine([progress(8), progress(22), answer('Hi')], { cachedTokens: 4 });
    const { url } = await testServer(t, engine);
    const body = { ...hello, stream: true, return_progress: true };
    const chunks = await chunksOf<Chunk>(await post(`${url}/v1/chat/completions`, body));
    assert.equal(chunks[0]?.choices[0]?.delta['role'], 'assistant');
    const told = chunks.filter((chunk) => chunk.prompt_progress !== undefined);
    assert.deepEqual(
      told.map(({ choices, prompt_progress: at }) => [choices[0]?.delta, at?.['total'], at?.['cache'], at?.['processed']]),
      [
        [{}, 22, 4, 8],
        [{}, 22, 4, 22],
      ],
    );
    assert.ok(told.every(({ prompt_progress: at }) => Number.isInteger(at?.['time_ms'])));
    assert.equal(engine.requests[0]?.progress, true);
  });

  test('is not told unless asked for', async (t) => {
    const engine = scriptedEngine([progress(8), answer('Hi')]);
    const { url } = await testServer(t, engine);
    const chunks = await chunksOf<Chunk>(await post(`${url}/v1/chat/completions`, { ...hello, stream: true }));
    assert.ok(chunks.every((chunk) => chunk.prompt_progress === undefined));
    assert.equal(engine.requests[0]?.progress, undefined);
  });
});

describe('continuing the last message', () => {
  const begun = { messages: [...hello.messages, { role: 'assistant', content: 'Once' }] };
  const continuedBy: [string, object][] = [
    ['prefix', { messages: [...hello.messages, { role: 'assistant', content: 'Once', prefix: true }] }],
    ['continue_final_message', { ...begun, continue_final_message: true }],
    ['both flags of chat templates', { ...begun, continue_final_message: true, add_generation_prompt: false }],
  ];
  for (const [title, body] of continuedBy) {
    test(`is asked for by ${title}`, async (t) => {
      const engine = scriptedEngine([answer('ok')]);
      const { url } = await testServer(t, engine);
      const response = await post(`${url}/v1/chat/completions`, body);
      assert.equal(response.status, 200, await response.text());
      const last = (engine.requests[0]?.input as ChatInput).messages.at(-1);
      assert.deepEqual(last, { role: 'assistant', content: 'Once', prefix: true });
    });
  }

  const refused: [string, object, string, string][] = [
    ['a last message of the user', { continue_final_message: true }, 'continue_final_message', 'invalid_value'],
    ['a prompt without an opener', { add_generation_prompt: false }, 'add_generation_prompt', 'unsupported_parameter'],
    ['progress without a stream', { return_progress: true }, 'return_progress', 'invalid_value'],
    [
      'a prefix in the middle',
      { messages: [{ role: 'assistant', content: 'a', prefix: true }, ...hello.messages] },
      'messages[0].prefix',
      'invalid_value',
    ],
  ];
  for (const [title, fields, param, code] of refused) {
    test(`refuses ${title}`, async (t) => {
      const { url } = await testServer(t, scriptedEngine([]));
      const response = await post(`${url}/v1/chat/completions`, { ...hello, ...fields });
      const { error } = (await response.json()) as { error: { param: string; code: string } };
      assert.deepEqual([response.status, error.param, error.code], [400, param, code]);
    });
  }
});
