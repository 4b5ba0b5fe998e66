// SPDX-License-Identifier: MIT
// How the process starts and ends.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { eventually, post, sseFrames } from '../helpers/http.ts';
import { serveDemo } from '../helpers/served-demo.ts';
import type { ServedDemo } from '../helpers/served-demo.ts';

const story = { messages: [{ role: 'user', content: 'Tell me a story.' }], stream: true, ignore_eos: true };

/** Resolves when the stream has begun; `text` when it has ended. */
async function startStream(server: ServedDemo, maxTokens: number): Promise<{ text: Promise<string> }> {
  const response = await post(`${server.url}/v1/chat/completions`, { ...story, max_tokens: maxTokens });
  assert.equal(response.status, 200);
  return { text: response.text() };
}

describe('the server process', () => {
  test('is ready within 3 s', async (t) => {
    const server = await serveDemo();
    t.after(() => server.stop());
    assert.ok(server.readyMs < 3000, `${Math.round(server.readyMs)} ms`);
  });

  test('finishes running streams after SIGTERM, takes no new ones, and exits with 0', async (t) => {
    const server = await serveDemo();
    t.after(() => server.stop());
    const { text } = await startStream(server, 400);
    server.process.kill('SIGTERM');
    let refused = 0;
    const probe = setInterval(() => {
      post(`${server.url}/v1/chat/completions`, story).then(
        (response) => (refused = response.status),
        () => (refused = -1),
      );
    }, 20);
    await eventually(() => refused === 503 || refused === -1, 'the refusal').finally(() => clearInterval(probe));
    const frames = sseFrames(await text);
    assert.equal(frames.at(-1)?.data, '[DONE]');
    assert.match(frames.at(-2)?.data ?? '', /"finish_reason":"length"/);
    assert.equal(await server.ended, 0);
  });

  test('cuts streams off with an error event when the drain takes too long', async (t) => {
    const server = await serveDemo(['--drain-timeout', '100ms']);
    t.after(() => server.stop());
    const { text } = await startStream(server, 8000);
    server.process.kill('SIGTERM');
    const frames = sseFrames(await text);
    assert.equal(frames.at(-1)?.data, '[DONE]');
    assert.match(frames.at(-2)?.data ?? '', /"code":"server_shutting_down"/);
    assert.equal(await server.ended, 0);
  });

  test('ends at once at a second signal', async (t) => {
    const server = await serveDemo();
    t.after(() => server.stop());
    const { text } = await startStream(server, 8000);
    text.catch(() => undefined);
    server.process.kill('SIGINT');
    await new Promise((resolve) => setTimeout(resolve, 150));
    assert.equal(server.process.exitCode, null);
    server.process.kill('SIGINT');
    assert.equal(await server.ended, 130);
  });

  test('says in one line why it cannot start', async () => {
    const failing: [string[], RegExp][] = [
      [['--model', '/no/such/model'], /no directory \/no\/such\/model/],
      [['--max-model-length', '5'], /did you mean --max-model-len\?/],
      [['--port', '99999'], /--port: /],
      [['--device', 'cuda'], /CUDA|cuda/],
    ];
    for (const [options, message] of failing) {
      const error = await serveDemo(options).then(
        () => assert.fail(`${options.join(' ')} started`),
        (reason: Error) => reason,
      );
      assert.match(error.message, /ended with 1/);
      assert.match(error.message, message);
      assert.doesNotMatch(error.message, /\n\s+at /, 'a stack trace was shown');
    }
  });
});
