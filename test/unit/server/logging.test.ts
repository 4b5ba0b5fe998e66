// SPDX-License-Identifier: MIT

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { pino } from 'pino';
import { EngineError } from '../../../engine/index.ts';
import type { Engine } from '../../../engine/index.ts';
import { buildApp } from '../../../server/app.ts';
import { loadConfig } from '../../../server/config.ts';
import { Lifecycle } from '../../../server/lifecycle.ts';
import { eventually, post } from '../../helpers/http.ts';
import { answer, fail, reasoning, scriptedEngine, tool } from '../../helpers/scripted-engine.ts';

test('the log holds counts and times of a request and none of its text', async (t) => {
  const lines: string[] = [];
  const logger = pino({ level: 'debug' }, { write: (line: string) => void lines.push(line) });
  const engine = scriptedEngine([reasoning('secret'), answer('secret'), tool('secret', ['{"secret": 1}'])]);
  const app = buildApp(new Lifecycle(engine), loadConfig({ values: {} }, {}), logger);
  t.after(() => app.close());
  const traceId = 'ab'.repeat(16);
  const traceparent = `00-${traceId}-${'cd'.repeat(8)}-00`;
  const headers = { authorization: 'Bearer secret', 'x-request-id': 'r1', traceparent };
  const messages = [{ role: 'user', content: 'secret' }];
  const asked = {
    '/v1/chat/completions': { messages },
    '/v1/completions': { prompt: 'secret' },
    '/v1/responses': { input: 'secret' },
  };
  for (const [url, payload] of Object.entries(asked)) {
    assert.equal((await app.inject({ method: 'POST', url, headers, payload })).statusCode, 200);
    const wrong = { ...payload, temperature: 'secret' };
    assert.equal((await app.inject({ method: 'POST', url, headers, payload: wrong })).statusCode, 400);
  }
  const answered = lines.map((line) => JSON.parse(line) as Record<string, unknown>).filter(({ msg }) => msg === 'answered');
  assert.equal(answered.length, 6);
  assert.ok(answered.every(({ reqId, url, status }) => reqId === 'r1' && url !== undefined && status !== undefined));
  assert.equal(answered.filter((line) => line['traceId'] === traceId).length, 3, 'answers name the trace of their caller');
  assert.doesNotMatch(lines.join(''), /secret/);
});

test('a client that leaves is one line without an error, whatever it had asked for', async (t) => {
  const lines: string[] = [];
  const logger = pino({}, { write: (line: string) => void lines.push(line) });
  const engine = scriptedEngine([]);
  // The client is gone when there is something to send it, in pieces.
  const leaving = new AbortController();
  engine.encode = () => {
    leaving.abort();
    return sleep(100, new Int32Array(200_000));
  };
  const app = buildApp(new Lifecycle(engine), loadConfig({ values: {} }, {}), logger);
  t.after(() => app.close());
  const url = await app.listen({ host: '127.0.0.1', port: 0 });
  lines.length = 0;
  await post(`${url}/tokenize`, { prompt: 'x' }, { signal: leaving.signal }).catch(() => undefined);
  await eventually(() => lines.length > 0, 'a line');
  await sleep(150);
  const told = lines.map((line) => JSON.parse(line) as { level: number; status: number; url: string });
  assert.deepEqual(
    told.map(({ level, status, url: path }) => [level, status, path]),
    [[30, 499, '/tokenize']],
  );
});

/** Messages of the log lines that two chats leave, one whole and one streamed, with their levels. */
async function linesOf(engine: Engine): Promise<[number, string][]> {
  const lines: string[] = [];
  const logger = pino({}, { write: (line: string) => void lines.push(line) });
  const app = buildApp(new Lifecycle(engine), loadConfig({ values: {} }, {}), logger);
  for (const stream of [false, true]) {
    const payload = { messages: [{ role: 'user', content: 'x' }], stream };
    await app.inject({ method: 'POST', url: '/v1/chat/completions', payload });
  }
  await app.close();
  return lines.map((line) => JSON.parse(line) as { level: number; msg: string }).map(({ level, msg }) => [level, msg]);
}

test('what a full queue or the end of the server turns away is no error of it, and one line each', async () => {
  const once = [30, 'answered'];
  for (const code of ['QUEUE_FULL', 'CLOSED'] as const) {
    const refuse = new EngineError(code, 'not now');
    assert.deepEqual(await linesOf(scriptedEngine([], { refuse })), [once, once], `${code} before the answer`);
    assert.deepEqual(await linesOf(scriptedEngine([answer('x'), fail(refuse)])), [once, once], `${code} within it`);
  }
});

test('a fault of the engine is an error with its stack, once for each answer', async () => {
  const fault = new EngineError('INTERNAL', 'broken');
  for (const engine of [scriptedEngine([], { refuse: fault }), scriptedEngine([answer('x'), fail(fault)])]) {
    const lines = await linesOf(engine);
    assert.equal(lines.filter(([level]) => level === 50).length, 2);
    assert.equal(lines.filter(([, msg]) => msg === 'answered').length, 2);
  }
});
