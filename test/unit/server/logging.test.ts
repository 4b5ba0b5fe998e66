// SPDX-License-Identifier: MIT

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { pino } from 'pino';
import { buildApp } from '../../../server/app.ts';
import { loadConfig } from '../../../server/config.ts';
import { Lifecycle } from '../../../server/lifecycle.ts';
import { answer, reasoning, scriptedEngine, tool } from '../../helpers/scripted-engine.ts';

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
