// SPDX-License-Identifier: MIT
// Models, tokenising, probes and metrics.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Registry } from 'prom-client';
import { EngineError } from '../../../engine/index.ts';
import { defineHistograms, RequestMeter } from '../../../server/request-meter.ts';
import { post, testServer } from '../../helpers/http.ts';
import { rateEngine } from '../../helpers/rate-engine.ts';
import { answer, scriptedEngine } from '../../helpers/scripted-engine.ts';

const chat = { messages: [{ role: 'user', content: 'Hello' }] };

async function json(response: Promise<Response>): Promise<Record<string, unknown>> {
  return (await (await response).json()) as Record<string, unknown>;
}

describe('models', () => {
  test('are listed with the fields that clients of other servers read, the same at every call', async (t) => {
    const { url } = await testServer(t, scriptedEngine([]), { servedModelName: 'scripted,other' });
    const list = await json(fetch(`${url}/v1/models`));
    assert.equal(list['object'], 'list');
    const [first, second] = list['data'] as Record<string, unknown>[];
    assert.deepEqual([first?.['id'], first?.['object'], first?.['max_model_len']], ['scripted', 'model', 8192]);
    assert.deepEqual([second?.['id'], second?.['root']], ['other', 'scripted']);
    const parameters = first?.['supported_parameters'] as string[];
    for (const field of ['temperature', 'tools', 'response_format', 'reasoning_effort']) assert.ok(parameters.includes(field));
    assert.ok(!parameters.includes('messages'));
    assert.deepEqual(await json(fetch(`${url}/v1/models`)), list);
    assert.deepEqual(await json(fetch(`${url}/v1/models/scripted`)), first);
  });

  test('that are not served are 404', async (t) => {
    const { url } = await testServer(t, scriptedEngine([]));
    const response = await fetch(`${url}/v1/models/org/none`);
    assert.equal(response.status, 404);
    assert.match(await response.text(), /model_not_found/);
  });

  test('answer to any name when the served names say so', async (t) => {
    const { url } = await testServer(t, scriptedEngine([answer('x')]), { servedModelName: '*' });
    const body = await json(post(`${url}/v1/chat/completions`, { ...chat, model: 'gpt-9' }));
    assert.equal(body['model'], 'gpt-9');
  });
});

describe('tokenising', () => {
  test('gives ids, their texts and the count of a prompt', async (t) => {
    const { url } = await testServer(t, scriptedEngine([]));
    const body = await json(post(`${url}/tokenize`, { prompt: 'Hi', return_token_strs: true }));
    assert.deepEqual(body, { count: 2, max_model_len: 8192, tokens: [72, 105], token_strs: ['H', 'i'] });
  });

  test('gives the ids of a chat as its completion would see them', async (t) => {
    const { url } = await testServer(t, scriptedEngine([]));
    const body = await json(post(`${url}/tokenize`, chat));
    assert.equal(Buffer.from(body['tokens'] as number[]).toString(), '<user>Hello<assistant>');
  });

  test('turns ids back into text, and refuses ids outside the vocabulary', async (t) => {
    const { url } = await testServer(t, scriptedEngine([]));
    assert.deepEqual(await json(post(`${url}/detokenize`, { tokens: [72, 105] })), { prompt: 'Hi' });
    for (const [wrong, param] of [
      [[1, 256], 'tokens[1]'],
      [[1, 2, -1], 'tokens[2]'],
      [[1.5], 'tokens[0]'],
      [['x'], 'tokens[0]'],
      ['x', 'tokens'],
    ]) {
      const refusal = await post(`${url}/detokenize`, { tokens: wrong });
      assert.equal(refusal.status, 400);
      assert.equal(((await refusal.json()) as { error: { param: string } }).error.param, param);
    }
  });
});

describe('probes', () => {
  test('follow the life of the server: loading, ready, failed, draining', async (t) => {
    const { url, lifecycle } = await testServer(t, undefined);
    const probe = async (path: string): Promise<[number, unknown]> => {
      const response = await fetch(`${url}${path}`);
      return [response.status, await response.json()];
    };
    lifecycle.loading({ stage: 'weights', fraction: 0.5, detail: '' });
    assert.deepEqual(await probe('/readyz'), [503, { status: 'loading', stage: 'weights', percent: 50 }]);
    assert.deepEqual(await probe('/livez'), [200, { status: 'loading' }]);
    assert.deepEqual(await probe('/startupz'), [503, { status: 'loading', stage: 'weights', percent: 50 }]);
    const engine = scriptedEngine([]);
    lifecycle.ready(engine);
    assert.deepEqual(await probe('/health'), [200, { status: 'ok' }]);
    engine.breakDown('gpu gone');
    assert.deepEqual(await probe('/health'), [503, { status: 'failed', reason: 'gpu gone' }]);
    assert.equal((await probe('/livez'))[0], 503);
    lifecycle.drain();
    assert.deepEqual(await probe('/readyz'), [503, { status: 'draining' }]);
    assert.equal((await probe('/livez'))[0], 200);
    assert.deepEqual(await probe('/startupz'), [200, { status: 'ok' }]);
  });
});

describe('metrics', () => {
  /** Value of a sample line; undefined when it is not there. */
  const sample = (text: string, name: string, labels = ''): number | undefined => {
    const line = text.split('\n').find((one) => one.startsWith(`${name}{`) && one.includes(labels));
    return line === undefined ? undefined : Number(line.slice(line.lastIndexOf(' ') + 1));
  };

  test('carry the names that dashboards and scalers for vLLM read', async (t) => {
    const { url } = await testServer(t, scriptedEngine([answer('a'), answer('b')]));
    await post(`${url}/v1/chat/completions`, chat);
    const response = await fetch(`${url}/metrics`);
    assert.match(response.headers.get('content-type') ?? '', /^text\/plain/);
    const text = await response.text();
    assert.equal(sample(text, 'vllm:num_requests_running'), 0);
    assert.equal(sample(text, 'vllm:num_requests_waiting'), 0);
    assert.equal(sample(text, 'vllm:kv_cache_usage_perc'), 0);
    assert.equal(sample(text, 'vllm:prompt_tokens_total'), 22);
    assert.equal(sample(text, 'vllm:generation_tokens_total'), 2);
    assert.equal(sample(text, 'vllm:request_success_total', 'finished_reason="stop"'), 1);
    assert.equal(sample(text, 'vllm:time_to_first_token_seconds_count'), 1);
    assert.equal(sample(text, 'vllm:inter_token_latency_seconds_count'), 1);
    assert.equal(sample(text, 'vllm:request_prompt_tokens_sum'), 22);
    assert.equal(sample(text, 'vllm:cache_config_info', 'block_size="128"'), 1);
    assert.equal(sample(text, 'vllm:cache_config_info', 'enable_prefix_caching="True"'), 1);
    for (const name of ['num_preemptions', 'prefix_cache_queries', 'prefix_cache_hits', 'spec_decode_num_accepted_tokens']) {
      assert.equal(sample(text, `vllm:${name}_total`), 0, name);
    }
    for (const name of ['steps_total', 'gathers_overlapped_total', 'reductions_overlapped_total', 'free_slots'])
      assert.ok(sample(text, `twelvex:${name}`) !== undefined);
    for (const reason of ['capacity', 'deferred']) {
      assert.equal(sample(text, 'vllm:num_requests_waiting_by_reason', `reason="${reason}"`), 0);
    }
    assert.equal(sample(text, 'vllm:prompt_tokens_by_source_total', 'source="local_compute"'), 22);
    assert.equal(sample(text, 'vllm:prompt_tokens_by_source_total', 'source="local_cache_hit"'), 0);
    assert.match(text, /# TYPE vllm:iteration_tokens_total histogram/);
    for (const edge of ['1', '8', '+Inf']) assert.equal(sample(text, 'vllm:iteration_tokens_total_bucket', `le="${edge}"`), 2);
    assert.equal(sample(text, 'vllm:iteration_tokens_total_sum'), 2);
    assert.equal(sample(text, 'vllm:iteration_tokens_total_count'), 2);
    assert.match(text, /vllm:num_requests_running\{model_name="scripted",engine="0"\}/);
  });

  test('time requests with the buckets and labels that rules for vLLM use', async (t) => {
    const { url } = await testServer(t, scriptedEngine([answer('a'), answer('b')], { cachedTokens: 20 }));
    await post(`${url}/v1/chat/completions`, { ...chat, n: 2, max_tokens: 9 });
    await (await post(`${url}/v1/chat/completions`, { ...chat, stream: true })).text();
    await post(`${url}/v1/chat/completions`, {});
    const text = await (await fetch(`${url}/metrics`)).text();
    const handler = 'handler="/v1/chat/completions",method="POST"';
    assert.equal(sample(text, 'http_requests_total', `${handler},status="2xx"`), 2);
    assert.equal(sample(text, 'http_requests_total', `${handler},status="4xx"`), 1);
    assert.equal(sample(text, 'http_request_duration_seconds_count', handler), 3);
    assert.equal(sample(text, 'vllm:request_params_n_sum'), 3);
    assert.equal(sample(text, 'vllm:request_params_max_tokens_sum'), 9);
    assert.equal(sample(text, 'vllm:request_prefill_kv_computed_tokens_sum'), 4);
    assert.equal(sample(text, 'vllm:request_max_num_generation_tokens_sum'), 4);
    const edges = [...text.matchAll(/time_to_first_token_seconds_bucket\{.*le="([^"]+)"/g)].map(([, edge]) => edge);
    const listed = '0.001 0.005 0.01 0.02 0.04 0.06 0.08 0.1 0.25 0.5 0.75 1 2.5 5 7.5 10 20 40 80 160 640 2560 +Inf';
    assert.deepEqual(edges, listed.split(' '));
    for (const name of ['e2e_request_latency', 'request_queue_time', 'request_prefill_time', 'request_decode_time']) {
      assert.equal(sample(text, `vllm:${name}_seconds_count`), 3, name);
    }
  });

  test('leave out of what is asked what is refused', async (t) => {
    const { url } = await testServer(t, scriptedEngine([], { refuse: new EngineError('QUEUE_FULL', 'full') }));
    for (const stream of [false, true]) await post(`${url}/v1/chat/completions`, { ...chat, n: 2, max_tokens: 9, stream });
    const text = await (await fetch(`${url}/metrics`)).text();
    for (const name of ['n', 'max_tokens']) assert.equal(sample(text, `vllm:request_params_${name}_count`), 0, name);
    assert.equal(sample(text, 'http_requests_total', 'status="5xx"'), 2);
  });

  test('share the time of an answer among its tokens', async () => {
    const histograms = defineHistograms(100, new Registry());
    const meter = new RequestMeter(histograms, { arrivedAtMs: performance.now(), stream: false });
    const began = performance.now();
    meter.batch(0, [{ kind: 'tokens', choice: 0, ids: [1] }]);
    await sleep(30);
    meter.batch(0, [{ kind: 'tokens', choice: 0, ids: [1, 2, 3] }]);
    await sleep(10);
    meter.batch(0, [{ kind: 'tokens', choice: 0, ids: [1] }]);
    const { counts, sum } = histograms.tokenGap;
    assert.equal(
      counts.reduce((a, b) => a + b, 0),
      4,
    );
    assert.ok(Math.abs(sum - (performance.now() - began) / 1e3) < 5e-3, `${sum} s`);
  });

  test('count requests whose client has left', async (t) => {
    const { url } = await testServer(t, rateEngine({ stepMs: 5, tokens: 100_000 }));
    for (const stream of [false, true]) {
      const signal = AbortSignal.timeout(50);
      await post(`${url}/v1/chat/completions`, { ...chat, stream }, { signal })
        .then((response) => response.text())
        .catch(() => '');
    }
    const counted = async (): Promise<number | undefined> =>
      sample(await (await fetch(`${url}/metrics`)).text(), 'http_requests_total', 'status="4xx"');
    const until = performance.now() + 3000;
    while ((await counted()) !== 2 && performance.now() < until) await sleep(30);
    assert.equal(await counted(), 2);
  });

  test('show what runs at this moment', async (t) => {
    const { url } = await testServer(t, rateEngine({ stepMs: 5, tokens: 100_000 }));
    const leave = new AbortController();
    await post(`${url}/v1/chat/completions`, { ...chat, stream: true }, { signal: leave.signal });
    assert.equal(sample(await (await fetch(`${url}/metrics`)).text(), 'vllm:num_requests_running'), 1);
    leave.abort();
  });

  test('answer while the model loads', async (t) => {
    const { url } = await testServer(t, undefined);
    assert.equal((await fetch(`${url}/metrics`)).status, 200);
  });
});
