// SPDX-License-Identifier: MIT

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import OpenAI from 'openai';
import { EngineError } from '../../../engine/index.ts';
import type { ChatInput } from '../../../engine/index.ts';
import { post, testServer } from '../../helpers/http.ts';
import { answer, delay, end, endInReasoning, fail, reasoning, scriptedEngine, tool } from '../../helpers/scripted-engine.ts';
import type { ScriptedEngine } from '../../helpers/scripted-engine.ts';

interface Event {
  type: string;
  sequence_number: number;
  item_id?: string;
  output_index?: number;
  content_index?: number;
  item?: { type: string; status: string };
  response?: Record<string, unknown>;
  [field: string]: unknown;
}

const hello = { model: 'scripted', input: 'Hello' };
const weather = {
  type: 'function' as const,
  name: 'get_weather',
  description: 'Weather of a city',
  parameters: { type: 'object', properties: { days: { type: 'number' } } },
  strict: false,
};
const script = [reasoning('We'), reasoning(' greet.'), answer('H'), answer('i'), tool('get_weather', ['{"days"', ': 3}'])];

/** Events of a whole stream; fails where an event's name is not its type or the numbers have gaps. */
async function eventsOf(response: Response): Promise<Event[]> {
  assert.equal(response.headers.get('content-type'), 'text/event-stream; charset=utf-8');
  const frames = (await response.text()).split('\n\n').filter(Boolean);
  return frames.map((frame, index) => {
    const [name = '', data = '', ...rest] = frame.split('\n');
    assert.deepEqual(rest, []);
    const event = JSON.parse(data.replace(/^data: /, '')) as Event;
    assert.equal(name, `event: ${event.type}`);
    assert.equal(event.sequence_number, index);
    return event;
  });
}

const inputOf = (engine: ScriptedEngine): ChatInput => engine.requests[0]!.input as ChatInput;
const clientOf = (url: string): OpenAI => new OpenAI({ baseURL: `${url}/v1`, apiKey: 'none', maxRetries: 0 });

async function errorOf(response: Response): Promise<[number, string, string | null, string]> {
  const { error } = (await response.json()) as { error: { code: string; param: string | null; message: string } };
  return [response.status, error.code, error.param, error.message];
}

describe('streamed response', () => {
  test('announces, fills and finishes each item in the order that Codex needs', async (t) => {
    const { url } = await testServer(t, scriptedEngine(script));
    const events = await eventsOf(await post(`${url}/v1/responses`, { ...hello, stream: true, tools: [weather] }));
    const line = ({ type, output_index: at }: Event): string =>
      `${type.replace('response.', '')}${at === undefined ? '' : ` ${at}`}`;
    assert.deepEqual(events.map(line), [
      'created',
      'in_progress',
      ...['output_item.added 0', 'content_part.added 0', 'reasoning_text.delta 0', 'reasoning_text.delta 0'],
      ...['reasoning_text.done 0', 'content_part.done 0', 'output_item.done 0'],
      ...['output_item.added 1', 'content_part.added 1', 'output_text.delta 1', 'output_text.delta 1'],
      ...['output_text.done 1', 'content_part.done 1', 'output_item.done 1'],
      ...['output_item.added 2', 'function_call_arguments.delta 2', 'function_call_arguments.delta 2'],
      ...['function_call_arguments.done 2', 'output_item.done 2'],
      'completed',
    ]);
    const ids = new Set(events.map(({ response }) => response?.['id']).filter(Boolean));
    assert.equal(ids.size, 1);
  });

  test('has these bytes for a short answer', async (t) => {
    const { url } = await testServer(t, scriptedEngine([answer('Hi')]));
    const init = { headers: { 'x-request-id': 'r1' } };
    const events = await eventsOf(await post(`${url}/v1/responses`, { ...hello, stream: true }, init));
    const id = events[3]!.item_id;
    assert.match(id ?? '', /^msg_[0-9a-f]{32}_0$/);
    const at = { item_id: id, output_index: 0 };
    const part = { type: 'output_text', text: 'Hi', annotations: [], logprobs: [] };
    const item = { type: 'message', id, status: 'completed', role: 'assistant', content: [part] };
    assert.deepEqual(events.slice(2, -1), [
      {
        ...{ type: 'response.output_item.added', sequence_number: 2, output_index: 0 },
        item: { ...item, status: 'in_progress', content: [] },
      },
      { type: 'response.content_part.added', sequence_number: 3, ...at, content_index: 0, part: { ...part, text: '' } },
      { type: 'response.output_text.delta', sequence_number: 4, ...at, content_index: 0, delta: 'Hi', logprobs: [] },
      { type: 'response.output_text.done', sequence_number: 5, ...at, content_index: 0, text: 'Hi', logprobs: [] },
      { type: 'response.content_part.done', sequence_number: 6, ...at, content_index: 0, part },
      { type: 'response.output_item.done', sequence_number: 7, output_index: 0, item },
    ]);
    const { created_at: created, ...response } = events.at(-1)!.response!;
    assert.ok(Math.abs(Number(created) - Date.now() / 1e3) < 60);
    assert.deepEqual(response, {
      ...{ id: 'resp_r1', object: 'response', status: 'completed', error: null, incomplete_details: null, model: 'scripted' },
      output: [item],
      usage: {
        input_tokens: 22,
        input_tokens_details: { cached_tokens: 0 },
        output_tokens: 1,
        output_tokens_details: { reasoning_tokens: 0 },
        total_tokens: 23,
      },
      ...{ background: false, instructions: null, max_output_tokens: null, metadata: {}, parallel_tool_calls: true },
      ...{ previous_response_id: null, reasoning: { effort: null, summary: null }, service_tier: 'default', store: false },
      ...{ temperature: 0.7, text: { format: { type: 'text' } }, tool_choice: 'auto', tools: [], top_logprobs: 0, top_p: 0.95 },
      truncation: 'disabled',
    });
    assert.deepEqual(
      events.slice(0, 2).map((event) => [event.type, event.response?.['status'], event.response?.['output']]),
      [
        ['response.created', 'in_progress', []],
        ['response.in_progress', 'in_progress', []],
      ],
    );
  });

  test('is put together by the openai client', async (t) => {
    const { url } = await testServer(t, scriptedEngine(script, { cachedTokens: 5 }));
    const final = await clientOf(url)
      .responses.stream({ ...hello, tools: [weather] })
      .finalResponse();
    assert.deepEqual(
      final.output.map((item) => [item.type, 'status' in item && item.status]),
      [
        ['reasoning', 'completed'],
        ['message', 'completed'],
        ['function_call', 'completed'],
      ],
    );
    assert.equal(final.output_text, 'Hi');
    const call = final.output[2] as OpenAI.Responses.ResponseFunctionToolCall;
    assert.deepEqual([call.call_id, call.name, call.arguments], ['call_get_weather', 'get_weather', '{"days": 3}']);
    assert.equal(final.usage?.input_tokens_details.cached_tokens, 5);
    assert.equal(final.usage?.output_tokens_details.reasoning_tokens, 2);
  });

  test('says again that it is in progress while nothing comes, also within an item', async (t) => {
    const engine = scriptedEngine([delay(130), answer('la'), delay(130), answer('te')], { acceptMs: 80 });
    const { url } = await testServer(t, engine, { keepaliveIntervalMs: '50ms' });
    const events = await eventsOf(await post(`${url}/v1/responses`, { ...hello, stream: true }));
    assert.deepEqual(
      events.slice(0, 2).map(({ type }) => type),
      ['response.created', 'response.in_progress'],
    );
    assert.ok(events.filter(({ type }) => type === 'response.in_progress').length >= 4);
    const final = await clientOf(url).responses.stream(hello).finalResponse();
    assert.equal(final.output_text, 'late');
  });

  test('ends incomplete when the answer is cut for length', async (t) => {
    const { url } = await testServer(t, scriptedEngine([answer('one two'), end('length')]));
    const events = await eventsOf(await post(`${url}/v1/responses`, { ...hello, stream: true, max_output_tokens: 2 }));
    const { type, response } = events.at(-1)!;
    assert.deepEqual(
      [type, response?.['status'], response?.['incomplete_details']],
      ['response.incomplete', 'incomplete', { reason: 'max_output_tokens' }],
    );
    assert.deepEqual(
      events.filter((event) => event.type === 'response.output_item.done').map(({ item }) => item?.status),
      ['incomplete'],
    );
  });

  test('ends failed when the engine fails in the middle, without its inside', async (t) => {
    const { url } = await testServer(t, scriptedEngine([answer('a'), fail(new EngineError('DEVICE_LOST', 'gpu 0 at 0x7f'))]));
    const events = await eventsOf(await post(`${url}/v1/responses`, { ...hello, stream: true }));
    const { type, response } = events.at(-1)!;
    assert.equal(type, 'response.failed');
    assert.deepEqual(
      [response?.['status'], response?.['error']],
      ['failed', { code: 'server_error', message: 'the engine failed; the log of the server says more' }],
    );
    assert.ok(!events.some((event) => event.type === 'response.completed'));
  });

  test('of a refusal that comes after the headers is created before it fails', async (t) => {
    const refuse = new EngineError('QUEUE_FULL', 'full');
    const { url } = await testServer(t, scriptedEngine([], { refuse, acceptMs: 80 }), { keepaliveIntervalMs: '20ms' });
    const events = await eventsOf(await post(`${url}/v1/responses`, { ...hello, stream: true }));
    assert.equal(events[0]?.type, 'response.created');
    assert.equal(events.at(-1)?.type, 'response.failed');
    assert.equal((events.at(-1)?.response?.['error'] as { code: string }).code, 'server_overloaded');
  });
});

describe('whole response', () => {
  test('holds the items that a stream would have sent', async (t) => {
    const { url } = await testServer(t, scriptedEngine(script));
    const metadata = { session: 's1' };
    const response = await clientOf(url).responses.create({ ...hello, tools: [weather], metadata, store: true });
    assert.deepEqual(
      response.output.map(({ type }) => type),
      ['reasoning', 'message', 'function_call'],
    );
    assert.equal(response.output_text, 'Hi');
    assert.deepEqual(response.metadata, metadata);
    assert.equal((response as { store?: boolean }).store, false);
  });

  test('of a model that only thought has the thought as its answer', async (t) => {
    const { url } = await testServer(t, scriptedEngine([reasoning('42'), endInReasoning]));
    assert.equal((await clientOf(url).responses.create(hello)).output_text, '42');
  });
});

describe('translation of the request', () => {
  test('joins the items of a turn and keeps the order of turns', async (t) => {
    const engine = scriptedEngine([answer('ok')]);
    const { url } = await testServer(t, engine);
    const input = [
      { type: 'message', role: 'developer', content: [{ type: 'input_text', text: 'Use tools.' }] },
      { role: 'user', content: 'Weather?' },
      { type: 'reasoning', id: 'rs_1', summary: [], content: [{ type: 'reasoning_text', text: 'call it' }] },
      { type: 'message', role: 'assistant', content: [{ type: 'output_text', text: 'I look.', annotations: [] }] },
      { type: 'function_call', call_id: 'a', name: 'get_weather', arguments: '{"days": 3}' },
      { type: 'function_call', call_id: 'b', name: 'get_weather', arguments: '{}' },
      { type: 'function_call_output', call_id: 'a', output: 'rain' },
      {
        type: 'function_call_output',
        call_id: 'b',
        output: [
          { type: 'input_text', text: 'sun' },
          { type: 'input_image', image_url: 'data:,' },
        ],
      },
      { type: 'message', role: 'assistant', content: [{ type: 'refusal', refusal: 'No.' }] },
      { role: 'user', content: [{ type: 'input_text', text: 'And?' }] },
    ];
    const response = await post(`${url}/v1/responses`, { instructions: 'Be brief.', input });
    assert.equal(response.status, 200, await response.text());
    const calls = [
      { id: 'a', name: 'get_weather', arguments: '{"days": 3}' },
      { id: 'b', name: 'get_weather', arguments: '{}' },
    ];
    const parts = [
      { type: 'text', text: 'sun' },
      { type: 'other', kind: 'input_image' },
    ];
    assert.deepEqual(inputOf(engine).messages, [
      { role: 'system', content: 'Be brief.' },
      { role: 'developer', content: 'Use tools.' },
      { role: 'user', content: 'Weather?' },
      { role: 'assistant', content: 'I look.', reasoning: 'call it', toolCalls: calls },
      { role: 'tool', content: 'rain', toolCallId: 'a' },
      { role: 'tool', content: parts, toolCallId: 'b' },
      { role: 'assistant', content: 'No.' },
      { role: 'user', content: 'And?' },
    ]);
  });

  test('reads back the reasoning of clients that keep only its encrypted content', async (t) => {
    const engine = scriptedEngine([reasoning('wärmer'), tool('get_weather', ['{}'])]);
    const { url } = await testServer(t, engine);
    const client = clientOf(url);
    const include: OpenAI.Responses.ResponseIncludable[] = ['reasoning.encrypted_content'];
    const first = await client.responses.create({ ...hello, tools: [weather], include });
    const items = first.output.map((item) => (item.type === 'reasoning' ? { ...item, content: undefined } : item));
    const input = [...items, { type: 'function_call_output', call_id: 'call_get_weather', output: 'rain' }];
    await client.responses.create({ model: 'scripted', input: input as OpenAI.Responses.ResponseInput });
    const [turn] = (engine.requests[1]!.input as ChatInput).messages;
    assert.equal(turn?.role === 'assistant' && turn.reasoning, 'wärmer');
  });

  test('knows items of recent responses by their ids, unless they were not to be stored', async (t) => {
    const engine = scriptedEngine([reasoning('hm'), answer('Hi')]);
    const { url } = await testServer(t, engine);
    const client = clientOf(url);
    const referring = async (store: boolean): Promise<OpenAI.Responses.Response> => {
      const { output } = await client.responses.create({ ...hello, store });
      const references = output.map(({ id }) => ({ type: 'item_reference' as const, id: id! }));
      return client.responses.create({ ...hello, input: [...references, { role: 'user', content: 'And?' }] });
    };
    await referring(true);
    assert.deepEqual((engine.requests.at(-1)!.input as ChatInput).messages, [
      { role: 'assistant', content: 'Hi', reasoning: 'hm' },
      { role: 'user', content: 'And?' },
    ]);
    await assert.rejects(referring(false), OpenAI.BadRequestError);
  });

  test('leaves out reasoning that another server has encrypted', async (t) => {
    const engine = scriptedEngine([answer('ok')]);
    const { url } = await testServer(t, engine);
    const foreign = { type: 'reasoning', id: 'rs_1', summary: [], encrypted_content: 'gAAAA' };
    await post(`${url}/v1/responses`, { input: [foreign, { role: 'user', content: 'And?' }] });
    assert.deepEqual(inputOf(engine).messages, [{ role: 'user', content: 'And?' }]);
  });

  test('passes function tools on as the client spelled them and skips the others', async (t) => {
    const engine = scriptedEngine([answer('ok')]);
    const { url } = await testServer(t, engine);
    const body = `{"input":"x","tools":[{"type":"web_search"},
      {"type":"function","strict":null,"parameters":{"2":1.0,"1":1e2},"name":"f","description":"d"},
      {"type":"custom","name":"patch"},
      {"type":"function","strict":true,"name":"g"}],
      "tool_choice":{"type":"function","name":"f"},"parallel_tool_calls":false}`;
    const response = await post(`${url}/v1/responses`, body);
    assert.equal(response.status, 200, await response.text());
    const input = inputOf(engine);
    assert.deepEqual(input.tools, [
      { json: '{"name": "f", "description": "d", "parameters": {"2":1.0,"1":1e2}}' },
      { json: '{"name": "g", "strict": true}' },
    ]);
    assert.deepEqual([input.toolChoice, input.parallelToolCalls], [{ name: 'f' }, false]);
  });

  test('gives the functions of a namespace names of their own, and the client its names back', async (t) => {
    const engine = scriptedEngine([tool('files__read', ['{}']), end('tool_calls')]);
    const { url } = await testServer(t, engine);
    const tools = [
      { type: 'namespace', name: 'files', tools: [{ type: 'function', name: 'read', parameters: {} }, { type: 'custom' }] },
    ];
    const call = { type: 'function_call', call_id: 'a', name: 'read', namespace: 'files', arguments: '{}' };
    const input = [{ role: 'user', content: 'x' }, call, { type: 'function_call_output', call_id: 'a', output: 'y' }];
    const choice = { type: 'function', name: 'read', namespace: 'files' };
    const response = await post(`${url}/v1/responses`, { input, tools, tool_choice: choice });
    const { output } = (await response.json()) as { output: { name: string; namespace: string }[] };
    assert.deepEqual([output[0]?.name, output[0]?.namespace], ['read', 'files']);
    const { messages, tools: known, toolChoice } = inputOf(engine);
    assert.deepEqual(known, [{ json: '{"name": "files__read", "parameters": {}}' }]);
    assert.deepEqual(toolChoice, { name: 'files__read' });
    assert.equal(messages[1]?.role === 'assistant' && messages[1].toolCalls?.[0]?.name, 'files__read');
  });

  test('shows a format to the model as the client spelled it, and repeats it', async (t) => {
    const engine = scriptedEngine([answer('{}')]);
    const { url } = await testServer(t, engine);
    const schema = '{"type":"object","properties":{"2":{},"1":{}},"maxProperties":1e0}';
    const text = `{"format":{"type":"json_schema","name":"n","strict":true,"schema":${schema}}}`;
    const response = await post(`${url}/v1/responses`, `{"input":"x","text":${text}}`);
    assert.deepEqual(((await response.json()) as { text: unknown }).text, JSON.parse(text));
    assert.deepEqual(inputOf(engine).responseFormat, { json: schema });
  });

  test('passes sampling, length and effort on', async (t) => {
    const engine = scriptedEngine([answer('ok')]);
    const { url } = await testServer(t, engine);
    const fields = { temperature: 0, top_p: 0.5, max_output_tokens: 9, reasoning: { effort: 'xhigh' }, user_id: 'u' };
    await post(`${url}/v1/responses`, { ...hello, ...fields });
    const request = engine.requests[0]!;
    assert.deepEqual([request.sampling.temperature, request.sampling.topP, request.maxTokens], [0, 0.5, 9]);
    assert.deepEqual([inputOf(engine).thinking, inputOf(engine).effort, request.cacheSalt], [true, 'high', 'u']);
    await post(`${url}/v1/responses`, { ...hello, reasoning: { effort: 'none' } });
    assert.equal((engine.requests[1]!.input as ChatInput).thinking, false);
  });
});

describe('refusals', () => {
  const cases: [string, object, [number, string, string]][] = [
    ['a response to continue', { previous_response_id: 'resp_1' }, [400, 'unsupported_parameter', 'previous_response_id']],
    ['a conversation', { conversation: 'conv_1' }, [400, 'unsupported_parameter', 'conversation']],
    ['background', { background: true }, [400, 'unsupported_parameter', 'background']],
    ['truncation', { truncation: 'auto' }, [400, 'unsupported_parameter', 'truncation']],
    ['an unknown item', { input: [{ type: 'item_reference', id: 'x' }] }, [400, 'unsupported_parameter', 'input[0].id']],
    [
      'an image',
      { input: [{ role: 'user', content: [{ type: 'input_image' }] }] },
      [400, 'unsupported_parameter', 'input[0].content[0].type'],
    ],
    ['a wrong role', { input: [{ role: 'robot', content: 'x' }] }, [400, 'invalid_value', 'input[0].role']],
    ['no input', { input: undefined }, [400, 'missing_required_parameter', 'input']],
    ['an unknown text format', { text: { format: { type: 'xml' } } }, [400, 'invalid_value', 'text.format.type']],
    ['a choice among no tools', { tool_choice: 'required' }, [400, 'invalid_value', 'tool_choice']],
    ['a tool without a name', { tools: [{ type: 'function' }] }, [400, 'missing_required_parameter', 'tools[0].name']],
    ['a wrong model', { model: 'gpt-5' }, [404, 'model_not_found', 'model']],
  ];
  for (const [title, fields, expected] of cases) {
    test(`${title} is refused by name`, async (t) => {
      const { url } = await testServer(t, scriptedEngine([]));
      const [status, code, param] = await errorOf(await post(`${url}/v1/responses`, { ...hello, ...fields }));
      assert.deepEqual([status, code, param], expected);
    });
  }

  test('previous_response_id is told to send everything', async (t) => {
    const { url } = await testServer(t, scriptedEngine([]));
    const [, , , message] = await errorOf(await post(`${url}/v1/responses`, { ...hello, previous_response_id: 'resp_1' }));
    assert.match(message, /nothing is stored/);
  });

  test('an overlong input is named in the words that agents look for', async (t) => {
    const refuse = new EngineError('CONTEXT_LENGTH_EXCEEDED', 'too long', { promptTokens: 9000, maxModelLen: 8192 });
    const { url } = await testServer(t, scriptedEngine([], { refuse }));
    const [status, code, param, message] = await errorOf(await post(`${url}/v1/responses`, { ...hello, stream: true }));
    assert.deepEqual([status, code, param], [400, 'context_length_exceeded', 'input']);
    assert.match(message, /^Your input exceeds the context window of this model\. .* 8192 tokens/);
  });
});
