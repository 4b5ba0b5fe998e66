// SPDX-License-Identifier: MIT
// OpenAI's, Anthropic's and plain HTTP clients against the demo model: what people change the host of.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { after, before, describe, test } from 'node:test';
import { promisify } from 'node:util';
import Anthropic from '@anthropic-ai/sdk';
import { zodOutputFormat } from '@anthropic-ai/sdk/helpers/zod';
import { createParser } from 'eventsource-parser';
import OpenAI from 'openai';
import { zodResponseFormat, zodTextFormat } from 'openai/helpers/zod';
import { request } from 'undici';
import { z } from 'zod';
import { demoServer } from '../helpers/demo-server.ts';
import type { DemoServer } from '../helpers/demo-server.ts';
import { eventually, post, testServer } from '../helpers/http.ts';
import { OSLO, runnableWeather, WEATHER } from '../helpers/weather.ts';

let server: DemoServer;
let openai: OpenAI;
let anthropic: Anthropic;

before(async () => {
  server = await demoServer({ apiKey: 'secret' });
  openai = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'secret', maxRetries: 0 });
  anthropic = new Anthropic({ baseURL: `${server.url}/anthropic`, apiKey: 'secret', maxRetries: 0 });
});
after(() => server.close());

const sum = 'What is 12 + 30?';
const story = { model: 'demo', messages: [{ role: 'user' as const, content: 'Tell me a story.' }], ignore_eos: true };
const animal = z.object({ name: z.string(), age: z.int(), tame: z.boolean() });
const aboutFox = 'Write JSON with name and age of a fox that is 12 years old.';
const idle = (): Promise<void> => eventually(() => server.engine.stats().running === 0, 'the end of the request');

describe('openai chat completions', () => {
  test('are helped through a loop of tool calls in a stream', async () => {
    const asked: string[] = [];
    const runner = openai.chat.completions.runTools({
      ...{ model: 'demo', temperature: 0, stream: true },
      messages: [{ role: 'user', content: OSLO }],
      tools: [runnableWeather(asked)],
    });
    assert.match((await runner.finalContent()) ?? '', /rainy/);
    assert.deepEqual(asked, ['Oslo']);
  });

  test('are parsed by a schema', async () => {
    const answer = await openai.chat.completions.parse({
      ...{ model: 'demo', temperature: 0, max_tokens: 600 },
      messages: [{ role: 'user', content: aboutFox }],
      response_format: zodResponseFormat(animal, 'animal'),
    });
    assert.equal(typeof answer.choices[0]?.message.parsed?.tame, 'boolean');
  });

  test('are aborted in the middle, and the engine stops', async () => {
    const stream = openai.chat.completions.stream(story);
    let chunks = 0;
    stream.on('chunk', () => {
      chunks += 1;
      if (chunks === 5) stream.abort();
    });
    await assert.rejects(stream.done(), OpenAI.APIUserAbortError);
    await idle();
  });

  test('time out as the client says, and the engine stops', async () => {
    const late = openai.chat.completions.create({ ...story, max_tokens: 2000 }, { timeout: 150 });
    await assert.rejects(late, OpenAI.APIConnectionTimeoutError);
    await idle();
  });

  test('are tried again while the model is loading', async (t) => {
    const starting = await testServer(t, undefined);
    const seen: number[] = [];
    const client = new OpenAI({
      ...{ baseURL: `${starting.url}/v1`, apiKey: 'none', maxRetries: 2 },
      fetch: async (url, init) => {
        const response = await fetch(url, init);
        seen.push(response.status);
        starting.lifecycle.ready(server.engine);
        return response;
      },
    });
    const answer = await client.chat.completions.create({ ...story, max_tokens: 1 });
    assert.equal(answer.usage?.completion_tokens, 1);
    assert.deepEqual(seen, [503, 200]);
  });

  test('fail with the classes of the client', async () => {
    const stranger = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'wrong', maxRetries: 0 });
    await assert.rejects(stranger.chat.completions.create(story), OpenAI.AuthenticationError);
    await assert.rejects(openai.chat.completions.create({ ...story, model: 'gpt-5' }), OpenAI.NotFoundError);
    await assert.rejects(
      openai.chat.completions.create({ ...story, temperature: 3 }),
      (error) => error instanceof OpenAI.BadRequestError && error.param === 'temperature' && /from 0 to 2/.test(error.message),
    );
    await assert.rejects(openai.embeddings.create({ model: 'demo', input: 'x' }), OpenAI.NotFoundError);
  });
});

describe('openai responses', () => {
  const tools: OpenAI.Responses.FunctionTool[] = [{ type: 'function', ...WEATHER, strict: false }];

  test('answer a loop of tool calls whose items are sent back', async () => {
    const input: OpenAI.Responses.ResponseInput = [{ role: 'user', content: OSLO }];
    const first = await openai.responses.create({ model: 'demo', input, tools, temperature: 0 });
    const call = first.output.find((item) => item.type === 'function_call');
    assert.deepEqual([call?.name, JSON.parse(call?.arguments ?? '')], ['get_weather', { city: 'Oslo' }]);
    input.push(...(first.output as OpenAI.Responses.ResponseInput), {
      type: 'function_call_output',
      call_id: call!.call_id,
      output: '7 degrees, rainy',
    });
    const second = await openai.responses.create({ model: 'demo', input, tools, temperature: 0 });
    assert.match(second.output_text, /rainy/);
  });

  test('stream what they answer as a whole', async () => {
    const body = { model: 'demo', input: sum, temperature: 0 };
    const whole = await openai.responses.create(body);
    const final = await openai.responses.stream(body).finalResponse();
    assert.match(whole.output_text, /42/);
    assert.equal(final.output_text, whole.output_text);
    assert.deepEqual(final.usage?.output_tokens, whole.usage?.output_tokens);
    assert.ok((whole.usage?.output_tokens_details.reasoning_tokens ?? 0) > 0);
  });

  test('are parsed by a schema, also in a stream', async () => {
    const text = { format: zodTextFormat(animal, 'animal') };
    const body = { model: 'demo', input: aboutFox, temperature: 0, max_output_tokens: 600, text };
    const { output_parsed: whole } = await openai.responses.parse(body);
    assert.equal(typeof whole?.tame, 'boolean');
    assert.deepEqual((await openai.responses.stream(body).finalResponse()).output_parsed, whole);
  });

  test('end incomplete at their limit', async () => {
    const response = await openai.responses.create({ model: 'demo', input: sum, max_output_tokens: 3 });
    assert.deepEqual([response.status, response.incomplete_details?.reason], ['incomplete', 'max_output_tokens']);
  });

  test('refuse to continue a stored response', async () => {
    await assert.rejects(
      openai.responses.create({ model: 'demo', input: 'x', previous_response_id: 'resp_1' }),
      (error) => error instanceof OpenAI.BadRequestError && error.code === 'unsupported_parameter',
    );
  });
});

describe('openai text completions', () => {
  test('stream text, and fill in the middle', async () => {
    const stream = await openai.completions.create({ model: 'demo', prompt: 'Once upon a time', max_tokens: 8, stream: true });
    let text = '';
    for await (const chunk of stream) text += chunk.choices[0]?.text ?? '';
    assert.ok(text.length > 8);
    const filled = await openai.completions.create({ model: 'demo', prompt: 'One day', suffix: 'The end.', max_tokens: 4 });
    assert.ok((filled.usage?.prompt_tokens ?? 0) > 6);
  });
});

describe('Anthropic messages', () => {
  const tool: Anthropic.Tool = { name: WEATHER.name, description: WEATHER.description, input_schema: WEATHER.parameters };
  const asking = { model: 'claude-sonnet-4', max_tokens: 400, temperature: 0, tools: [tool] };

  test('stream thinking and answer', async () => {
    const message = await anthropic.messages
      .stream({ model: 'demo', max_tokens: 400, temperature: 0, messages: [{ role: 'user', content: sum }] })
      .finalMessage();
    assert.deepEqual(
      message.content.map(({ type }) => type),
      ['thinking', 'text'],
    );
    assert.match(message.content[1]?.type === 'text' ? message.content[1].text : '', /42/);
    assert.equal(message.stop_reason, 'end_turn');
  });

  test('answer a loop of tool calls', async () => {
    const messages: Anthropic.MessageParam[] = [{ role: 'user', content: OSLO }];
    const first = await anthropic.messages.create({ ...asking, messages });
    const call = first.content.find((block) => block.type === 'tool_use');
    assert.deepEqual([call?.name, call?.input, first.stop_reason], ['get_weather', { city: 'Oslo' }, 'tool_use']);
    const result = { type: 'tool_result' as const, tool_use_id: call!.id, content: '7 degrees, rainy' };
    messages.push({ role: 'assistant', content: first.content }, { role: 'user', content: [result] });
    const second = await anthropic.messages.create({ ...asking, messages });
    assert.match(second.content.map((block) => (block.type === 'text' ? block.text : '')).join(''), /rainy/);
  });

  test('are parsed by a schema, also in a stream', async () => {
    const output_config = { format: zodOutputFormat(animal) };
    const messages = [{ role: 'user' as const, content: aboutFox }];
    const body = { model: 'demo', max_tokens: 600, temperature: 0, messages, output_config };
    const { parsed_output: whole } = await anthropic.messages.parse(body);
    assert.equal(typeof whole?.tame, 'boolean');
    assert.deepEqual((await anthropic.messages.stream(body).finalMessage()).parsed_output, whole);
  });

  test('are aborted in the middle, and the engine stops', async () => {
    const stream = anthropic.messages.stream({ model: 'demo', max_tokens: 4000, messages: story.messages });
    stream.on('streamEvent', (event) => {
      if (event.type === 'content_block_delta') stream.abort();
    });
    await assert.rejects(stream.done(), Anthropic.APIUserAbortError);
    await idle();
  });

  test('fail with the classes of the client', async () => {
    const stranger = new Anthropic({ baseURL: server.url, apiKey: 'wrong', maxRetries: 0 });
    const body = { model: 'demo', max_tokens: 4, messages: story.messages };
    await assert.rejects(stranger.messages.create(body), Anthropic.AuthenticationError);
    await assert.rejects(anthropic.messages.create({ ...body, max_tokens: 0 }), Anthropic.BadRequestError);
    await assert.rejects(anthropic.messages.create({ ...body, model: 'gpt-5' }), Anthropic.NotFoundError);
  });

  test('are counted as they are computed', async () => {
    const messages = [{ role: 'user' as const, content: sum }];
    const { input_tokens: counted } = await anthropic.messages.countTokens({ model: 'demo', messages });
    const { usage } = await anthropic.messages.create({ model: 'demo', max_tokens: 1, messages });
    assert.equal(usage.input_tokens + (usage.cache_read_input_tokens ?? 0), counted);
  });
});

const headers = { 'content-type': 'application/json', authorization: 'Bearer secret' };
const streamed = JSON.stringify({ messages: [{ role: 'user', content: sum }], temperature: 0, stream: true });

/** Text of the answer in the data of its chunks; fails unless [DONE] ends them. */
function answerOf(data: string[]): string {
  assert.equal(data.at(-1), '[DONE]');
  const chunks = data.slice(0, -1).map((text) => JSON.parse(text) as OpenAI.ChatCompletionChunk);
  return chunks.map(({ choices }) => choices[0]?.delta.content ?? '').join('');
}

describe('plain HTTP clients', () => {
  test('undici and eventsource-parser read the stream', async () => {
    const response = await request(`${server.url}/v1/chat/completions`, { method: 'POST', headers, body: streamed });
    assert.equal(response.statusCode, 200);
    const data: string[] = [];
    const parser = createParser({
      onEvent: (event) => data.push(event.data),
      onError: (error) => assert.fail(error),
    });
    for await (const piece of response.body) parser.feed(String(piece));
    assert.match(answerOf(data), /42/);
  });

  test('fetch reads the stream, and stops the engine when it leaves', async () => {
    const leave = new AbortController();
    const init = { headers, signal: leave.signal };
    const response = await post(`${server.url}/v1/chat/completions`, { ...story, stream: true }, init);
    const first = await response.body!.getReader().read();
    assert.match(Buffer.from(first.value ?? []).toString(), /^data: /);
    leave.abort();
    await idle();
  });

  test('curl reads the stream', async (t) => {
    const run = promisify(execFile);
    const flags = Object.entries(headers).flatMap(([name, value]) => ['-H', `${name}: ${value}`]);
    const url = `${server.url}/v1/chat/completions`;
    const output = await run('curl', ['-sSN', url, ...flags, '-d', streamed]).catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return undefined;
      throw error;
    });
    if (output === undefined) return t.skip('curl is not installed');
    const lines = output.stdout.split('\n').filter((line) => line.startsWith('data: '));
    assert.match(answerOf(lines.map((line) => line.slice('data: '.length))), /42/);
  });
});
