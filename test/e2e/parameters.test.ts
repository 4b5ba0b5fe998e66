// SPDX-License-Identifier: MIT
// What the parameters of a chat completion do to the demo model's answers.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { demoServer } from '../helpers/demo-server.ts';
import type { DemoServer } from '../helpers/demo-server.ts';
import { post } from '../helpers/http.ts';

const contextTokens = 1024;

let server: DemoServer;
before(async () => {
  server = await demoServer({}, { maxModelLen: contextTokens });
});
after(() => server.close());

interface Completion {
  choices: {
    message: {
      content: string | null;
      reasoning_content: string | null;
      tool_calls?: { function: { name: string; arguments: string } }[];
    };
    finish_reason: string;
    stop_reason: string | number | null;
    logprobs: { content: { token: string }[] } | null;
  }[];
  usage: {
    prompt_tokens: number;
    completion_tokens: number;
    prompt_tokens_details: { cached_tokens: number };
  };
  timings?: { predicted_n: number; draft_n: number; draft_n_accepted: number; prompt_ms: number };
}

const plain = { thinking: { type: 'disabled' } };
const story = { messages: [{ role: 'user', content: 'Tell me a story.' }], ...plain, temperature: 0, max_tokens: 24 };

async function complete(body: object): Promise<Completion> {
  const response = await post(`${server.url}/v1/chat/completions`, body);
  assert.equal(response.status, 200, await response.clone().text());
  return (await response.json()) as Completion;
}

async function textOf(body: object): Promise<string> {
  return (await complete(body)).choices[0]?.message.content ?? '';
}

async function idsOf(prompt: string): Promise<number[]> {
  const response = await post(`${server.url}/tokenize`, { prompt });
  return ((await response.json()) as { tokens: number[] }).tokens;
}

describe('sampling', () => {
  test('of the best token alone is greedy: top_k 1, a tiny top_p, min_p near 1', async () => {
    const greedy = await textOf(story);
    for (const fields of [{ top_k: 1 }, { top_p: 1e-6 }, { top_p: 0 }, { min_p: 0.999 }, { min_p: 1 }]) {
      assert.equal(await textOf({ ...story, temperature: 1, seed: 3, ...fields }), greedy, JSON.stringify(fields));
    }
  });

  test('takes numbers that 32 bits cannot hold: they fail neither their own step nor that of others', async () => {
    const others = Array.from({ length: 3 }, (_, seed) => textOf({ ...story, max_tokens: 200, ignore_eos: true, seed }));
    const edges = [
      { top_p: 1e-300 },
      { top_p: 1e-40 },
      { top_p: 0.999999999999 },
      { min_p: 0.999999999999 },
      { top_k: 2 ** 31 - 1 },
      { temperature: 1e-300 },
      { temperature: 1e-40 },
      { presence_penalty: 1e-300, frequency_penalty: -1e-300 },
      { logit_bias: { 5: 1e-300 } },
      { seed: 2 ** 63, priority: -(2 ** 53) + 1, min_tokens: 2 ** 31 - 1 },
    ];
    for (const fields of edges) {
      const { choices } = await complete({ ...story, temperature: 1, max_tokens: 3, ...fields });
      assert.equal(choices[0]?.finish_reason, 'length', JSON.stringify(fields));
    }
    for (const text of await Promise.all(others)) assert.ok(text.length > 0);
  });

  test('with a temperature differs between seeds and not with one', async () => {
    const texts = await Promise.all([1, 1, 2, 3].map((seed) => textOf({ ...story, temperature: 1, seed })));
    assert.equal(texts[0], texts[1]);
    assert.equal(new Set(texts).size, 3);
  });

  test('is moved by each penalty', async () => {
    const greedy = await textOf({ ...story, max_tokens: 100 });
    for (const fields of [{ repetition_penalty: 2 }, { frequency_penalty: 2 }, { presence_penalty: 2 }]) {
      assert.notEqual(await textOf({ ...story, max_tokens: 100, ...fields }), greedy, JSON.stringify(fields));
    }
  });

  test('never takes a token whose bias forbids it, and takes one that it demands', async () => {
    const { choices } = await complete({ ...story, logprobs: true });
    const [first] = choices[0]!.logprobs!.content;
    const [id] = await idsOf(first!.token);
    assert.notEqual((await textOf({ ...story, logit_bias: { [id!]: -100 } })).indexOf(first!.token), 0);
    const [dog] = await idsOf(' dog');
    assert.equal(await textOf({ ...story, max_tokens: 3, logit_bias: { [dog!]: 100 } }), ' dog dog dog');
  });
});

describe('ending', () => {
  test('waits for min_tokens and ignores the end token with ignore_eos', async () => {
    const short = { ...story, messages: [{ role: 'user', content: 'What is 12 + 30?' }], max_tokens: 60 };
    const natural = await complete(short);
    assert.equal(natural.choices[0]?.finish_reason, 'stop');
    const least = natural.usage.completion_tokens + 10;
    assert.ok((await complete({ ...short, min_tokens: least })).usage.completion_tokens >= least);
    const ignoring = await complete({ ...short, ignore_eos: true });
    assert.deepEqual([ignoring.usage.completion_tokens, ignoring.choices[0]?.finish_reason], [60, 'length']);
  });

  test('comes at a stop token, which is named, or a stop string, which is shown on request', async () => {
    const text = await textOf(story);
    const word = text.split(' ')[3]!;
    const cut = await complete({ ...story, stop: ` ${word}` });
    assert.equal(cut.choices[0]?.message.content, text.slice(0, text.indexOf(` ${word}`)));
    const shown = await textOf({ ...story, stop: ` ${word}`, include_stop_str_in_output: true });
    assert.equal(shown, `${cut.choices[0]?.message.content} ${word}`);
    const { choices } = await complete({ ...story, logprobs: true });
    const [id] = await idsOf(choices[0]!.logprobs!.content[2]!.token);
    const stopped = await complete({ ...story, stop_token_ids: [id] });
    assert.equal(stopped.choices[0]?.stop_reason, id);
    assert.ok(stopped.usage.completion_tokens <= 3);
  });

  test('comes at the end of the context when more is asked for than fits', async () => {
    const messages = [{ role: 'user', content: 'one two three four five '.repeat(150) }];
    const { usage, choices } = await complete({ ...story, messages, max_tokens: contextTokens, ignore_eos: true });
    assert.ok(usage.prompt_tokens < contextTokens);
    assert.equal(usage.prompt_tokens + usage.completion_tokens, contextTokens);
    assert.equal(choices[0]?.finish_reason, 'length');
  });
});

describe('thinking', () => {
  const sum = { messages: [{ role: 'user', content: 'What is 12 + 30?' }], temperature: 0 };

  test('is left out of the answer, and still counted, without include_reasoning', async () => {
    const shown = await complete(sum);
    const hidden = await complete({ ...sum, include_reasoning: false });
    assert.ok((shown.choices[0]?.message.reasoning_content ?? '').length > 0);
    assert.equal(hidden.choices[0]?.message.reasoning_content, null);
    assert.equal(hidden.choices[0]?.message.content, shown.choices[0]?.message.content);
    assert.equal(hidden.usage.completion_tokens, shown.usage.completion_tokens);
  });
});

describe('tools', () => {
  const functions = ['get_weather', 'get_time'].map((name) => ({
    type: 'function',
    function: {
      name,
      parameters: { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] },
    },
  }));
  const asking = { messages: [{ role: 'user', content: 'Hello!' }], tools: functions, temperature: 0, max_tokens: 300 };
  const named = { type: 'function', function: { name: 'get_time' } };

  for (const [title, mode] of [
    ['with thinking', {}],
    ['without thinking', plain],
  ] as const) {
    test(`are called ${title} when a call is required or one is named`, async () => {
      const required = await complete({ ...asking, ...mode, tool_choice: 'required' });
      assert.equal(required.choices[0]?.finish_reason, 'tool_calls');
      for (const call of required.choices[0]?.message.tool_calls ?? []) JSON.parse(call.function.arguments);
      const { choices } = await complete({ ...asking, ...mode, tool_choice: named });
      assert.equal(choices[0]?.message.tool_calls?.[0]?.function.name, 'get_time');
      assert.equal(choices[0]?.finish_reason, 'tool_calls');
    });
  }

  test('are never called with tool_choice none', async () => {
    const oslo = { ...asking, messages: [{ role: 'user', content: "What's the weather in Oslo?" }] };
    assert.equal((await complete({ ...oslo, tool_choice: 'none' })).choices[0]?.message.tool_calls, undefined);
  });
});

describe('the server', () => {
  test('keeps cached prompts of different salts and users apart', async () => {
    const body = { ...story, messages: [{ role: 'user', content: 'The sun was warm. '.repeat(80) }], max_tokens: 1 };
    const cached = async (fields: object): Promise<number> =>
      (await complete({ ...body, ...fields })).usage.prompt_tokens_details.cached_tokens;
    assert.equal(await cached({ cache_salt: 'a' }), 0);
    assert.ok((await cached({ cache_salt: 'a' })) >= 128);
    assert.equal(await cached({ user_id: 'b' }), 0);
    assert.ok((await cached({ user_id: 'b' })) >= 128);
  });

  test('says how long an answer took and how many drafts were kept', async () => {
    const { timings, usage } = await complete({ ...story, max_tokens: 60, return_timings: true });
    assert.equal(timings?.predicted_n, usage.completion_tokens);
    assert.ok(timings.draft_n > timings.draft_n_accepted && timings.draft_n_accepted > 0);
    assert.ok(timings.prompt_ms > 0);
  });
});
