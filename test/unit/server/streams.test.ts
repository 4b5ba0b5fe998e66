// SPDX-License-Identifier: MIT
// What happens on the connection of a stream: silence, slow readers, clients that leave.

import assert from 'node:assert/strict';
import { connect } from 'node:net';
import { describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { chunksOf, eventually, post, rawExchange, sseFrames, testServer } from '../../helpers/http.ts';
import { rateEngine } from '../../helpers/rate-engine.ts';
import { answer, delay, reasoning, scriptedEngine } from '../../helpers/scripted-engine.ts';

const chat = '/v1/chat/completions';
const hello = { messages: [{ role: 'user', content: 'Hello' }] };

/** The bytes of a request, for clients that fetch cannot imitate. */
function requestBytes(body: object): string {
  const text = JSON.stringify(body);
  return `POST ${chat} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: ${text.length}\r\n\r\n${text}`;
}

describe('keepalive', () => {
  test('comments fill silence during prefill and between tokens, and nothing else is sent', async (t) => {
    const script = [delay(130), answer('Hi'), delay(130), answer('!')];
    const { url } = await testServer(t, scriptedEngine(script), { keepaliveIntervalMs: '50ms' });
    const response = await post(`${url}${chat}`, { ...hello, stream: true });
    const frames = sseFrames(await response.text());
    const kinds = frames.map((frame) => (frame.comment === undefined ? 'data' : 'comment'));
    assert.equal(kinds[0], 'comment');
    assert.ok(kinds.lastIndexOf('comment') > kinds.indexOf('data'), kinds.join(' '));
    assert.ok(frames.every(({ comment }) => comment === undefined || comment === 'keep-alive'));
  });

  test('headers go out at acceptance, before the first token', async (t) => {
    const { url } = await testServer(t, scriptedEngine([delay(10_000), answer('late')]));
    const leave = new AbortController();
    const response = await post(`${url}${chat}`, { ...hello, stream: true }, { signal: leave.signal });
    assert.equal(response.status, 200);
    leave.abort();
  });

  test('headers go out after one interval when acceptance takes longer', async (t) => {
    const { url } = await testServer(t, scriptedEngine([answer('Hi')], { acceptMs: 400 }), { keepaliveIntervalMs: '50ms' });
    const started = performance.now();
    const response = await post(`${url}${chat}`, { ...hello, stream: true });
    assert.ok(performance.now() - started < 350, 'headers came before acceptance');
    const frames = sseFrames(await response.text());
    assert.equal(frames[0]?.comment, 'keep-alive');
    assert.equal(frames.at(-1)?.data, '[DONE]');
  });
});

describe('framing', () => {
  test('is chunked for HTTP/1.1, and the connection serves the next request', async (t) => {
    const texts = ['Grüße 🙂', '!', 'ü', '界', ' plain'];
    const { port } = await testServer(t, scriptedEngine(texts.map((text) => answer(text))));
    const bytes = requestBytes({ ...hello, stream: true });
    const received = await rawExchange(port, bytes + bytes.replace('host: x', 'host: x\r\nconnection: close'));
    const answers = received.split(/(?=HTTP\/1.1 200)/);
    assert.equal(answers.length, 2);
    for (const answered of answers) {
      const [head = '', body = ''] = answered.split('\r\n\r\n', 1).concat(answered.slice(answered.indexOf('\r\n\r\n') + 4));
      assert.match(head, /transfer-encoding: chunked/i);
      const frames = sseFrames(unchunked(body));
      assert.equal(frames.at(-1)?.data, '[DONE]');
      const sent = frames.filter(({ data }) => /"content":"[^"]/.test(data ?? ''));
      assert.deepEqual(
        sent.map(({ data }) => /"content":"([^"]*)"/.exec(data ?? '')?.[1]),
        texts,
      );
    }
  });

  test('ends the connection of a client that asked for it', async (t) => {
    const { port } = await testServer(t, scriptedEngine([answer('Hi')]));
    const bytes = requestBytes({ ...hello, stream: true }).replace('host: x', 'host: x\r\nconnection: close');
    const closed = rawExchange(port, bytes).then((received) => /^connection: (.*)\r$/im.exec(received)?.[1]);
    assert.equal(await Promise.race([closed, sleep(2000, 'still open')]), 'close');
  });

  test('is bare for HTTP/1.0, whose clients know no chunks', async (t) => {
    const { port } = await testServer(t, scriptedEngine([answer('Hi')]));
    const received = await rawExchange(port, requestBytes({ ...hello, stream: true }).replace('HTTP/1.1', 'HTTP/1.0'));
    assert.doesNotMatch(received, /transfer-encoding/i);
    const frames = sseFrames(received.slice(received.indexOf('\r\n\r\n') + 4));
    assert.equal(frames.at(-1)?.data, '[DONE]');
  });

  test('carries the same chunks whether they are made from a template or as objects', async (t) => {
    const texts = ['a', '"quoted"\n', '🙂', '\ud800', '\u2028'];
    const { url } = await testServer(
      t,
      scriptedEngine([...texts.map((text) => reasoning(text)), ...texts.map((text) => answer(text))]),
    );
    const ask = async (more: object): Promise<Record<string, unknown>[]> =>
      chunksOf(await post(`${url}${chat}`, { ...hello, stream: true, ...more }));
    // Counts in every chunk keep the server from using its template.
    const whole = await ask({ stream_options: { include_usage: true, continuous_usage_stats: true } });
    const quick = await ask({ stream_options: { include_usage: true } });
    // Two answers may lie in two seconds.
    const known = (chunks: Record<string, unknown>[]): unknown[] =>
      chunks.map((chunk) => ({ ...chunk, id: '', created: 0, usage: null }));
    assert.deepEqual(known(quick), known(whole));
  });
});

/** The body of a response in chunked encoding. */
function unchunked(body: string): string {
  let rest = Buffer.from(body);
  let text = '';
  for (;;) {
    const end = rest.indexOf('\r\n');
    const length = parseInt(rest.subarray(0, end).toString(), 16);
    assert.ok(length >= 0, `no chunk length at ${rest.subarray(0, 20).toString()}`);
    if (length === 0) return text;
    text += rest.subarray(end + 2, end + 2 + length).toString();
    assert.equal(rest.subarray(end + 2 + length, end + 4 + length).toString(), '\r\n');
    rest = rest.subarray(end + 4 + length);
  }
}

describe('a client that leaves', () => {
  const bodies = { 'a stream': { ...hello, stream: true }, 'a whole answer': hello };
  for (const [kind, body] of Object.entries(bodies)) {
    test(`aborts ${kind} by closing its half of the connection`, async (t) => {
      const engine = rateEngine({ stepMs: 5, tokens: 100_000 });
      const { port } = await testServer(t, engine);
      const socket = connect(port, '127.0.0.1', () => socket.write(requestBytes(body)));
      socket.on('error', () => undefined);
      await eventually(() => engine.active === 1, 'the request');
      socket.end();
      await eventually(() => engine.aborted === 1 && engine.active === 0, 'the abort');
    });

    test(`aborts ${kind} by resetting the connection`, async (t) => {
      const engine = rateEngine({ stepMs: 5, tokens: 100_000 });
      const { port } = await testServer(t, engine);
      const socket = connect(port, '127.0.0.1', () => socket.write(requestBytes(body)));
      socket.on('error', () => undefined);
      await eventually(() => engine.active === 1, 'the request');
      socket.resetAndDestroy();
      await eventually(() => engine.aborted === 1 && engine.active === 0, 'the abort');
    });

    test(`aborts ${kind} while it waits to be accepted`, async (t) => {
      const engine = scriptedEngine([delay(60_000)], { acceptMs: 60_000 });
      const { url } = await testServer(t, engine);
      const leave = new AbortController();
      const response = post(`${url}${chat}`, body, { signal: leave.signal });
      await eventually(() => engine.requests.length === 1, 'the request');
      leave.abort();
      await assert.rejects(response);
      await eventually(() => engine.active === 0, 'the abort');
      assert.ok(engine.requests[0]?.signal?.aborted);
    });
  }

  test('aborts a request whose client left while its large body was read', async (t) => {
    const engine = rateEngine({ stepMs: 5, tokens: 100_000 });
    const { port } = await testServer(t, engine);
    const bytes = requestBytes({ messages: [{ role: 'user', content: 'x'.repeat(2_000_000) }], stream: true });
    const socket = connect(port, '127.0.0.1', () => socket.end(bytes));
    socket.on('error', () => undefined);
    await eventually(() => engine.requests.length === 1, 'the request');
    await eventually(() => engine.aborted === 1 && engine.active === 0, 'the abort');
  });

  test('does not disturb the others', async (t) => {
    const engine = rateEngine({ stepMs: 2, tokens: 50 });
    const { url } = await testServer(t, engine);
    const leave = new AbortController();
    const gone = post(`${url}${chat}`, { ...hello, stream: true }, { signal: leave.signal });
    const stays = post(`${url}${chat}`, { ...hello, stream: true });
    await gone;
    leave.abort();
    const frames = sseFrames(await (await stays).text());
    assert.equal(frames.filter(({ data }) => data?.includes(' token')).length, 50);
  });
});

describe('a client that reads slowly', () => {
  const bigPieces = Array.from({ length: 400 }, () => answer('x'.repeat(50_000)));

  test('gets everything, and the server holds only a little at a time', async (t) => {
    const { app, port } = await testServer(t, scriptedEngine(bigPieces));
    let buffered = 0;
    app.server.on('request', (_, response) => {
      const watch = setInterval(() => (buffered = Math.max(buffered, response.writableLength)), 1);
      response.on('close', () => clearInterval(watch));
    });
    const socket = connect(port, '127.0.0.1', () => socket.write(requestBytes({ ...hello, stream: true })));
    socket.pause();
    await sleep(300);
    let received = 0;
    let tail = '';
    socket.on('data', (data: Buffer) => {
      received += data.length;
      tail = (tail + data.toString('latin1')).slice(-100);
    });
    socket.resume();
    await eventually(() => tail.includes('[DONE]'), 'the end of the stream', 10_000);
    socket.destroy();
    assert.ok(received > 400 * 50_000);
    assert.ok(buffered < 300_000, `${buffered} bytes were held`);
  });

  test('is cut off when it does not read at all', async (t) => {
    const engine = scriptedEngine(bigPieces);
    const { port } = await testServer(t, engine, { stallTimeoutMs: '200ms' });
    const socket = connect(port, '127.0.0.1', () => socket.write(requestBytes({ ...hello, stream: true })));
    socket.on('error', () => undefined);
    socket.pause();
    await eventually(() => engine.active === 1, 'the request');
    await eventually(() => engine.active === 0 && engine.aborted === 1, 'the cut', 5000);
    socket.destroy();
  });
});
