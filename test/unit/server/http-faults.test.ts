// SPDX-License-Identifier: MIT

import assert from 'node:assert/strict';
import { connect } from 'node:net';
import { describe, test } from 'node:test';
import { eventually, rawExchange, testServer } from '../../helpers/http.ts';
import { rateEngine } from '../../helpers/rate-engine.ts';
import { scriptedEngine } from '../../helpers/scripted-engine.ts';

/** Status and error object of an answer of one request. */
function failure(answer: string): [status: number, error: { message: string; type: string }] {
  const [head = '', body = ''] = answer.split('\r\n\r\n');
  assert.match(head, /content-type: application\/json/i);
  const { error } = JSON.parse(body) as { error: { message: string; type: string } };
  assert.equal(error.type, 'invalid_request_error');
  return [Number(head.split(' ')[1]), error];
}

describe('what Node.js refuses by itself has a body that says why', () => {
  const requests: [title: string, bytes: string, status: number, message: RegExp][] = [
    ['bytes that are not HTTP', 'HELLO\r\n\r\n', 400, /not valid HTTP/],
    ['headers of megabytes', `GET /health HTTP/1.1\r\nhost: x\r\na: ${'a'.repeat(20_000)}\r\n\r\n`, 431, /headers are too large/],
    ['no Host', 'GET /health HTTP/1.1\r\nconnection: close\r\n\r\n', 400, /Host/],
    ['an unknown Expect', 'GET /health HTTP/1.1\r\nhost: x\r\nexpect: tea\r\n\r\n', 417, /100-continue, got tea/],
  ];
  for (const [title, bytes, expected, message] of requests) {
    test(title, async (t) => {
      const { port } = await testServer(t, scriptedEngine([]));
      const [status, error] = failure(await rawExchange(port, bytes));
      assert.equal(status, expected);
      assert.match(error.message, message);
    });
  }

  test('a request that does not arrive in time', async (t) => {
    const { app, port } = await testServer(t, scriptedEngine([]));
    assert.ok(app.server.requestTimeout > 0, 'there is a time');
    // Node.js looks for slow requests twice a minute.
    const late = Object.assign(new Error('late'), { code: 'ERR_HTTP_REQUEST_TIMEOUT' });
    app.server.once('connection', (socket) => app.server.emit('clientError', late, socket));
    const [status, error] = failure(await rawExchange(port, 'GET /hea'));
    assert.equal(status, 408);
    assert.match(error.message, /in time/);
  });
});

test('clients of HTTP/1.0 need no Host', async (t) => {
  const { port } = await testServer(t, scriptedEngine([]));
  assert.match(await rawExchange(port, 'GET /health HTTP/1.0\r\n\r\n'), /^HTTP\/1.1 200 /);
});

test('bytes that are not HTTP end a stream, and nothing is written into it', async (t) => {
  const engine = rateEngine({ stepMs: 5, tokens: 100_000 });
  const { port } = await testServer(t, engine);
  const body = '{"messages":[{"role":"user","content":"x"}],"stream":true}';
  const head = 'POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json';
  const socket = connect(port, '127.0.0.1', () => socket.write(`${head}\r\ncontent-length: ${body.length}\r\n\r\n${body}`));
  let received = '';
  socket.on('data', (data) => {
    if (received === '') socket.write('\0\0\0');
    received += data.toString();
  });
  await new Promise((resolve) => socket.once('close', resolve));
  assert.match(received, /^HTTP\/1.1 200 /);
  assert.doesNotMatch(received, /400 Bad Request/);
  await eventually(() => engine.aborted === 1, 'the abort');
});
