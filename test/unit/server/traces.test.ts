// SPDX-License-Identifier: MIT
// Spans as a collector gets them.

import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import type { ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { describe, test } from 'node:test';
import type { TestContext } from 'node:test';
import { pino } from 'pino';
import { EngineError } from '../../../engine/index.ts';
import { sentContext, TraceExporter } from '../../../server/traces.ts';
import type { TracedRequest } from '../../../server/traces.ts';
import { eventually, post, testServer } from '../../helpers/http.ts';
import { answer, fail, reasoning, scriptedEngine } from '../../helpers/scripted-engine.ts';

interface Span {
  traceId: string;
  spanId: string;
  parentSpanId?: string;
  traceState?: string;
  name: string;
  kind: number;
  startTimeUnixNano: string;
  endTimeUnixNano: string;
  attributes: { key: string; value: Record<string, unknown> }[];
  status: { code?: number };
}

interface Export {
  resourceSpans: { resource: { attributes: object[] }; scopeSpans: { spans: Span[] }[] }[];
}

interface Collector {
  url: string;
  paths: string[];
  spans: Span[];
}

async function collector(t: TestContext, status = 200): Promise<Collector> {
  const got: Collector = { url: '', paths: [], spans: [] };
  const server = createServer((request, response) => {
    let body = '';
    request.on('data', (data) => (body += String(data)));
    request.on('end', () => {
      got.paths.push(`${request.method} ${request.url}`);
      const { resourceSpans } = JSON.parse(body) as Export;
      got.spans.push(...resourceSpans.flatMap(({ scopeSpans }) => scopeSpans.flatMap(({ spans }) => spans)));
      response.writeHead(status, { 'content-type': 'application/json' }).end('{}');
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.after(() => server.close());
  got.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  return got;
}

const chat = '/v1/chat/completions';
const hello = { messages: [{ role: 'user', content: 'Hello' }] };
const parent = { traceparent: `00-${'ab'.repeat(16)}-${'cd'.repeat(8)}-01`, tracestate: 'vendor=1' };
const attribute = (span: Span, key: string): unknown =>
  Object.values(span.attributes.find((one) => one.key === key)?.value ?? {})[0];

describe('traces', () => {
  test('have a span for each answer, in the trace of its caller, with counts and times and no text', async (t) => {
    const { url: otlpTracesEndpoint, spans, paths } = await collector(t);
    const engine = scriptedEngine([reasoning('Secret'), answer('secret')]);
    const { url, app } = await testServer(t, engine, { otlpTracesEndpoint });
    const before = Date.now();
    const headers = { ...parent, 'x-request-id': 'r1' };
    await post(`${url}${chat}`, { ...hello, max_tokens: 9, temperature: 0.5 }, { headers });
    await (await post(`${url}/v1/completions`, { prompt: ['a', 'b'], stream: true })).text();
    await app.close();
    assert.deepEqual(paths, ['POST /v1/traces']);
    const [first, second] = spans as [Span, Span];
    assert.deepEqual([first.name, first.kind, first.traceId], ['llm_request', 2, 'ab'.repeat(16)]);
    assert.deepEqual([first.parentSpanId, first.traceState, first.status], ['cd'.repeat(8), 'vendor=1', {}]);
    assert.match(first.spanId, /^[0-9a-f]{16}$/);
    const [begin, end] = [Number(first.startTimeUnixNano) / 1e6, Number(first.endTimeUnixNano) / 1e6];
    assert.ok(before - 5 <= begin && begin < end && end <= Date.now() + 5, `${before} ${begin} ${end}`);
    const expected = {
      'http.route': chat,
      'gen_ai.request.id': 'r1',
      'gen_ai.response.model': 'scripted',
      'gen_ai.request.max_tokens': '9',
      'gen_ai.request.temperature': 0.5,
      'gen_ai.request.n': '1',
      'gen_ai.usage.prompt_tokens': '22',
      'gen_ai.usage.completion_tokens': '2',
    };
    for (const [key, value] of Object.entries(expected)) assert.equal(attribute(first, key), value, key);
    for (const key of ['time_in_queue', 'time_to_first_token', 'e2e', 'time_in_model_prefill', 'time_in_model_decode']) {
      assert.equal(typeof attribute(first, `gen_ai.latency.${key}`), 'number', key);
    }
    assert.equal(attribute(second, 'gen_ai.operation.name'), 'text_completion');
    assert.equal(attribute(second, 'gen_ai.usage.num_sequences'), '2');
    assert.match(second.traceId, /^[0-9a-f]{32}$/);
    assert.equal(second.parentSpanId, undefined);
    assert.doesNotMatch(JSON.stringify(spans), /secret/i);
  });

  test('tell of failures, also in the middle of a stream', async (t) => {
    const { url: otlpTracesEndpoint, spans } = await collector(t);
    const broken = scriptedEngine([answer('a'), fail(new EngineError('INTERNAL', 'broken'))]);
    const { url, app } = await testServer(t, broken, { otlpTracesEndpoint });
    await (await post(`${url}${chat}`, hello)).text();
    await (await post(`${url}${chat}`, { ...hello, stream: true })).text();
    await app.close();
    assert.deepEqual(
      spans.map((span) => [span.status.code, attribute(span, 'http.response.status_code'), attribute(span, 'error.type')]),
      [
        [2, '500', '500'],
        [2, '200', '500'],
      ],
    );
  });

  test('leave out what the caller does not record', async (t) => {
    const { url: otlpTracesEndpoint, spans } = await collector(t);
    const { url, app } = await testServer(t, scriptedEngine([answer('a')]), { otlpTracesEndpoint });
    await post(`${url}${chat}`, hello, { headers: { traceparent: parent.traceparent.replace(/1$/, '0') } });
    await post(`${url}${chat}`, hello);
    await app.close();
    assert.equal(spans.length, 1);
  });

  test('are sent a while after an answer without waiting for an end', async (t) => {
    const { url: otlpTracesEndpoint, spans } = await collector(t);
    const { url } = await testServer(t, scriptedEngine([answer('a')]), { otlpTracesEndpoint });
    await post(`${url}${chat}`, hello);
    await eventually(() => spans.length === 1, 'the span', 10_000);
  });

  test('wait in bounded number for a collector that hangs, and the log counts what is lost', async (t) => {
    const held: ServerResponse[] = [];
    const server = createServer((request, response) => {
      request.resume();
      held.push(response);
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    t.after(() => server.close());
    const lines: { spans: number; reason: string }[] = [];
    const log = pino({}, { write: (line: string) => void lines.push(JSON.parse(line) as { spans: number; reason: string }) });
    const { port } = server.address() as AddressInfo;
    const exporter = new TraceExporter(`http://127.0.0.1:${port}`, log);
    const request: TracedRequest = {
      ...{ requestId: 'r', route: chat, model: 'm', asked: [], promptTokens: 1, completionTokens: 1, finishReasons: ['stop'] },
      ...{ arrivedAtMs: 0, endedAtMs: 1, firstTokenAtMs: undefined, timing: undefined, status: 200 },
    };
    exporter.add(request, undefined);
    await eventually(() => held.length === 1, 'the first batch', 10_000);
    for (let i = 0; i < 5000; i++) exporter.add(request, undefined);
    held[0]!.writeHead(503).end();
    await eventually(() => lines.length === 2, 'two lines');
    assert.deepEqual(
      lines.map(({ spans, reason }) => [spans, reason]),
      [
        [1, 'the collector answers 503'],
        [5000 - 4096, 'the collector is too slow'],
      ],
    );
    await eventually(() => held.length > 1, 'the second batch');
    assert.equal(held.length, 2, 'one at a time');
    held[1]!.destroy();
    server.closeAllConnections();
    await eventually(() => lines.length > 2, 'why');
    assert.match(lines[2]!.reason, /UND_ERR_SOCKET|ECONNRESET/);
  });

  test('are dropped when the collector does not take them, and answers go on', async (t) => {
    const { url: otlpTracesEndpoint, paths } = await collector(t, 500);
    const { url, app } = await testServer(t, scriptedEngine([answer('a')]), { otlpTracesEndpoint });
    assert.equal((await post(`${url}${chat}`, hello)).status, 200);
    await app.close();
    assert.equal(paths.length, 1);
  });
});

test('a trace context is read as W3C writes it, and what is none is ignored', () => {
  const { traceparent } = parent;
  assert.deepEqual(sentContext(parent), {
    ...{ traceId: 'ab'.repeat(16), parentId: 'cd'.repeat(8) },
    ...{ sampled: true, state: 'vendor=1' },
  });
  assert.equal(sentContext({ traceparent: `01${traceparent.slice(2)}-more` })?.sampled, true);
  for (const wrong of [
    undefined,
    '',
    traceparent.slice(1),
    traceparent.toUpperCase(),
    traceparent.replace('00-', 'ff-'),
    traceparent.replace('ab'.repeat(16), '0'.repeat(32)),
    traceparent.replace('cd'.repeat(8), '0'.repeat(16)),
  ]) {
    assert.equal(sentContext({ traceparent: wrong }), undefined, wrong);
  }
});
