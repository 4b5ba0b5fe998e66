// SPDX-License-Identifier: MIT
// More requests than the server is set to take.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { post, sseFrames } from '../helpers/http.ts';
import { serveDemo } from '../helpers/served-demo.ts';

const story = { messages: [{ role: 'user', content: 'Tell me a story.' }], ignore_eos: true, max_tokens: 400, stream: true };

describe('a server with one seat and a queue of two', () => {
  test('answers some, tells the others at once when to come again, and serves on afterwards', async (t) => {
    const server = await serveDemo(['--max-sequences', '1', '--max-queued-requests', '2', '--keepalive-interval', '50ms']);
    t.after(() => server.stop());
    const responses = await Promise.all(Array.from({ length: 8 }, () => post(`${server.url}/v1/chat/completions`, story)));
    const refused = responses.filter(({ status }) => status === 503);
    const served = responses.filter(({ status }) => status === 200);
    assert.equal(refused.length + served.length, 8);
    assert.ok(refused.length >= 3 && served.length >= 2, `${refused.length} refused, ${served.length} served`);
    for (const response of refused) {
      assert.ok(Number(response.headers.get('retry-after')) >= 1);
      const { error } = (await response.json()) as { error: { code: string; type: string } };
      assert.deepEqual([error.code, error.type], ['server_overloaded', 'overloaded_error']);
    }
    const streams = await Promise.all(served.map(async (response) => sseFrames(await response.text())));
    for (const frames of streams) assert.match(frames.at(-2)?.data ?? '', /"finish_reason":"length"/);
    // Those that waited were kept by comments.
    assert.ok(streams.some((frames) => frames[0]?.comment === 'keep-alive'));
    assert.equal((await post(`${server.url}/v1/chat/completions`, { ...story, max_tokens: 1 })).status, 200);
  });
});
