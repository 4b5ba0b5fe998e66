// SPDX-License-Identifier: MIT

import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:http';
import type { Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import type { TestContext } from 'node:test';
import { BenchError, runBench } from '../../../../server/cli/bench.ts';
import { distribution, meets, percentile, summarise, tokensBySecond } from '../../../../server/cli/bench/measure.ts';
import type { Sample } from '../../../../server/cli/bench/measure.ts';
import { renderPlot } from '../../../../server/cli/bench/report.ts';
import { planWorkload } from '../../../../server/cli/bench/workload.ts';

const sample = (given: Partial<Sample>): Sample => ({
  ok: true,
  promptTokens: 10,
  cachedTokens: 0,
  outputTokens: 3,
  startMs: 0,
  firstMs: 100,
  endMs: 300,
  chunkMs: [100, 200, 300],
  ...given,
});

test('percentiles interpolate between ranks as numpy does', () => {
  assert.equal(percentile([1, 2, 3, 4], 50), 2.5);
  assert.equal(percentile([1, 2, 3, 4], 90), 3.7);
  assert.equal(percentile([5], 99), 5);
  assert.ok(Number.isNaN(percentile([], 50)));
  assert.equal(distribution([1, 3], [99]).std, 1);
});

test('a summary counts tokens, failures, concurrency and goodput', () => {
  const samples = [sample({}), sample({ startMs: 50, firstMs: 900, endMs: 1050, chunkMs: [900, 1050] }), sample({ ok: false })];
  const summary = summarise(samples, 2000, { percents: [99], goodput: { ttft: 500 } });
  assert.deepEqual([summary.completed, summary.failed, summary.peakConcurrency], [2, 1, 2]);
  assert.equal(summary.totalOutputTokens, 6);
  assert.equal(summary.outputThroughput, 3);
  assert.equal(summary.requestGoodput, 0.5);
  assert.equal(summary.metrics.ttft.mean, 475);
  assert.equal(summary.metrics.tpot.mean, (100 + 75) / 2);
  assert.equal(summary.metrics.itl.mean, (100 + 100 + 150) / 3);
});

test('tokens of a chunk that carries several are spread over its request', () => {
  assert.deepEqual(tokensBySecond([sample({ outputTokens: 6, chunkMs: [100, 1200, 1300] })]), [2, 4]);
});

test('goodput needs every limit', () => {
  assert.equal(meets(sample({}), { ttft: 100, tpot: 100, e2el: 300 }), true);
  assert.equal(meets(sample({}), { ttft: 100, tpot: 99 }), false);
});

const workload = {
  numPrompts: 40,
  inputLen: 100,
  outputLen: 10,
  rangeRatio: 0.5,
  prefixLen: 20,
  prefixes: 2,
  requestRate: 10,
  burstiness: 1,
  seed: 1,
};

test('a workload repeats with its seed, keeps its lengths and shares prefixes within a group', () => {
  const plan = planWorkload(workload, [7, 8, 9]);
  assert.deepEqual(planWorkload(workload, [7, 8, 9]), plan);
  assert.notDeepEqual(planWorkload({ ...workload, seed: 2 }, [7, 8, 9]), plan);
  for (const { prompt, outputTokens } of plan) {
    assert.ok(prompt.length >= 70 && prompt.length <= 170, String(prompt.length));
    assert.ok(outputTokens >= 5 && outputTokens <= 15);
  }
  assert.deepEqual(plan[2]!.prompt.slice(0, 20), plan[0]!.prompt.slice(0, 20));
  assert.notDeepEqual(plan[1]!.prompt.slice(0, 20), plan[0]!.prompt.slice(0, 20));
});

test('arrivals have the asked rate, whatever the burstiness', () => {
  for (const burstiness of [0.5, 1, 4]) {
    const plan = planWorkload({ ...workload, numPrompts: 4000, inputLen: 1, burstiness }, [1]);
    const rate = 3999 / (plan.at(-1)!.atMs / 1000);
    assert.ok(Math.abs(rate - 10) < 0.8, `burstiness ${burstiness}: ${rate}`);
  }
});

test('the plot escapes its title', () => {
  assert.match(renderPlot([sample({})], 'a<b>&c'), /a&#60;b&#62;&#38;c/);
});

/** A server that answers `tokens` chunks, `gapMs` apart, to every completion. */
async function startServer(t: TestContext, answer: { tokens: number; gapMs: number; status?: number }): Promise<string> {
  const server: Server = createServer((request, response) => {
    const json = (body: unknown): void => void response.end(JSON.stringify(body));
    request.resume();
    if (request.url === '/v1/models') return json({ data: [{ id: 'model' }] });
    if (request.url === '/tokenize') return json({ tokens: [3, 4, 5, 4] });
    if (answer.status) return void response.writeHead(answer.status).end('{"error":{"message":"full"}}');
    let left = answer.tokens;
    const timer = setInterval(() => {
      response.write(`data: ${JSON.stringify({ choices: [{ text: 'x' }] })}\n\n: ping\n\n`);
      if (--left > 0) return;
      clearInterval(timer);
      const usage = { prompt_tokens: 5, completion_tokens: answer.tokens, prompt_tokens_details: { cached_tokens: 2 } };
      response.end(`data: ${JSON.stringify({ choices: [], usage })}\n\ndata: [DONE]\n\n`);
    }, answer.gapMs);
  });
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  t.after(() => server.closeAllConnections());
  t.after(() => server.close());
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

test('a run reports the table, and writes JSON and a plot', async (t) => {
  const url = await startServer(t, { tokens: 4, gapMs: 5 });
  const folder = mkdtempSync(join(tmpdir(), 'twelvex-bench-'));
  t.after(() => rmSync(folder, { recursive: true }));
  const files = { json: join(folder, 'run.json'), svg: join(folder, 'run.svg') };
  let text = '';
  const args = [
    '--base-url',
    url,
    '--num-prompts',
    '6',
    '--max-concurrency',
    '2',
    '--random-input-len',
    '5',
    '--goodput',
    'ttft:1000',
  ];
  const result = await runBench([...args, '--save-result', files.json, '--plot', files.svg], (part) => (text += part));
  assert.equal(result?.summary.completed, 6);
  assert.equal(result.summary.totalOutputTokens, 24);
  assert.equal(result.summary.totalCachedTokens, 12);
  assert.ok(result.summary.peakConcurrency <= 2);
  for (const line of [
    'Serving Benchmark Result',
    'Successful requests:',
    'Mean TTFT (ms):',
    'P99 ITL (ms):',
    'Request goodput (req/s):',
  ]) {
    assert.ok(text.includes(line), line);
  }
  const saved = JSON.parse(readFileSync(files.json, 'utf8')) as { samples: unknown[] };
  assert.equal(saved.samples.length, 6);
  assert.match(readFileSync(files.svg, 'utf8'), /^<svg [^]*<\/svg>$/);
});

test('failures are counted and the first one is shown', async (t) => {
  const url = await startServer(t, { tokens: 1, gapMs: 1, status: 503 });
  let text = '';
  const result = await runBench(['--base-url', url, '--num-prompts', '3', '--num-warmups', '0'], (part) => (text += part));
  assert.equal(result?.summary.failed, 3);
  assert.match(text, /first failure: HTTP 503/);
});

test('mistakes in the command line and an absent server are said plainly', async () => {
  const quiet = (): void => {};
  await assert.rejects(runBench(['--num-prompts', 'many'], quiet), (error: Error) => {
    return error instanceof BenchError && /--num-prompts expects a number of at least 1, got "many"/.test(error.message);
  });
  await assert.rejects(runBench(['--goodput', 'itl:5'], quiet), /ttft, tpot and e2el/);
  await assert.rejects(runBench(['--nonsense'], quiet), /--help/);
  const plainly = (pattern: RegExp) => (error: Error) => error instanceof BenchError && pattern.test(error.message);
  for (const url of ['nonsense', '127.0.0.1:8000', 'http://']) {
    await assert.rejects(runBench(['--base-url', url], quiet), plainly(/--base-url expects a URL such as/));
  }
  await assert.rejects(runBench(['--save-result', '/no/such/folder/x'], quiet), plainly(/cannot write the result: .*\/no\/such/));
  await assert.rejects(runBench(['--base-url', 'http://127.0.0.1:9'], quiet), /is the server running/);
});
