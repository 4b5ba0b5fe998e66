// SPDX-License-Identifier: MIT

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import Anthropic from '@anthropic-ai/sdk';
import { EngineError } from '../../../engine/index.ts';
import type { ChatInput } from '../../../engine/index.ts';
import { post, testServer } from '../../helpers/http.ts';
import { answer, delay, end, endInReasoning, fail, reasoning, scriptedEngine, tool } from '../../helpers/scripted-engine.ts';

const hello = { model: 'claude-sonnet-4', max_tokens: 100, messages: [{ role: 'user' as const, content: 'Hello' }] };
const weather = {
  name: 'get_weather',
  description: 'Weather of a city',
  input_schema: { type: 'object' as const, properties: { days: { type: 'number' as const, maximum: 7 } } },
};
const script = [reasoning('We'), reasoning(' greet.'), answer('Hi'), tool('get_weather', ['{"days"', ': 3}']), end('tool_calls')];

interface Event {
  type: string;
  index?: number;
  [key: string]: unknown;
}

async function eventsOf(response: Response): Promise<Event[]> {
  const frames = (await response.text()).split('\n\n').filter(Boolean);
  return frames.map((frame) => {
    const [name = '', data = ''] = frame.split('\n');
    const event = JSON.parse(data.replace(/^data: /, '')) as Event;
    assert.equal(name, `event: ${event.type}`);
    return event;
  });
}

const inputOf = (engine: ReturnType<typeof scriptedEngine>): ChatInput => engine.requests[0]!.input as ChatInput;

describe('streamed message', () => {
  test('has contiguous blocks, one open at a time, and ends with message_stop', async (t) => {
    const { url } = await testServer(t, scriptedEngine(script, { cachedTokens: 2 }));
    const events = await eventsOf(await post(`${url}/v1/messages`, { ...hello, stream: true }));
    assert.deepEqual(
      events.map(({ type, index }) => (index === undefined ? type : `${type} ${index}`)),
      [
        'message_start',
        'content_block_start 0',
        'content_block_delta 0',
        'content_block_delta 0',
        'content_block_delta 0',
        'content_block_stop 0',
        'content_block_start 1',
        'content_block_delta 1',
        'content_block_stop 1',
        'content_block_start 2',
        'content_block_delta 2',
        'content_block_delta 2',
        'content_block_stop 2',
        'message_delta',
        'message_stop',
      ],
    );
    const { usage } = (events[0] as unknown as { message: { usage: Record<string, number> } }).message;
    assert.equal(usage.cache_read_input_tokens, 2);
    assert.deepEqual(events[4]!.delta, { type: 'signature_delta', signature: '' });
    assert.deepEqual(events.at(-2)!.delta, { stop_reason: 'tool_use', stop_sequence: null });
  });

  test('is put together by the Anthropic SDK', async (t) => {
    const { url } = await testServer(t, scriptedEngine(script));
    const client = new Anthropic({ baseURL: url, apiKey: 'none', maxRetries: 0 });
    const message = await client.messages.stream({ ...hello, tools: [weather] }).finalMessage();
    assert.deepEqual(message.content, [
      { type: 'thinking', thinking: 'We greet.', signature: '' },
      { type: 'text', text: 'Hi' },
      { type: 'tool_use', id: 'call_get_weather', name: 'get_weather', input: { days: 3 } },
    ]);
    assert.equal(message.stop_reason, 'tool_use');
    assert.equal(message.model, 'claude-sonnet-4');
  });

  test('is kept alive by pings, which the SDK drops', async (t) => {
    const engine = scriptedEngine([delay(130), answer('late')]);
    const { url } = await testServer(t, engine, { keepaliveIntervalMs: '50ms' });
    const events = await eventsOf(await post(`${url}/v1/messages`, { ...hello, stream: true }));
    assert.ok(events.filter((event) => event.type === 'ping').length >= 2);
    const client = new Anthropic({ baseURL: url, apiKey: 'none', maxRetries: 0 });
    assert.deepEqual((await client.messages.stream(hello).finalMessage()).content, [{ type: 'text', text: 'late' }]);
  });

  test('reports a failure in the middle as an error event', async (t) => {
    const { url } = await testServer(t, scriptedEngine([answer('a'), fail(new EngineError('DEVICE_LOST', 'gone'))]));
    const events = await eventsOf(await post(`${url}/v1/messages`, { ...hello, stream: true }));
    assert.deepEqual([events.at(-1)!.type, (events.at(-1)!.error as { type: string }).type], ['error', 'api_error']);
  });
});

describe('the thinking of a model that did nothing else', () => {
  const engine = () => scriptedEngine([reasoning('4'), reasoning('2'), endInReasoning]);

  test('is the text of a message', async (t) => {
    const { url } = await testServer(t, engine());
    const message = (await (await post(`${url}/v1/messages`, hello)).json()) as Anthropic.Message;
    assert.deepEqual(message.content, [{ type: 'text', text: '42' }]);
  });

  test('is sent again as text in a stream', async (t) => {
    const { url } = await testServer(t, engine());
    const client = new Anthropic({ baseURL: url, apiKey: 'none', maxRetries: 0 });
    assert.deepEqual((await client.messages.stream(hello).finalMessage()).content, [
      { type: 'thinking', thinking: '42', signature: '' },
      { type: 'text', text: '42' },
    ]);
  });
});

describe('message', () => {
  test('holds its blocks, stop reason and usage', async (t) => {
    const { url } = await testServer(t, scriptedEngine([answer('one two'), end('stop', 'three')]));
    const client = new Anthropic({ baseURL: url, apiKey: 'none', maxRetries: 0 });
    const message = await client.messages.create({ ...hello, stop_sequences: ['three'] });
    assert.deepEqual(message.content, [{ type: 'text', text: 'one two' }]);
    assert.deepEqual([message.stop_reason, message.stop_sequence], ['stop_sequence', 'three']);
    assert.ok(message.usage.input_tokens > 0 && message.usage.output_tokens > 0);
  });

  test('is asked for with tools, results and thinking as the model knows them', async (t) => {
    const engine = scriptedEngine([answer('ok')]);
    const { url } = await testServer(t, engine);
    const body = {
      ...hello,
      system: [
        { type: 'text', text: 'x-anthropic-billing-header: cc_version=1; cch=93af1;' },
        { type: 'text', text: 'Be brief.', cache_control: { type: 'ephemeral' } },
      ],
      tools: [weather, { type: 'web_search_20250305', name: 'web_search' }],
      tool_choice: { type: 'any', disable_parallel_tool_use: true },
      thinking: { type: 'enabled', budget_tokens: 1024 },
      output_config: { effort: 'max' },
      messages: [
        { role: 'user', content: 'Weather?' },
        {
          role: 'assistant',
          content: [
            { type: 'thinking', thinking: 'call it', signature: 's' },
            { type: 'tool_use', id: 'a', name: 'get_weather', input: { days: 3 } },
          ],
        },
        {
          role: 'user',
          content: [
            { type: 'tool_result', tool_use_id: 'a', content: [{ type: 'text', text: 'rain' }] },
            { type: 'text', text: 'And?' },
          ],
        },
      ],
    };
    await post(`${url}/v1/messages`, body);
    const input = inputOf(engine);
    assert.deepEqual(input.messages, [
      { role: 'system', content: 'Be brief.' },
      { role: 'user', content: 'Weather?' },
      {
        role: 'assistant',
        content: '',
        reasoning: 'call it',
        toolCalls: [{ id: 'a', name: 'get_weather', arguments: '{"days":3}' }],
      },
      { role: 'tool', content: [{ type: 'text', text: 'rain' }], toolCallId: 'a' },
      { role: 'user', content: 'And?' },
    ]);
    assert.equal(input.tools?.length, 1, 'tools that the provider runs itself are left out');
    assert.deepEqual(JSON.parse(input.tools[0]!.json), {
      name: 'get_weather',
      description: 'Weather of a city',
      parameters: weather.input_schema,
    });
    assert.deepEqual([input.toolChoice, input.parallelToolCalls, input.thinking, input.effort], ['required', false, true, 'max']);
  });

  test('is held to the schema of output_config and to those of strict tools', async (t) => {
    const engine = scriptedEngine([answer('ok')]);
    const { url } = await testServer(t, engine);
    const schema = { type: 'object', properties: { age: { type: 'integer' } } };
    const asked = { ...hello, tools: [{ ...weather, strict: true }], output_config: { format: { type: 'json_schema', schema } } };
    await post(`${url}/v1/messages`, asked);
    const { grammar } = engine.requests[0]!;
    assert.deepEqual(grammar, {
      spec: { kind: 'json-schema', schema: { json: JSON.stringify(schema) }, strict: true },
      param: 'output_config.format',
    });
    assert.deepEqual(inputOf(engine).responseFormat, { json: JSON.stringify(schema) });
    assert.equal((JSON.parse(inputOf(engine).tools![0]!.json) as { strict?: boolean }).strict, true);
  });

  test('has its request id where the SDK looks for it, as have its errors', async (t) => {
    const { url } = await testServer(t, scriptedEngine([answer('ok')]));
    const client = new Anthropic({ baseURL: url, apiKey: 'none', maxRetries: 0, defaultHeaders: { 'x-request-id': 'r1' } });
    assert.equal((await client.messages.create(hello))._request_id, 'r1');
    assert.equal((await client.messages.stream(hello).withResponse()).request_id, 'r1');
    await assert.rejects(
      client.messages.create({ ...hello, max_tokens: 0 }),
      (error) => error instanceof Anthropic.BadRequestError && error.requestID === 'r1',
    );
  });

  test('continues a last assistant message', async (t) => {
    const engine = scriptedEngine([answer('ok')]);
    const { url } = await testServer(t, engine);
    await post(`${url}/v1/messages`, { ...hello, messages: [...hello.messages, { role: 'assistant', content: 'Once' }] });
    assert.deepEqual(inputOf(engine).messages.at(-1), { role: 'assistant', content: 'Once', prefix: true });
  });

  test('counts tokens of the prompt it would compute', async (t) => {
    const { url } = await testServer(t, scriptedEngine([]));
    const client = new Anthropic({ baseURL: url, apiKey: 'none', maxRetries: 0 });
    const { input_tokens } = await client.messages.countTokens({ model: 'claude-sonnet-4', messages: hello.messages });
    assert.ok(input_tokens > 0);
  });
});

describe('errors', () => {
  const errorOf = async (response: Response) =>
    (await response.json()) as { type: string; error: { type: string; message: string } };

  test('have the body of the Messages API, with the field at fault in the message', async (t) => {
    const { url } = await testServer(t, scriptedEngine([]));
    for (const [body, pattern] of [
      [{ ...hello, max_tokens: undefined }, /max_tokens/],
      [{ ...hello, messages: [{ role: 'user', content: [{ type: 'image', source: {} }] }] }, /messages\[0\]\.content\[0\]|image/],
      [{ ...hello, tool_choice: { type: 'tool', name: 'x' } }, /tool_choice/],
      [{ ...hello, output_config: { format: { type: 'json_schema' } } }, /^output_config\.format needs a schema$/],
      [{ ...hello, output_config: { format: { type: 'xml' } } }, /^output_config\.format\.type: .*"xml"/],
      [
        { ...hello, messages: [{ role: 'user', content: [{ type: 'text' }] }] },
        /^messages\[0\]\.content\[0\]\.text is required$/,
      ],
      [
        { ...hello, messages: [{ role: 'assistant', content: [{ type: 'tool_use', id: 'a', name: 'f' }] }] },
        /^messages\[0\]\.content\[0\]\.input is required$/,
      ],
      [{ ...hello, messages: [{ role: 'user', content: [{}] }] }, /^messages\[0\]\.content\[0\]\.type is required$/],
      [{ ...hello, messages: [{ role: 'user', content: [{ type: 5 }] }] }, /\.content\[0\]\.type: expected a string, got 5$/],
    ] as const) {
      const response = await post(`${url}/v1/messages`, body);
      const { type, error } = await errorOf(response);
      assert.deepEqual([response.status, type, error.type], [400, 'error', 'invalid_request_error']);
      assert.match(error.message, pattern);
    }
  });

  test('name an overlong prompt in the words that agents look for', async (t) => {
    const refuse = new EngineError('CONTEXT_LENGTH_EXCEEDED', 'too long', { promptTokens: 9000, maxModelLen: 8192 });
    const { url } = await testServer(t, scriptedEngine([], { refuse }));
    const { error } = await errorOf(await post(`${url}/v1/messages`, hello));
    assert.equal(error.message, 'prompt is too long: 9000 tokens > 8192 maximum');
  });

  test('have it too where the framework refuses: another method, another content type', async (t) => {
    const { url } = await testServer(t, scriptedEngine([]));
    for (const [status, response] of [
      [405, await fetch(`${url}/v1/messages`)],
      [415, await post(`${url}/v1/messages`, 'x', { headers: { 'content-type': 'text/plain' } })],
    ] as const) {
      const { type, error } = await errorOf(response);
      assert.deepEqual([response.status, type, error.type], [status, 'error', 'invalid_request_error']);
    }
  });

  test('tell an overloaded server from a wrong model', async (t) => {
    const full = await testServer(
      t,
      scriptedEngine([], { refuse: new EngineError('QUEUE_FULL', 'full', { retryAfterMs: 1500 }) }),
    );
    const busy = await post(`${full.url}/v1/messages`, hello);
    assert.deepEqual([busy.status, (await errorOf(busy)).error.type], [503, 'overloaded_error']);
    const wrong = await post(`${full.url}/v1/messages`, { ...hello, model: 'gpt-4' });
    assert.deepEqual([wrong.status, (await errorOf(wrong)).error.type], [404, 'not_found_error']);
  });
});
