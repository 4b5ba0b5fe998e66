// SPDX-License-Identifier: MIT

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { EngineError } from '../../../engine/index.ts';
import type { TokenLogprob } from '../../../engine/index.ts';
import { chunksOf, post, testServer } from '../../helpers/http.ts';
import { answer, end, scriptedEngine } from '../../helpers/scripted-engine.ts';

interface Choice {
  index: number;
  text: string;
  logprobs: unknown;
  finish_reason: string | null;
}
interface Completion {
  id: string;
  object: string;
  choices: Choice[];
  usage?: { prompt_tokens: number; completion_tokens: number } | null;
  error?: { param: string; code: string };
}

const logprob = (text: string, value: number): TokenLogprob => ({
  token: 1,
  text,
  bytes: Buffer.from(text),
  logprob: value,
  top: [{ token: 2, text: 'z', bytes: Buffer.from('z'), logprob: -3 }],
});

async function complete(url: string, body: object): Promise<Completion> {
  return (await (await post(`${url}/v1/completions`, body)).json()) as Completion;
}

describe('text completion', () => {
  test('answers a string with at most 16 tokens unless told otherwise', async (t) => {
    const engine = scriptedEngine([answer(' Paris'), end('length')]);
    const { url } = await testServer(t, engine);
    const body = await complete(url, { prompt: 'The capital is' });
    assert.match(body.id, /^cmpl-/);
    assert.equal(body.object, 'text_completion');
    assert.deepEqual(body.choices, [{ index: 0, text: ' Paris', logprobs: null, finish_reason: 'length', stop_reason: null }]);
    assert.deepEqual([body.usage?.prompt_tokens, body.usage?.completion_tokens], [14, 1]);
    assert.equal(engine.requests[0]?.maxTokens, 16);
  });

  test('answers each of several prompts n times, in order', async (t) => {
    const engine = scriptedEngine((request, choice) => [
      answer(`${request.input.kind === 'text' ? request.input.text : ''}${choice}`),
    ]);
    const { url } = await testServer(t, engine);
    const body = await complete(url, { prompt: ['a', 'b', 'c'], n: 2 });
    assert.deepEqual(
      body.choices.map(({ index, text }) => [index, text]),
      [
        [0, 'a0'],
        [1, 'a1'],
        [2, 'b0'],
        [3, 'b1'],
        [4, 'c0'],
        [5, 'c1'],
      ],
    );
    assert.deepEqual([body.usage?.prompt_tokens, body.usage?.completion_tokens], [3, 6]);
  });

  test('takes token ids, one list or several', async (t) => {
    const engine = scriptedEngine([answer('x')]);
    const { url } = await testServer(t, engine);
    await complete(url, { prompt: [72, 105] });
    await complete(url, { prompt: [[1], [2, 3]] });
    assert.deepEqual(
      engine.requests.map(({ input }) => (input.kind === 'tokens' ? [...input.tokens] : input.kind)),
      [[72, 105], [1], [2, 3]],
    );
  });

  test('repeats the prompt with echo, text and token ids alike', async (t) => {
    const { url } = await testServer(t, scriptedEngine([answer('!')]));
    assert.equal((await complete(url, { prompt: 'Hi', echo: true })).choices[0]?.text, 'Hi!');
    assert.equal((await complete(url, { prompt: [72, 105], echo: true })).choices[0]?.text, 'Hi!');
  });

  test('scores a prompt without generating: max_tokens 0 with echo and logprobs', async (t) => {
    const promptLogprobs = [logprob('H', Number.NaN), logprob('é', -0.5)];
    const engine = scriptedEngine([end('length')], { promptLogprobs });
    const { url } = await testServer(t, engine);
    const body = await complete(url, { prompt: [72, 105], echo: true, logprobs: 1, max_tokens: 0 });
    assert.equal(engine.requests[0]?.promptLogprobs, 1);
    assert.deepEqual(body.choices[0]?.logprobs, {
      tokens: ['H', 'é'],
      token_logprobs: [null, -0.5],
      top_logprobs: [null, { z: -3, é: -0.5 }],
      text_offset: [0, 1],
    });
    assert.equal(body.choices[0]?.finish_reason, 'length');
  });

  test('gives log-probabilities of what it generated', async (t) => {
    const { url } = await testServer(t, scriptedEngine([answer('ab', [logprob('a', -1), logprob('b', -Infinity)])]));
    const body = await complete(url, { prompt: 'x', logprobs: 0 });
    assert.deepEqual(body.choices[0]?.logprobs, {
      tokens: ['a', 'b'],
      token_logprobs: [-1, -9999],
      top_logprobs: [
        { z: -3, a: -1 },
        { z: -3, b: -9999 },
      ],
      text_offset: [0, 1],
    });
  });

  test('counts characters in text_offset also where one is made of several tokens', async (t) => {
    const part = (...bytes: number[]): TokenLogprob => ({ ...logprob('\ufffd', -1), bytes: Buffer.from(bytes) });
    const tokens = [
      logprob('a', -1),
      part(0xf0, 0x9f),
      part(0x98),
      part(0x80),
      logprob('b', -1),
      logprob('é', -1),
      logprob('c', -1),
    ];
    const { url } = await testServer(t, scriptedEngine([answer('a😀béc', tokens)]));
    const body = await complete(url, { prompt: 'x', logprobs: 0 });
    // The parts of the emoji stand where it stands.
    assert.deepEqual((body.choices[0]?.logprobs as { text_offset: number[] }).text_offset, [0, 1, 1, 1, 2, 3, 4]);
  });

  test('streams the echoed prompt, pieces, the reason and usage', async (t) => {
    const { url } = await testServer(t, scriptedEngine([answer('a'), answer('b')]));
    const body = { prompt: 'Hi', echo: true, stream: true, stream_options: { include_usage: true } };
    const chunks = await chunksOf<Completion>(await post(`${url}/v1/completions`, body));
    assert.deepEqual(
      chunks.map(({ choices }) => choices[0] && [choices[0].text, choices[0].finish_reason]),
      [['Hi', null], ['a', null], ['b', null], ['', 'stop'], undefined],
    );
    assert.ok(chunks.slice(0, -1).every(({ object, usage }) => object === 'text_completion' && usage === null));
    assert.equal(chunks.at(-1)?.usage?.completion_tokens, 2);
  });

  test('fills the middle between each prompt and the suffix', async (t) => {
    const engine = scriptedEngine([answer('b')]);
    const { url } = await testServer(t, engine);
    await complete(url, { prompt: ['a', 'x'], suffix: 'c' });
    await complete(url, { prompt: 'a', suffix: '' });
    assert.deepEqual(
      engine.requests.map(({ input }) => input),
      [
        { kind: 'fim', prefix: 'a', suffix: 'c' },
        { kind: 'fim', prefix: 'x', suffix: 'c' },
        { kind: 'text', text: 'a' },
      ],
    );
  });

  test('says so when the tokenizer cannot fill the middle', async (t) => {
    const refuse = new EngineError('UNSUPPORTED', 'needs control tokens', { param: 'suffix' });
    const { url } = await testServer(t, scriptedEngine([], { refuse }));
    const { error } = await complete(url, { prompt: 'a', suffix: 'c' });
    assert.deepEqual([error?.param, error?.code], ['suffix', 'unsupported_parameter']);
  });

  const refused: [string, object, string, string][] = [
    ['max_tokens 0 without echo', { prompt: 'x', max_tokens: 0 }, 'max_tokens', 'invalid_value'],
    ['a suffix to token ids', { prompt: [1], suffix: 'y' }, 'suffix', 'unsupported_parameter'],
    ['a suffix with echo', { prompt: 'x', suffix: 'y', echo: true }, 'echo', 'unsupported_parameter'],
    ['progress without a stream', { prompt: 'x', return_progress: true }, 'return_progress', 'invalid_value'],
    ['an id outside the vocabulary', { prompt: [1, 256] }, 'prompt[1]', 'invalid_value'],
    ['no prompt', {}, 'prompt', 'missing_required_parameter'],
    ['an empty list', { prompt: [] }, 'prompt', 'invalid_value'],
    ['too many prompts', { prompt: Array.from({ length: 100 }, () => 'x'), n: 2 }, 'prompt', 'invalid_value'],
  ];
  for (const [title, body, param, code] of refused) {
    test(`refuses ${title}`, async (t) => {
      const { url } = await testServer(t, scriptedEngine([]));
      const { error } = await complete(url, body);
      assert.deepEqual([error?.param, error?.code], [param, code]);
    });
  }
});
