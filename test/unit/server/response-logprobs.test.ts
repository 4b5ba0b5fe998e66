// SPDX-License-Identifier: MIT

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import OpenAI from 'openai';
import type { TokenLogprob } from '../../../engine/index.ts';
import { post, testServer } from '../../helpers/http.ts';
import { answer, reasoning, scriptedEngine, tool } from '../../helpers/scripted-engine.ts';

interface Event {
  type: string;
  logprobs?: unknown;
  part?: unknown;
  response?: Record<string, unknown>;
}

const hello = { model: 'scripted', input: 'Hello' };
const weather = { type: 'function', name: 'get_weather', parameters: { type: 'object' } };

async function eventsOf(response: Response): Promise<Event[]> {
  const lines = (await response.text()).split('\n').filter((line) => line.startsWith('data: '));
  return lines.map((line) => JSON.parse(line.slice('data: '.length)) as Event);
}

describe('log-probabilities of a response', () => {
  const entry = (text: string, token = 7): TokenLogprob => {
    const bytes = Buffer.from(text);
    return { token, text, bytes, logprob: -0.5, top: [{ token: 9, text: 'x', bytes: Buffer.from('x'), logprob: -2 }] };
  };
  const wire = (text: string): object => ({
    ...{ token: text, logprob: -0.5, bytes: [...Buffer.from(text)] },
    top_logprobs: [{ token: 'x', logprob: -2, bytes: [120] }],
  });
  // The second step ends the thinking and begins the answer; the last brings the end token (id 1) and no text.
  const thoughtful = [
    reasoning('So', [entry('So')]),
    answer('Hi', [entry('</think>', 3), entry('Hi')]),
    answer(' you', [entry(' y'), entry('ou'), entry('<end>', 1)]),
    tool('get_weather', ['{}']),
  ];
  const include = ['message.output_text.logprobs'];

  test('are those of the answer, in its deltas and all together in its parts', async (t) => {
    const engine = scriptedEngine(thoughtful);
    const { url } = await testServer(t, engine);
    const events = await eventsOf(
      await post(`${url}/v1/responses`, { ...hello, stream: true, tools: [weather], include, top_logprobs: 1 }),
    );
    assert.equal(engine.requests[0]!.logprobs, 1);
    const of = (type: string): unknown[] =>
      events.filter((event) => event.type === `response.${type}`).map(({ logprobs, part }) => logprobs ?? part);
    assert.deepEqual(of('output_text.delta'), [[wire('Hi')], [wire(' y'), wire('ou')]]);
    const all = [wire('Hi'), wire(' y'), wire('ou')];
    assert.deepEqual(of('output_text.done'), [all]);
    const [, part] = of('content_part.done') as { logprobs: unknown }[];
    assert.deepEqual(part?.logprobs, all);
    const { output } = events.at(-1)!.response as { output: { content?: { logprobs?: unknown }[] }[] };
    assert.deepEqual(output[1]?.content?.[0]?.logprobs, all);
  });

  test('come in whole responses through the openai client', async (t) => {
    const { url } = await testServer(t, scriptedEngine([answer('Hi', [entry('Hi')])]));
    const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: 'none', maxRetries: 0 });
    const response = await client.responses.create({
      ...hello,
      include: ['message.output_text.logprobs'],
      top_logprobs: 1,
    });
    const [item] = response.output;
    assert.ok(item?.type === 'message' && item.content[0]?.type === 'output_text');
    assert.deepEqual(item.content[0].logprobs, [wire('Hi')]);
  });

  test('are asked for by include or by a number of alternatives, and not sent unasked', async (t) => {
    const engine = scriptedEngine([answer('Hi')]);
    const { url } = await testServer(t, engine);
    for (const more of [{}, { include }, { top_logprobs: 3 }, { include, top_logprobs: 20 }, { top_logprobs: 0 }]) {
      assert.equal((await post(`${url}/v1/responses`, { ...hello, ...more })).status, 200);
    }
    assert.deepEqual(
      engine.requests.map(({ logprobs }) => logprobs),
      [-1, 0, 3, 20, -1],
    );
    const refused = await post(`${url}/v1/responses`, { ...hello, top_logprobs: 21 });
    assert.equal(refused.status, 400);
    assert.match(await refused.text(), /"param":"top_logprobs"/);
  });
});
