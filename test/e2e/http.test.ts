// SPDX-License-Identifier: MIT
// The whole way over a real socket: server process, engine, demo checkpoint; the openai client and undici.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import OpenAI from 'openai';
import { request } from 'undici';
import { eventually, post, sseFrames } from '../helpers/http.ts';
import { serveDemo } from '../helpers/served-demo.ts';
import type { ServedDemo } from '../helpers/served-demo.ts';
import { OSLO, runnableWeather, WEATHER } from '../helpers/weather.ts';

let server: ServedDemo;
let client: OpenAI;

before(async () => {
  server = await serveDemo();
  client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'none', maxRetries: 0 });
});
after(() => server.stop());

const sum = [{ role: 'user' as const, content: 'What is 12 + 30?' }];

/** Sum of a metric over its labels. */
async function metric(name: string): Promise<number> {
  const text = await (await fetch(`${server.url}/metrics`)).text();
  const lines = text.split('\n').filter((line) => line.startsWith(`${name}{`));
  return lines.reduce((total, line) => total + Number(line.slice(line.lastIndexOf(' ') + 1)), 0);
}

const reasoningOf = (message: unknown): string | null => (message as { reasoning_content: string | null }).reasoning_content;

describe('chat through the openai client', () => {
  test('answers with thinking and usage', async () => {
    const answer = await client.chat.completions.create({ model: 'demo', messages: sum, temperature: 0 });
    assert.match(answer.choices[0]?.message.content ?? '', /42/);
    assert.ok((reasoningOf(answer.choices[0]?.message) ?? '').length > 0);
    assert.equal(answer.choices[0]?.finish_reason, 'stop');
    const { usage } = answer;
    assert.equal(usage?.total_tokens, (usage?.prompt_tokens ?? 0) + (usage?.completion_tokens ?? 0));
    assert.ok((usage?.completion_tokens_details?.reasoning_tokens ?? 0) > 0);
  });

  test('does not think when told so', async () => {
    const body = { model: 'demo', messages: sum, temperature: 0, thinking: { type: 'disabled' } };
    const answer = await client.chat.completions.create(body as OpenAI.ChatCompletionCreateParamsNonStreaming);
    assert.equal(reasoningOf(answer.choices[0]?.message), null);
    assert.match(answer.choices[0]?.message.content ?? '', /42/);
  });

  test('streams the same text that it answers as a whole', async () => {
    const body = { model: 'demo', messages: sum, temperature: 0 };
    const whole = await client.chat.completions.create(body);
    const stream = client.chat.completions.stream({ ...body, stream_options: { include_usage: true } });
    const final = await stream.finalChatCompletion();
    assert.equal(final.choices[0]?.message.content, whole.choices[0]?.message.content);
    assert.equal(final.usage?.completion_tokens, whole.usage?.completion_tokens);
  });

  test('calls a tool, takes its result and answers with it', async () => {
    const asked: string[] = [];
    const runner = client.chat.completions.runTools({
      model: 'demo',
      temperature: 0,
      messages: [{ role: 'user', content: OSLO }],
      tools: [runnableWeather(asked)],
    });
    assert.match((await runner.finalContent()) ?? '', /rainy/);
    assert.deepEqual(asked, ['Oslo']);
  });

  test('streams a tool call that the client puts together', async () => {
    const stream = client.chat.completions.stream({
      model: 'demo',
      temperature: 0,
      messages: [{ role: 'user', content: OSLO }],
      tools: [{ type: 'function', function: WEATHER }],
    });
    const { choices } = await stream.finalChatCompletion();
    assert.equal(choices[0]?.finish_reason, 'tool_calls');
    const call = choices[0]?.message.tool_calls?.[0];
    assert.ok(call?.type === 'function' && call.id.length > 8);
    assert.deepEqual([call.function.name, JSON.parse(call.function.arguments)], ['get_weather', { city: 'Oslo' }]);
  });

  test('gives several choices, each the same again with the same seed', async () => {
    const body = {
      model: 'demo',
      messages: [{ role: 'user' as const, content: 'Tell me a story.' }],
      n: 3,
      seed: 5,
      max_tokens: 24,
    };
    const texts = async (): Promise<unknown[]> =>
      (await client.chat.completions.create(body)).choices.map(({ message }) => [message.content, reasoningOf(message)]);
    const first = await texts();
    assert.equal(first.length, 3);
    assert.deepEqual(await texts(), first);
  });

  test('gives one log-probability for every token it generated', async () => {
    const body = { model: 'demo', messages: sum, temperature: 0, logprobs: true, top_logprobs: 3 };
    const answer = await client.chat.completions.create(body);
    const content = answer.choices[0]?.logprobs?.content ?? [];
    assert.equal(content.length, answer.usage?.completion_tokens);
    for (const { logprob, top_logprobs: top, bytes } of content) {
      assert.equal(top.length, 3);
      // Greedy: what was sampled is the best alternative.
      assert.equal(top[0]?.logprob, logprob);
      assert.ok((bytes?.length ?? 0) > 0);
    }
  });

  test('stops at a stop string and leaves it out', async () => {
    const body = { model: 'demo', messages: [{ role: 'user' as const, content: 'Tell me a story.' }], temperature: 0 };
    const answer = await client.chat.completions.create({ ...body, stop: [' a '] });
    assert.equal(answer.choices[0]?.finish_reason, 'stop');
    assert.doesNotMatch(answer.choices[0]?.message.content ?? '', / a /);
  });

  test('ends for length, and counts reasoning into it', async () => {
    const answer = await client.chat.completions.create({ model: 'demo', messages: sum, max_completion_tokens: 2 });
    assert.equal(answer.choices[0]?.finish_reason, 'length');
    assert.equal(answer.choices[0]?.message.content, null);
    assert.equal(answer.usage?.completion_tokens, 2);
  });

  test('finds a prompt it has seen in the cache, with the same answer', async () => {
    const long = 'The cat sat on the mat and looked at the moon. '.repeat(60);
    const body = { model: 'demo', messages: [{ role: 'user' as const, content: long }], temperature: 0, max_tokens: 8 };
    const cold = await client.chat.completions.create(body);
    const warm = await client.chat.completions.create(body);
    assert.equal(cold.usage?.prompt_tokens_details?.cached_tokens, 0);
    assert.ok((warm.usage?.prompt_tokens_details?.cached_tokens ?? 0) >= 128);
    assert.deepEqual(warm.choices, cold.choices);
  });
});

describe('structured output', () => {
  test('is JSON of the schema, with thinking before it', async () => {
    const schema = {
      type: 'object',
      properties: { name: { type: 'string' }, age: { type: 'integer' } },
      required: ['name', 'age'],
      additionalProperties: false,
    };
    const answer = await client.chat.completions.create({
      model: 'demo',
      temperature: 0,
      messages: [{ role: 'user', content: 'Tom is 7 years old. Give his name and age as JSON.' }],
      response_format: { type: 'json_schema', json_schema: { name: 'person', strict: true, schema } },
    });
    assert.ok((reasoningOf(answer.choices[0]?.message) ?? '').length > 0);
    const person = JSON.parse(answer.choices[0]?.message.content ?? '') as Record<string, unknown>;
    assert.deepEqual(Object.keys(person), ['name', 'age']);
    assert.ok(typeof person['name'] === 'string' && Number.isInteger(person['age']));
  });

  test('keeps to a choice or an expression in every one of several answers', async () => {
    const fields = [
      [{ guided_choice: ['yes', 'no'] }, /^(yes|no)$/],
      [{ structured_outputs: { regex: '[0-9]{3}-[a-c]' } }, /^[0-9]{3}-[a-c]$/],
    ] as const;
    for (const [field, pattern] of fields) {
      const body = { model: 'demo', messages: sum, n: 4, temperature: 1.5, max_tokens: 400, ...field };
      const answer = await client.chat.completions.create(body as OpenAI.ChatCompletionCreateParamsNonStreaming);
      const finished = answer.choices.filter((choice) => choice.finish_reason === 'stop');
      assert.ok(finished.length > 0);
      for (const { message } of finished) assert.match(message.content ?? '', pattern);
    }
  });

  test('of a schema that makes no sense is a 400 that names it', async () => {
    const format = { type: 'json_schema', json_schema: { name: 'x', schema: { type: 'hiccup' } } } as const;
    await assert.rejects(
      client.chat.completions.create({ model: 'demo', messages: sum, response_format: format }),
      (error) => error instanceof OpenAI.BadRequestError && error.param === 'response_format',
    );
  });
});

describe('other endpoints', () => {
  test('completions score a prompt with echo and logprobs', async () => {
    const prompt = 'Once upon a time there was';
    const answer = await client.completions.create({ model: 'demo', prompt, echo: true, logprobs: 1, max_tokens: 0 });
    const { text, logprobs } = answer.choices[0]!;
    assert.equal(text, prompt);
    assert.equal(logprobs?.tokens?.join(''), prompt);
    assert.equal(logprobs?.tokens?.length, answer.usage?.prompt_tokens);
    const values = (logprobs?.token_logprobs ?? []) as (number | null)[];
    assert.equal(values[0], null);
    assert.ok(values.slice(1).every((value) => value !== null && value <= 0));
  });

  test('completions continue several prompts at once', async () => {
    const prompt = ['One day, a dog', 'The sun was'];
    const together = await client.completions.create({ model: 'demo', prompt, temperature: 0, max_tokens: 6 });
    assert.equal(together.choices.length, 2);
    for (const [index, one] of prompt.entries()) {
      const alone = await client.completions.create({ model: 'demo', prompt: one, temperature: 0, max_tokens: 6 });
      assert.equal(together.choices[index]?.text, alone.choices[0]?.text);
    }
  });

  test('tokenising and its reverse agree with the usage of a completion', async () => {
    const prompt = 'Héllo, wörld! 你好';
    const tokenised = (await (await post(`${server.url}/tokenize`, { prompt })).json()) as { count: number; tokens: number[] };
    const answer = await client.completions.create({ model: 'demo', prompt: tokenised.tokens, max_tokens: 1 });
    assert.equal(answer.usage?.prompt_tokens, tokenised.count);
    assert.deepEqual(await (await post(`${server.url}/detokenize`, { tokens: tokenised.tokens })).json(), { prompt });
  });

  test('the model is listed', async () => {
    const { data } = await client.models.list();
    assert.deepEqual(
      data.map(({ id }) => id),
      ['demo'],
    );
    assert.equal((await client.models.retrieve('demo')).id, 'demo');
  });
});

describe('failures as the openai client sees them', () => {
  test('an unknown model is its NotFoundError', async () => {
    await assert.rejects(
      client.chat.completions.create({ model: 'none', messages: sum }),
      (error) => error instanceof OpenAI.NotFoundError && error.code === 'model_not_found' && error.param === 'model',
    );
  });

  test('a prompt above the context is its BadRequestError with the known code', async () => {
    const messages = [{ role: 'user' as const, content: 'word '.repeat(10_000) }];
    await assert.rejects(
      client.chat.completions.create({ model: 'demo', messages }),
      (error) =>
        error instanceof OpenAI.BadRequestError &&
        error.code === 'context_length_exceeded' &&
        /maximum context length is 8192 tokens/.test(error.message),
    );
  });
});

describe('the connection', () => {
  test('carries a stream in the order that clients need', async () => {
    const response = await request(`${server.url}/v1/chat/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', 'x-request-id': 'order-1' },
      body: JSON.stringify({ messages: sum, temperature: 0, stream: true, stream_options: { include_usage: true } }),
    });
    assert.equal(response.headers['x-request-id'], 'order-1');
    const frames = sseFrames(await response.body.text());
    assert.equal(frames.at(-1)?.data, '[DONE]');
    const chunks = frames.slice(0, -1).map(({ data }) => JSON.parse(data ?? '') as OpenAI.ChatCompletionChunk);
    assert.equal(chunks[0]?.choices[0]?.delta.role, 'assistant');
    assert.ok(chunks.slice(1).every(({ choices }) => choices[0]?.delta.role === undefined));
    assert.deepEqual(chunks.at(-2)?.choices[0]?.delta, {});
    assert.equal(chunks.at(-2)?.choices[0]?.finish_reason, 'stop');
    assert.deepEqual(chunks.at(-1)?.choices, []);
    assert.ok(chunks.every(({ id }) => id === 'chatcmpl-order-1'));
  });

  test('frees everything of a request whose client leaves', async () => {
    const slots = await metric('twelvex:free_slots');
    // The text of the metrics is kept for 25 ms.
    await sleep(30);
    const body = { messages: [{ role: 'user', content: 'Tell me a story.' }], stream: true, ignore_eos: true };
    const leave = new AbortController();
    const response = await post(`${server.url}/v1/chat/completions`, body, { signal: leave.signal });
    const reader = response.body!.getReader();
    await reader.read();
    assert.equal(await metric('vllm:num_requests_running'), 1);
    leave.abort();
    await assert.rejects(reader.read());
    let running = 1;
    const poll = setInterval(() => void metric('vllm:num_requests_running').then((value) => (running = value)), 30);
    await eventually(() => running === 0, 'the end of the request').finally(() => clearInterval(poll));
    assert.equal(await metric('twelvex:free_slots'), slots);
  });

  test('answers /health within 50 ms while megabytes are tokenised', async (t) => {
    const content = 'The quick brown fox jumps over the lazy dog. '.repeat(90_000);
    assert.ok(content.length > 4e6);
    let done = false;
    const big = post(`${server.url}/v1/chat/completions`, { messages: [{ role: 'user', content }] }).finally(() => (done = true));
    const times: number[] = [];
    while (!done) {
      const started = performance.now();
      await (await fetch(`${server.url}/health`)).text();
      times.push(performance.now() - started);
      await sleep(5);
    }
    assert.equal((await big).status, 400);
    // A machine that is busy with other programs delays some probes; an event loop blocked by tokenising would delay most.
    times.sort((a, b) => a - b);
    const within = (share: number): number => times[Math.floor((times.length - 1) * share)] ?? Infinity;
    const [half, most, all] = [within(0.5), within(0.95), within(1)].map((time) => time.toFixed(1));
    t.diagnostic(`${times.length} probes: half within ${half} ms, 95 % within ${most} ms, all within ${all} ms`);
    assert.ok(times.length > 5);
    assert.ok(within(0.5) < 50, `half within ${half} ms`);
  });

  test('drafts tokens and has some accepted', async () => {
    assert.ok((await metric('vllm:spec_decode_num_drafts_total')) > 0);
    assert.ok((await metric('vllm:spec_decode_num_accepted_tokens_total')) > 0);
    assert.ok((await metric('twelvex:steps_total')) > 0);
  });
});
