// SPDX-License-Identifier: MIT

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { EngineError } from '../../../engine/index.ts';
import type { ChatInput, TokenLogprob } from '../../../engine/index.ts';
import { chunksOf, post, testServer } from '../../helpers/http.ts';
import { answer, end, fail, reasoning, scriptedEngine, tool } from '../../helpers/scripted-engine.ts';

interface Chunk {
  id: string;
  object: string;
  created: number;
  model: string;
  system_fingerprint: string;
  choices: { index: number; delta: Record<string, unknown>; logprobs: unknown; finish_reason: string | null }[];
  usage?: unknown;
  error?: { message: string; code: string };
}

const hello = { messages: [{ role: 'user', content: 'Hello' }] };
const thought = [reasoning('We'), reasoning(' greet.'), answer('Hi'), answer('!')];
const weatherTool = { type: 'function', function: { name: 'get_weather', parameters: { type: 'object' } } };

const logprob = (text: string): TokenLogprob => {
  const bytes = Buffer.from(text);
  return { token: 7, text, bytes, logprob: -0.25, top: [{ token: 9, text: 'x', bytes: Buffer.from('x'), logprob: -1.5 }] };
};

describe('streamed chat completion', () => {
  test('sends the role once and first, then reasoning, answer, and one empty delta with the finish reason', async (t) => {
    const { url } = await testServer(t, scriptedEngine(thought));
    const response = await post(`${url}/v1/chat/completions`, { ...hello, stream: true });
    assert.equal(response.status, 200);
    assert.equal(response.headers.get('content-type'), 'text/event-stream; charset=utf-8');
    assert.equal(response.headers.get('cache-control'), 'no-cache, no-transform');
    assert.equal(response.headers.get('x-accel-buffering'), 'no');
    const chunks = await chunksOf<Chunk>(response);
    assert.deepEqual(
      chunks.map(({ choices }) => [choices[0]?.delta, choices[0]?.finish_reason]),
      [
        [{ role: 'assistant', content: '', reasoning_content: null }, null],
        [{ reasoning_content: 'We', content: null }, null],
        [{ reasoning_content: ' greet.', content: null }, null],
        [{ content: 'Hi', reasoning_content: null }, null],
        [{ content: '!', reasoning_content: null }, null],
        [{}, 'stop'],
      ],
    );
    for (const chunk of chunks) {
      assert.equal(chunk.object, 'chat.completion.chunk');
      assert.equal(chunk.id, chunks[0]?.id);
      assert.equal(chunk.created, chunks[0]?.created);
      assert.equal(chunk.system_fingerprint, 'fp_scripted');
      assert.ok(!('usage' in chunk), 'usage was not asked for');
    }
    assert.match(chunks[0]?.id ?? '', /^chatcmpl-/);
  });

  test('sends usage last with empty choices, and null before, when it is asked for', async (t) => {
    const { url } = await testServer(t, scriptedEngine(thought, { cachedTokens: 4 }));
    const body = { ...hello, stream: true, stream_options: { include_usage: true } };
    const chunks = await chunksOf<Chunk>(await post(`${url}/v1/chat/completions`, body));
    const last = chunks.pop();
    assert.ok(chunks.every((chunk) => chunk.usage === null && chunk.choices.length === 1));
    assert.deepEqual(last?.choices, []);
    assert.deepEqual(last?.usage, {
      prompt_tokens: 22,
      completion_tokens: 4,
      total_tokens: 26,
      prompt_tokens_details: { cached_tokens: 4 },
      completion_tokens_details: { reasoning_tokens: 2 },
      prompt_cache_hit_tokens: 4,
      prompt_cache_miss_tokens: 18,
    });
  });

  test('counts usage in every chunk with continuous_usage_stats', async (t) => {
    const { url } = await testServer(t, scriptedEngine(thought));
    const body = { ...hello, stream: true, stream_options: { include_usage: true, continuous_usage_stats: true } };
    const chunks = await chunksOf<Chunk>(await post(`${url}/v1/chat/completions`, body));
    const counts = chunks.map((chunk) => (chunk.usage as { completion_tokens: number }).completion_tokens);
    assert.deepEqual(counts, [1, 1, 2, 3, 4, 4, 4]);
  });

  test('sends id, type and name of a tool call once, arguments behind them, and the reason in a chunk of its own', async (t) => {
    const script = [
      answer('Let me see.'),
      tool('get_weather', ['{"ci', 'ty": "Oslo"}'], 'call_1'),
      tool('get_time', ['{}'], 'call_2'),
    ];
    const { url } = await testServer(t, scriptedEngine(script));
    const body = { ...hello, stream: true, tools: [weatherTool] };
    const chunks = await chunksOf<Chunk>(await post(`${url}/v1/chat/completions`, body));
    assert.deepEqual(
      chunks.slice(2).map(({ choices }) => [choices[0]?.delta['tool_calls'], choices[0]?.finish_reason]),
      [
        [[{ index: 0, id: 'call_1', type: 'function', function: { name: 'get_weather', arguments: '' } }], null],
        [[{ index: 0, function: { arguments: '{"ci' } }], null],
        [[{ index: 0, function: { arguments: 'ty": "Oslo"}' } }], null],
        [[{ index: 1, id: 'call_2', type: 'function', function: { name: 'get_time', arguments: '' } }], null],
        [[{ index: 1, function: { arguments: '{}' } }], null],
        [undefined, 'tool_calls'],
      ],
    );
  });

  test('sends very long arguments in fewer pieces than clients refuse', async (t) => {
    const pieces = Array.from({ length: 20_000 }, (_, index) => String(index % 10));
    const { url } = await testServer(t, scriptedEngine([tool('write', pieces, 'call_1')]));
    const body = { ...hello, stream: true, tools: [weatherTool] };
    const chunks = await chunksOf<Chunk>(await post(`${url}/v1/chat/completions`, body));
    const calls = chunks.flatMap(
      ({ choices }) => (choices[0]?.delta['tool_calls'] ?? []) as { function: { arguments: string } }[],
    );
    assert.ok(calls.length < 2048, `${calls.length} pieces`);
    assert.equal(calls.map((call) => call.function.arguments).join(''), pieces.join(''));
  });

  test('opens every choice in the order of its index before any text', async (t) => {
    const { url } = await testServer(t, scriptedEngine([answer('a'), answer('b')]));
    const chunks = await chunksOf<Chunk>(await post(`${url}/v1/chat/completions`, { ...hello, stream: true, n: 3 }));
    assert.deepEqual(
      chunks.slice(0, 3).map(({ choices }) => [choices[0]?.index, choices[0]?.delta['role']]),
      [
        [0, 'assistant'],
        [1, 'assistant'],
        [2, 'assistant'],
      ],
    );
    assert.equal(chunks.filter(({ choices }) => choices[0]?.finish_reason === 'stop').length, 3);
  });

  test('carries the log-probability of every sampled token once', async (t) => {
    const script = [reasoning('a', [logprob('a')]), answer('bc', [logprob('b'), logprob('c')])];
    const { url } = await testServer(t, scriptedEngine(script));
    const body = { ...hello, stream: true, logprobs: true, top_logprobs: 1 };
    const chunks = await chunksOf<Chunk>(await post(`${url}/v1/chat/completions`, body));
    const tokens = chunks.flatMap(({ choices }) => {
      const logprobs = choices[0]?.logprobs as { content: { token: string }[] } | null;
      return logprobs?.content.map(({ token }) => token) ?? [];
    });
    assert.deepEqual(tokens, ['a', 'b', 'c']);
  });

  test('reports a failure in the middle as an error event, then [DONE]', async (t) => {
    const { url } = await testServer(
      t,
      scriptedEngine([answer('Hi'), fail(new EngineError('DEVICE_LOST', 'gpu 0 at 0x7f fell off'))]),
    );
    const chunks = await chunksOf<Chunk>(await post(`${url}/v1/chat/completions`, { ...hello, stream: true }));
    assert.deepEqual(chunks.at(-1), {
      error: {
        message: 'the engine failed; the log of the server says more',
        type: 'server_error',
        param: null,
        code: 'engine_error',
      },
    });
    assert.ok(!chunks.some(({ choices }) => (choices?.[0]?.finish_reason ?? null) !== null));
  });

  test('answers a refusal with its status instead of a stream', async (t) => {
    const refuse = new EngineError('QUEUE_FULL', 'the queue is full', { retryAfterMs: 2500 });
    const { url } = await testServer(t, scriptedEngine([], { refuse }));
    const response = await post(`${url}/v1/chat/completions`, { ...hello, stream: true });
    assert.equal(response.status, 503);
    assert.equal(response.headers.get('retry-after'), '3');
    assert.equal(((await response.json()) as Chunk).error?.code, 'server_overloaded');
  });

  test('names the reasoning as the server is told to', async (t) => {
    const { url } = await testServer(t, scriptedEngine([reasoning('hm'), answer('ok')]), { reasoningField: 'both' });
    const chunks = await chunksOf<Chunk>(await post(`${url}/v1/chat/completions`, { ...hello, stream: true }));
    assert.deepEqual(chunks[1]?.choices[0]?.delta, { reasoning_content: 'hm', reasoning: 'hm', content: null });
  });
});

describe('whole chat completion', () => {
  test('joins reasoning, answer and usage into one object', async (t) => {
    const { url } = await testServer(t, scriptedEngine(thought));
    const response = await post(`${url}/v1/chat/completions`, hello, { headers: { 'x-request-id': 'abc-1' } });
    assert.equal(response.headers.get('x-request-id'), 'abc-1');
    const { created, ...body } = (await response.json()) as Record<string, unknown>;
    assert.ok(Math.abs(Number(created) - Date.now() / 1e3) < 60);
    assert.deepEqual(body, {
      id: 'chatcmpl-abc-1',
      object: 'chat.completion',
      model: 'scripted',
      choices: [
        {
          index: 0,
          message: { role: 'assistant', content: 'Hi!', refusal: null, reasoning_content: 'We greet.' },
          logprobs: null,
          finish_reason: 'stop',
          stop_reason: null,
        },
      ],
      usage: {
        prompt_tokens: 22,
        completion_tokens: 4,
        total_tokens: 26,
        prompt_tokens_details: { cached_tokens: 0 },
        completion_tokens_details: { reasoning_tokens: 2 },
        prompt_cache_hit_tokens: 0,
        prompt_cache_miss_tokens: 22,
      },
      service_tier: null,
      system_fingerprint: 'fp_scripted',
    });
  });

  test('has null content beside tool calls, and no tool_calls key without any', async (t) => {
    const { url } = await testServer(t, scriptedEngine([tool('get_weather', ['{"city":', '"Oslo"}'], 'call_1')]));
    const response = await post(`${url}/v1/chat/completions`, { ...hello, tools: [weatherTool] });
    const { choices } = (await response.json()) as { choices: { message: Record<string, unknown>; finish_reason: string }[] };
    assert.equal(choices[0]?.finish_reason, 'tool_calls');
    assert.equal(choices[0]?.message['content'], null);
    const call = { id: 'call_1', type: 'function', function: { name: 'get_weather', arguments: '{"city":"Oslo"}' } };
    assert.deepEqual(choices[0]?.message['tool_calls'], [call]);
  });

  test('gives bytes and alternatives of every token with logprobs', async (t) => {
    const { url } = await testServer(t, scriptedEngine([answer('é', [logprob('é')])]));
    const response = await post(`${url}/v1/chat/completions`, { ...hello, logprobs: true, top_logprobs: 1 });
    const { choices } = (await response.json()) as { choices: { logprobs: unknown }[] };
    const top = { token: 'x', logprob: -1.5, bytes: [120] };
    const content = [{ token: 'é', logprob: -0.25, bytes: [195, 169], top_logprobs: [top] }];
    assert.deepEqual(choices[0]?.logprobs, { content, refusal: null });
  });

  test('says which stop string ended the answer', async (t) => {
    const { url } = await testServer(t, scriptedEngine([answer('one'), end('stop', 'two')]));
    const response = await post(`${url}/v1/chat/completions`, { ...hello, stop: ['two'] });
    const { choices } = (await response.json()) as { choices: Record<string, unknown>[] };
    assert.deepEqual([choices[0]?.['finish_reason'], choices[0]?.['stop_reason']], ['stop', 'two']);
  });

  test('fails as a whole when a choice fails', async (t) => {
    const { url } = await testServer(t, scriptedEngine([answer('Hi'), fail(new EngineError('OUT_OF_MEMORY', 'secret'))]));
    const response = await post(`${url}/v1/chat/completions`, hello);
    assert.equal(response.status, 500);
    assert.equal(response.headers.get('x-should-retry'), 'false');
    assert.ok(!JSON.stringify(await response.json()).includes('secret'));
  });
});

describe('translation of the request', () => {
  const cases: [string, Record<string, unknown>, Partial<ChatInput>][] = [
    ['thinks by default with high effort', {}, { thinking: true, effort: 'high' }],
    ['does not think when thinking is disabled', { thinking: { type: 'disabled' } }, { thinking: false }],
    ['does not think with effort none', { reasoning_effort: 'none' }, { thinking: false }],
    [
      'lets the thinking field win over effort none',
      { thinking: { type: 'enabled' }, reasoning_effort: 'none' },
      { thinking: true },
    ],
    ['reads enable_thinking of template arguments', { chat_template_kwargs: { enable_thinking: false } }, { thinking: false }],
    ['does not think as deepseek-chat', { model: 'deepseek-chat' }, { thinking: false }],
    ['maps effort xhigh to high', { reasoning_effort: 'xhigh' }, { thinking: true, effort: 'high' }],
    ['maps effort ultra to max', { reasoning_effort: 'ultra' }, { thinking: true, effort: 'max' }],
    [
      'passes a named tool choice on',
      { tools: [weatherTool], tool_choice: { type: 'function', function: { name: 'get_weather' } } },
      { toolChoice: { name: 'get_weather' } },
    ],
    ['takes an empty tools list as none', { tools: [], tool_choice: 'auto' }, { toolChoice: 'auto' }],
    ['passes parallel_tool_calls on', { parallel_tool_calls: false }, { parallelToolCalls: false }],
  ];
  for (const [title, fields, expected] of cases) {
    test(title, async (t) => {
      const engine = scriptedEngine([]);
      const { url } = await testServer(t, engine);
      const response = await post(`${url}/v1/chat/completions`, { ...hello, ...fields });
      assert.equal(response.status, 200, await response.text());
      const input = engine.requests[0]?.input as ChatInput;
      assert.deepEqual(Object.fromEntries(Object.keys(expected).map((key) => [key, input[key as keyof ChatInput]])), expected);
    });
  }

  test('keeps key order and number spelling of tool schemas and of arguments given as objects', async (t) => {
    const engine = scriptedEngine([]);
    const { url } = await testServer(t, engine);
    const body = `{"tools":[{"type":"function","function":{"parameters":{"2":1.0,"1":1e2},"name":"f"}}],
      "messages":[{"role":"user","content":"x"},
        {"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":{"b":1.50,"a":{}}}}]},
        {"role":"tool","content":[{"type":"text","text":"ok"},{"type":"image_url"}]}]}`;
    const response = await post(`${url}/v1/chat/completions`, body);
    assert.equal(response.status, 200, await response.text());
    const input = engine.requests[0]?.input as ChatInput;
    assert.deepEqual(input.tools, [{ json: '{"parameters":{"2":1.0,"1":1e2},"name":"f"}' }]);
    assert.deepEqual(input.messages.slice(1), [
      { role: 'assistant', content: '', toolCalls: [{ name: 'f', arguments: '{"b":1.50,"a":{}}' }] },
      {
        role: 'tool',
        content: [
          { type: 'text', text: 'ok' },
          { type: 'other', kind: 'image_url' },
        ],
      },
    ]);
  });

  test('reads messages in all their spellings', async (t) => {
    const engine = scriptedEngine([]);
    const { url } = await testServer(t, engine);
    const messages = [
      { role: 'developer', content: 'Be brief.' },
      {
        role: 'user',
        content: [
          { type: 'text', text: 'a' },
          { type: 'text', text: 'b' },
        ],
        name: 'me',
      },
      { role: 'assistant', content: null, reasoning: 'r' },
      { role: 'assistant', content: 'Once', reasoning_content: 'q', prefix: true },
    ];
    assert.equal((await post(`${url}/v1/chat/completions`, { messages })).status, 200);
    assert.deepEqual((engine.requests[0]?.input as ChatInput).messages, [
      { role: 'developer', content: 'Be brief.' },
      { role: 'user', content: 'a\nb' },
      { role: 'assistant', content: '', reasoning: 'r' },
      { role: 'assistant', content: 'Once', reasoning: 'q', prefix: true },
    ]);
  });

  test('passes sampling and stopping on, with the checkpoint defaults where nothing is said', async (t) => {
    const engine = scriptedEngine([]);
    const { url } = await testServer(t, engine);
    const fields = {
      ...{ temperature: 0, top_k: -1, min_p: 0.1, seed: -1, logit_bias: { 5: -100 }, stop: 'END', stop_token_ids: [3] },
      ...{ max_tokens: 5, max_completion_tokens: 7, n: 2, user_id: 'u1', priority: 2, presence_penalty: null },
    };
    const response = await post(`${url}/v1/chat/completions`, { ...hello, ...fields });
    assert.equal(response.status, 200, await response.text());
    const request = engine.requests[0]!;
    assert.deepEqual(request.sampling, {
      ...{ temperature: 0, topP: 0.95, topK: 0, minP: 0.1, repetitionPenalty: 1, presencePenalty: 0, frequencyPenalty: 0 },
      ...{ seed: 2n ** 64n - 1n, logitBias: new Map([[5, -100]]) },
    });
    assert.deepEqual(request.stop, { strings: ['END'], tokens: [3], includeInOutput: false, ignoreEos: false, minTokens: 0 });
    assert.deepEqual([request.maxTokens, request.n, request.cacheSalt, request.priority], [7, 2, 'u1', 2]);
  });
});
