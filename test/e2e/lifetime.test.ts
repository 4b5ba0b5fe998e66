// SPDX-License-Identifier: MIT
// How the process starts and ends.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { connect } from 'node:net';
import { availableParallelism, loadavg } from 'node:os';
import { describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
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
    const times: number[] = [];
    while (times.length < 3 && !times.some((time) => time < 3000)) {
      const server = await serveDemo();
      times.push(server.readyMs);
      await server.stop();
    }
    const shown = times.map((time) => `${Math.round(time)} ms`).join(', ');
    t.diagnostic(shown);
    const best = Math.min(...times);
    const [load = 0] = loadavg();
    if (best >= 3000 && load > 2 * availableParallelism()) t.skip(`the machine is busy (load ${load.toFixed(1)}): ${shown}`);
    else assert.ok(best < 3000, shown);
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

  test('does not wait for clients that send no more of their request, or take no more of their answer', async (t) => {
    const server = await serveDemo(['--drain-timeout', '200ms']);
    t.after(() => server.stop());
    const tokens = JSON.stringify({ tokens: new Array<number>(2_000_000).fill(1000) });
    for (const [path, body, length] of [
      ['/tokenize', '{', 100],
      ['/detokenize', tokens, tokens.length],
    ] as const) {
      const client = connect(Number(new URL(server.url).port), '127.0.0.1').pause();
      t.after(() => client.destroy());
      client.on('error', () => undefined);
      const head = `POST ${path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: ${length}`;
      await new Promise((resolve) => client.write(`${head}\r\n\r\n${body}`, resolve));
    }
    // Long enough for an answer that fills every buffer on its way.
    await sleep(1500);
    server.process.kill('SIGTERM');
    assert.equal(await Promise.race([server.ended, sleep(10_000, 'still there')]), 0);
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

  test('ends at a signal while it loads', async (t) => {
    const main = fileURLToPath(new URL('../../server/main.js', import.meta.url));
    const child = spawn(process.execPath, [main, 'serve', '--port', '0'], { stdio: ['ignore', 'pipe', 'ignore'] });
    t.after(() => child.kill('SIGKILL'));
    // The line that it listens comes before the model is there.
    await once(child.stdout, 'data');
    child.kill('SIGTERM');
    const [status, signal] = (await once(child, 'exit')) as [number | null, string | null];
    // A machine that loads the model before the signal arrives drains instead.
    assert.ok(signal === null && (status === 143 || status === 0), `${status} ${signal}`);
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
