// SPDX-License-Identifier: MIT

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { post, testServer } from '../../helpers/http.ts';
import { scriptedEngine } from '../../helpers/scripted-engine.ts';

const bytes = (text: string): number[] => [...Buffer.from(text)];

describe('render', () => {
  test('gives token ids and text of a chat prompt and computes nothing', async (t) => {
    const engine = scriptedEngine([]);
    const { url } = await testServer(t, engine);
    const response = await post(`${url}/v1/chat/completions/render`, { messages: [{ role: 'user', content: 'Hi' }] });
    const text = '<user>Hi<assistant>';
    assert.deepEqual(await response.json(), { token_ids: bytes(text), text, features: null });
    assert.equal(engine.requests.length, 0);
  });

  test('gives one entry for each text prompt', async (t) => {
    const { url } = await testServer(t, scriptedEngine([]));
    const response = await post(`${url}/v1/completions/render`, { prompt: ['a', 'bc'] });
    assert.deepEqual(await response.json(), [
      { token_ids: bytes('a'), text: 'a' },
      { token_ids: bytes('bc'), text: 'bc' },
    ]);
  });

  test('refuses what the completion would refuse', async (t) => {
    const { url } = await testServer(t, scriptedEngine([]));
    for (const path of ['/v1/chat/completions/render', '/v1/completions/render']) {
      const response = await post(`${url}${path}`, { messages: [{ role: 'user', content: 'Hi' }], prompt: 'x', functions: [] });
      const { error } = (await response.json()) as { error: { code: string; param: string } };
      assert.deepEqual([response.status, error.code, error.param], [400, 'unsupported_parameter', 'functions']);
    }
  });
});
