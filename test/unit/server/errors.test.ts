// SPDX-License-Identifier: MIT

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { gzipSync } from 'node:zlib';
import { EngineError } from '../../../engine/index.ts';
import type { EngineErrorCode } from '../../../engine/index.ts';
import { eventually, post, rawExchange, testServer } from '../../helpers/http.ts';
import { answer, delay, scriptedEngine } from '../../helpers/scripted-engine.ts';

interface Failure {
  error: { message: string; type: string; param: string | null; code: string | null; [extra: string]: unknown };
}

const chat = '/v1/chat/completions';
const messages = [{ role: 'user', content: 'x' }];

/** Checks the nested body that every client reads, and returns its inside. */
async function failure(response: Response, status: number): Promise<Failure['error']> {
  const text = await response.text();
  assert.equal(response.status, status, text);
  assert.match(response.headers.get('content-type') ?? '', /^application\/json/);
  assert.ok(response.headers.get('x-request-id'));
  const { error } = JSON.parse(text) as Failure;
  assert.equal(typeof error.message, 'string');
  assert.ok(error.message.length > 5);
  assert.equal(typeof error.type, 'string');
  assert.ok(error.param === null || typeof error.param === 'string');
  return error;
}

describe('failures that the framework finds', () => {
  test('an unknown path is 404', async (t) => {
    const { url } = await testServer(t, scriptedEngine([]));
    assert.equal((await failure(await fetch(`${url}/v1/embeddings`), 404)).code, 'unknown_url');
  });

  test('a known path with the wrong method is 405 and names the right one', async (t) => {
    const { url } = await testServer(t, scriptedEngine([]));
    const response = await fetch(`${url}${chat}`);
    assert.equal(response.headers.get('allow'), 'POST');
    assert.equal((await failure(response, 405)).code, 'method_not_allowed');
    assert.equal((await fetch(`${url}${chat}`, { method: 'OPTIONS' })).status, 405);
  });

  test('a body of another type is 415', async (t) => {
    const { url } = await testServer(t, scriptedEngine([]));
    const error = await failure(await post(`${url}${chat}`, 'a=1', { headers: { 'content-type': 'text/plain' } }), 415);
    assert.match(error.message, /application\/json/);
  });

  test('a compressed body is 415 and told to come as it is', async (t) => {
    const { url } = await testServer(t, scriptedEngine([]));
    const headers = { 'content-type': 'application/json', 'content-encoding': 'gzip' };
    const body = gzipSync(JSON.stringify({ messages }));
    const error = await failure(await fetch(`${url}${chat}`, { method: 'POST', headers, body }), 415);
    assert.match(error.message, /gzip.*uncompressed/);
    assert.equal((await post(`${url}${chat}`, { messages }, { headers: { 'content-encoding': 'identity' } })).status, 200);
  });

  test('a byte order mark before the body is no part of it', async (t) => {
    const { url } = await testServer(t, scriptedEngine([]));
    const tools = [{ type: 'function', function: { name: 'f', parameters: { type: 'object' } } }];
    assert.equal((await post(`${url}${chat}`, `\ufeff${JSON.stringify({ messages, tools })}`)).status, 200);
  });

  test('a body that is not JSON is 400', async (t) => {
    const { url } = await testServer(t, scriptedEngine([]));
    assert.equal((await failure(await post(`${url}${chat}`, '{"messages":'), 400)).code, 'invalid_json');
  });

  test('an empty body is 400', async (t) => {
    const { url } = await testServer(t, scriptedEngine([]));
    assert.equal((await failure(await post(`${url}${chat}`, ''), 400)).type, 'invalid_request_error');
  });

  test('a body above the limit is 413', async (t) => {
    const { url } = await testServer(t, scriptedEngine([]), { bodyLimitBytes: 1000 });
    const body = { messages: [{ role: 'user', content: 'x'.repeat(2000) }] };
    const error = await failure(await post(`${url}${chat}`, body), 413);
    assert.equal(error.code, 'request_too_large');
    assert.match(error.message, /1000 B.*--body-limit/);
  });

  test('a path that does not decode is 400', async (t) => {
    const { port } = await testServer(t, scriptedEngine([]));
    const answer = await rawExchange(port, 'GET /v1/models/%zz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n');
    assert.match(answer, /^HTTP\/1\.1 400 /);
    assert.match(answer, /\r\nx-request-id: \w+\r\n/);
    assert.equal(
      (JSON.parse(answer.slice(answer.indexOf('{'), answer.lastIndexOf('}') + 1)) as Failure).error.code,
      'invalid_url',
    );
  });
});

describe('failures of the body', () => {
  type Case = [string, Record<string, unknown>, { param: string; code: string; message?: RegExp }];
  const cases: Case[] = [
    ['missing messages', { messages: undefined }, { param: 'messages', code: 'missing_required_parameter' }],
    ['no messages', { messages: [] }, { param: 'messages', code: 'invalid_value' }],
    [
      'too many messages',
      { messages: Array.from({ length: 16_385 }, () => messages[0]) },
      { param: 'messages', code: 'invalid_value' },
    ],
    ['a wrong type', { messages: 'hi' }, { param: 'messages', code: 'invalid_type' }],
    ['a wrong role', { messages: [{ role: 'robot', content: 'x' }] }, { param: 'messages[0].role', code: 'invalid_value' }],
    [
      'content of a wrong type',
      { messages: [...messages, { role: 'user', content: 5 }] },
      { param: 'messages[1].content', code: 'invalid_type' },
    ],
    [
      'a part without text',
      { messages: [{ role: 'user', content: [{ type: 'text' }] }] },
      { param: 'messages[0].content[0].text', code: 'missing_required_parameter' },
    ],
    [
      'a part whose text is none',
      { messages: [{ role: 'user', content: [{ type: 'text', text: 5 }] }] },
      { param: 'messages[0].content[0].text', code: 'invalid_type', message: /expected a string, got 5/ },
    ],
    [
      'an image',
      { messages: [{ role: 'user', content: [{ type: 'image_url' }] }] },
      { param: 'messages[0].content[0].type', code: 'unsupported_parameter' },
    ],
    [
      'a prefix that is not last',
      { messages: [{ role: 'assistant', content: 'a', prefix: true }, ...messages] },
      { param: 'messages[0].prefix', code: 'invalid_value' },
    ],
    [
      'temperature out of range',
      { temperature: 3 },
      { param: 'temperature', code: 'invalid_value', message: /from 0 to 2, got 3/ },
    ],
    [
      'a format that is a word',
      { response_format: 'json' },
      { param: 'response_format', code: 'invalid_type', message: /expected an object, got "json"/ },
    ],
    [
      'part of a list',
      { messages: [{ role: 'user', content: [5] }] },
      { param: 'messages[0].content[0]', code: 'invalid_type', message: /expected an object, got 5/ },
    ],
    [
      'a bias of a word',
      { logit_bias: { hello: 1 } },
      { param: 'logit_bias.hello', code: 'invalid_value', message: /expected token ids as keys$/ },
    ],
    ['a seed of more than 64 bits', { seed: 1e30 }, { param: 'seed', code: 'invalid_value', message: /64 bits/ }],
    [
      'alternatives without log-probabilities',
      { top_logprobs: 3 },
      { param: 'top_logprobs', code: 'invalid_value', message: /logprobs: true/ },
    ],
    [
      'parameters of a tool that are no schema',
      { tools: [{ type: 'function', function: { name: 'f', parameters: 'x' } }] },
      { param: 'tools[0].function.parameters', code: 'invalid_type', message: /expected an object/ },
    ],
    [
      'structured outputs of no kind',
      { structured_outputs: { lark: 'x' } },
      { param: 'structured_outputs', code: 'invalid_value', message: /regex, choice, grammar/ },
    ],
    ['a repetition penalty near zero', { repetition_penalty: 1e-9 }, { param: 'repetition_penalty', code: 'invalid_value' }],
    ['temperature as text', { temperature: '0.5' }, { param: 'temperature', code: 'invalid_type' }],
    ['too many choices', { n: 17 }, { param: 'n', code: 'invalid_value' }],
    [
      'too many stop strings',
      { stop: Array.from({ length: 17 }, String) },
      { param: 'stop', code: 'invalid_value', message: /at most 16 .*got an array of 17/ },
    ],
    ['an empty stop string', { stop: [''] }, { param: 'stop[0]', code: 'invalid_value' }],
    ['a biased token outside the vocabulary', { logit_bias: { 256: 1 } }, { param: 'logit_bias.256', code: 'invalid_value' }],
    [
      'too many biases',
      { logit_bias: Object.fromEntries(Array.from({ length: 1025 }, (_, key) => [key, 1])) },
      { param: 'logit_bias', code: 'invalid_value' },
    ],
    ['too many alternatives', { logprobs: true, top_logprobs: 21 }, { param: 'top_logprobs', code: 'invalid_value' }],
    [
      'too many tools',
      { tools: Array.from({ length: 129 }, () => ({ type: 'function', function: { name: 'f' } })) },
      { param: 'tools', code: 'invalid_value' },
    ],
    [
      'a tool that is no function',
      { tools: [{ type: 'web_search' }] },
      { param: 'tools[0].type', code: 'unsupported_parameter' },
    ],
    ['a choice without tools', { tool_choice: 'required' }, { param: 'tool_choice', code: 'invalid_value' }],
    [
      'stream options without a stream',
      { stream_options: { include_usage: true } },
      { param: 'stream_options', code: 'invalid_value' },
    ],
    ['functions', { functions: [] }, { param: 'functions', code: 'unsupported_parameter', message: /tools/ }],
    ...['prompt_logprobs', 'thinking_token_budget', 'stop_regex', 'regex', 'ebnf', 'grammar', 'json_schema'].map(
      (field): Case => [field, { [field]: 1 }, { param: field, code: 'unsupported_parameter' }],
    ),
    ['an echo in a chat', { echo: true }, { param: 'echo', code: 'unsupported_parameter', message: /\/v1\/completions/ }],
    ['a cut of the prompt', { truncate_prompt_tokens: 5 }, { param: 'truncate_prompt_tokens', code: 'unsupported_parameter' }],
    ['token ids in answers', { return_token_ids: true }, { param: 'return_token_ids', code: 'unsupported_parameter' }],
    ['audio', { modalities: ['text', 'audio'] }, { param: 'modalities', code: 'unsupported_parameter' }],
    ['an unknown model', { model: 'gpt-9' }, { param: 'model', code: 'model_not_found' }],
    ['an unknown effort', { reasoning_effort: 'huge' }, { param: 'reasoning_effort', code: 'invalid_value' }],
  ];
  for (const [title, fields, expected] of cases) {
    test(`${title} names ${expected.param}`, async (t) => {
      const { url } = await testServer(t, scriptedEngine([]));
      const response = await post(`${url}${chat}`, { messages, ...fields });
      const error = await failure(response, expected.code === 'model_not_found' ? 404 : 400);
      assert.deepEqual([error.param, error.code], [expected.param, expected.code], error.message);
      if (expected.message !== undefined) assert.match(error.message, expected.message);
    });
  }

  test('the first of many mistakes is told at once', async (t) => {
    const { url } = await testServer(t, scriptedEngine([]));
    const many = Array.from({ length: 300_000 }, () => 5);
    const bias = Object.fromEntries(many.map((value, token) => [token, value]));
    const mistakes: [string, object, string][] = [
      [chat, { messages: [{ role: 'user', content: many }] }, 'messages[0].content'],
      [chat, { messages: many }, 'messages'],
      [chat, { messages, logit_bias: bias }, 'logit_bias'],
      ['/v1/completions', { prompt: many.map(() => 'x') }, 'prompt'],
      ['/v1/responses', { input: 'x', metadata: bias }, 'metadata'],
      ['/detokenize', { tokens: many.map(() => 'x') }, 'tokens[0]'],
    ];
    for (const [path, body, param] of mistakes) {
      const sent = performance.now();
      const error = await failure(await post(`${url}${path}`, body), 400);
      assert.ok(error.param?.startsWith(param), `${error.param}: ${error.message}`);
      // All of them together would take seconds, in which nothing else is answered.
      assert.ok(performance.now() - sent < 1000, `${path} ${param} took ${performance.now() - sent} ms`);
    }
  });

  test('a body nested too deeply is the fault of its sender', async (t) => {
    const { url } = await testServer(t, scriptedEngine([]));
    const deep = `${'{"a":'.repeat(5000)}1${'}'.repeat(5000)}`;
    const call = `{"id":"c","type":"function","function":{"name":"f","arguments":${deep}}}`;
    const asked = '"messages":[{"role":"user","content":"x"}]';
    for (const fields of [
      `${asked},"tools":[{"type":"function","function":{"name":"f","parameters":${deep}}}]`,
      `${asked},"response_format":{"type":"json_schema","json_schema":{"name":"x","schema":${deep}}}`,
      `"messages":[{"role":"assistant","tool_calls":[${call}]},{"role":"user","content":"x"}]`,
    ]) {
      const error = await failure(await post(`${url}${chat}`, `{${fields}}`), 400);
      assert.match(error.message, /nesting deeper than 512/);
    }
    const ignored = await post(`${url}${chat}`, `{${asked},"metadata":${deep}}`);
    assert.equal(ignored.status, 200);
  });

  test('unknown fields and nulls are ignored', async (t) => {
    const { url } = await testServer(t, scriptedEngine([]));
    const fields = {
      store: true,
      metadata: {},
      frobnicate: 1,
      best_of: 1,
      grammar: '',
      return_token_ids: false,
      modalities: ['text'],
      stop: null,
      top_logprobs: 0,
      top_p: 0,
      seed: 2 ** 63,
      structured_outputs: {},
      echo: false,
      functions: null,
    };
    assert.equal((await post(`${url}${chat}`, { messages, ...fields })).status, 200);
  });
});

describe('failures of the engine', () => {
  const cases: [EngineErrorCode, number, string][] = [
    ['INVALID_REQUEST', 400, 'invalid_value'],
    ['UNSUPPORTED', 400, 'unsupported_parameter'],
    ['QUEUE_FULL', 503, 'server_overloaded'],
    ['LOADING', 503, 'model_loading'],
    ['CLOSED', 503, 'server_shutting_down'],
    ['OUT_OF_MEMORY', 500, 'engine_error'],
    ['DEVICE_LOST', 500, 'engine_error'],
    ['INVALID_PLAN', 500, 'engine_error'],
    ['INTERNAL', 500, 'engine_error'],
  ];
  for (const [code, status, wireCode] of cases) {
    test(`${code} is ${status} ${wireCode}`, async (t) => {
      const refuse = new EngineError(code, 'expected this, got that', { param: 'messages[0]' });
      const { url } = await testServer(t, scriptedEngine([], { refuse }));
      const error = await failure(await post(`${url}${chat}`, { messages }), status);
      assert.equal(error.code, wireCode);
      if (status === 500) assert.doesNotMatch(error.message, /expected this/);
    });
  }

  test('a prompt that is too long is told in the words that agents look for', async (t) => {
    const details = { promptTokens: 9000, maxModelLen: 8192, param: 'messages' };
    const { url } = await testServer(
      t,
      scriptedEngine([], { refuse: new EngineError('CONTEXT_LENGTH_EXCEEDED', 'too long', details) }),
    );
    const error = await failure(await post(`${url}${chat}`, { messages }), 400);
    assert.match(error.message, /This model's maximum context length is 8192 tokens\. However, .* 9000 tokens/);
    assert.deepEqual(
      [error.code, error.param, error['n_prompt_tokens'], error['n_ctx']],
      ['context_length_exceeded', 'messages', 9000, 8192],
    );
  });

  test('a prompt of /v1/completions that is too long is called prompt', async (t) => {
    const details = { promptTokens: 9000, maxModelLen: 8192, param: 'prompt' };
    const refuse = new EngineError('CONTEXT_LENGTH_EXCEEDED', 'too long', details);
    const { url } = await testServer(t, scriptedEngine([], { refuse }));
    const error = await failure(await post(`${url}/v1/completions`, { prompt: 'x' }), 400);
    assert.equal(error.param, 'prompt');
    assert.match(error.message, /maximum context length is 8192 tokens\. However, your prompt resulted in 9000 tokens/);
  });

  test('while the model loads, requests get 503 with the progress', async (t) => {
    const { url, lifecycle } = await testServer(t, undefined);
    lifecycle.loading({ stage: 'weights', fraction: 0.42, detail: '' });
    const response = await post(`${url}${chat}`, { messages });
    assert.ok(response.headers.get('retry-after'));
    const error = await failure(response, 503);
    assert.equal(error.code, 'model_loading');
    assert.match(error.message, /42 %/);
  });

  test('an answer that ends while the server drains says that its connection is closed', async (t) => {
    const engine = scriptedEngine([delay(150), answer('late')]);
    const { url, lifecycle } = await testServer(t, engine);
    const asked = post(`${url}${chat}`, { messages });
    await eventually(() => engine.active === 1, 'the request');
    lifecycle.drain();
    const response = await asked;
    assert.deepEqual([response.status, response.headers.get('connection')], [200, 'close']);
  });

  test('while draining, requests get 503 and the connection is closed', async (t) => {
    const { url, lifecycle } = await testServer(t, scriptedEngine([]));
    lifecycle.drain();
    const response = await post(`${url}${chat}`, { messages });
    assert.equal(response.headers.get('connection'), 'close');
    assert.equal((await failure(response, 503)).code, 'server_shutting_down');
  });
});
