// SPDX-License-Identifier: MIT

import assert from 'node:assert/strict';
import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { ApiKeys } from '../../../server/api-keys.ts';
import { ConfigError } from '../../../server/config.ts';
import { canonicalPath } from '../../../server/paths.ts';
import { eventually, post, testServer } from '../../helpers/http.ts';
import { rateEngine } from '../../helpers/rate-engine.ts';
import { answer, scriptedEngine } from '../../helpers/scripted-engine.ts';

const chat = '/v1/chat/completions';
const hello = { messages: [{ role: 'user', content: 'x' }] };

function keyFile(text: string): string {
  const file = join(mkdtempSync(join(tmpdir(), 'twelvex-')), 'keys');
  writeFileSync(file, text);
  return file;
}

describe('API keys', () => {
  test('are asked for on every path that reaches the model, with the nested body', async (t) => {
    const { url } = await testServer(t, scriptedEngine([answer('x')]), { apiKey: 'one,two' });
    for (const path of [chat, '/v1/completions', '/tokenize', '/v1/messages', '/beta/chat/completions']) {
      const response = await post(`${url}${path}`, hello);
      assert.equal(response.status, 401, path);
      assert.equal(response.headers.get('www-authenticate'), 'Bearer');
      assert.match(await response.text(), /^\{"(error":\{"message"|type":"error")/);
    }
    assert.equal((await fetch(`${url}/v1/models`)).status, 401);
    assert.equal((await fetch(`${url}/server_info`)).status, 401);
  });

  test('are taken as a bearer token and from x-api-key', async (t) => {
    const { url } = await testServer(t, scriptedEngine([answer('x')]), { apiKey: 'one,two' });
    const status = async (headers: Record<string, string>): Promise<number> =>
      (await post(`${url}${chat}`, hello, { headers })).status;
    assert.equal(await status({ authorization: 'Bearer two' }), 200);
    assert.equal(await status({ 'x-api-key': 'one' }), 200);
    assert.equal(await status({ authorization: 'Bearer three' }), 401);
    assert.equal(await status({ authorization: 'one' }), 401);
    assert.equal(await status({ authorization: 'Bearer ' }), 401);
  });

  test('are not asked for by probes, metrics and the page', async (t) => {
    const { url } = await testServer(t, scriptedEngine([]), { apiKey: 'one' });
    for (const path of ['/health', '/readyz', '/livez', '/metrics', '/', '/playground/app.js']) {
      assert.equal((await fetch(`${url}${path}`)).status, 200, path);
    }
  });

  test('come from a file, without its comments, and follow its changes', async (t) => {
    const file = keyFile('# old\nfirst\n\n  second  \n');
    const keys = new ApiKeys({ apiKey: [], apiKeyFile: file });
    const allows = (key: string): boolean => keys.allows({ 'x-api-key': key });
    assert.deepEqual([allows('first'), allows('second'), allows('# old'), allows('')], [true, true, false, false]);
    const quiet = { info: () => undefined, error: () => undefined };
    const watch = keys.watch(quiet as never);
    t.after(() => watch.stop());
    writeFileSync(file, 'third\n');
    const deadline = Date.now() + 20_000;
    while (!allows('third') && Date.now() < deadline) await new Promise((resolve) => setTimeout(resolve, 50));
    assert.deepEqual([allows('third'), allows('first')], [true, false]);
  });

  test('have a bound on what each has under way', async (t) => {
    const engine = rateEngine({ stepMs: 5, tokens: 100_000 });
    const { url } = await testServer(t, engine, { apiKey: 'one,two', maxRequestsPerKey: 2 });
    const ask = (key: string, signal?: AbortSignal): Promise<Response> =>
      post(`${url}${chat}`, { ...hello, stream: true }, { headers: { 'x-api-key': key }, ...(signal && { signal }) });
    const leave = new AbortController();
    const first = await ask('one', leave.signal);
    assert.equal(first.headers.get('x-ratelimit-remaining-requests'), '1');
    const stay = new AbortController();
    await ask('one', stay.signal);
    const refused = await ask('one');
    assert.equal(refused.status, 429);
    assert.equal(refused.headers.get('retry-after'), '1');
    assert.match(await refused.text(), /"type":"rate_limit_error".*"code":"rate_limit_exceeded"/);
    assert.equal((await ask('two', stay.signal)).status, 200);
    leave.abort();
    await eventually(() => engine.active === 2, 'the end of the first request');
    assert.equal((await ask('one', stay.signal)).status, 200);
    stay.abort();
  });

  test('in a file without any let nobody in', () => {
    assert.equal(new ApiKeys({ apiKey: [], apiKeyFile: keyFile('# none yet\n') }).allows({}), false);
  });

  test('in a file that is not there stop the start', () => {
    assert.throws(() => new ApiKeys({ apiKey: [], apiKeyFile: '/no/such/file' }), ConfigError);
  });
});

describe('pages of other origins', () => {
  const preflight = { method: 'OPTIONS', headers: { origin: 'http://page', 'access-control-request-method': 'POST' } };

  test('are not let in by default', async (t) => {
    const { url } = await testServer(t, scriptedEngine([]));
    const response = await fetch(`${url}${chat}`, preflight);
    assert.equal(response.headers.get('access-control-allow-origin'), null);
    assert.notEqual(response.status, 204);
  });

  test('get a preflight without a key, and may read answers and streams', async (t) => {
    const { url } = await testServer(t, scriptedEngine([answer('x')]), { corsOrigin: 'http://page', apiKey: 'k' });
    const headers = { ...preflight.headers, 'access-control-request-headers': 'x-stainless-os, authorization' };
    const allowed = await fetch(`${url}${chat}`, { ...preflight, headers });
    assert.equal(allowed.status, 204);
    assert.equal(allowed.headers.get('access-control-allow-origin'), 'http://page');
    assert.equal(allowed.headers.get('access-control-allow-headers'), 'x-stainless-os, authorization');
    const response = await post(
      `${url}${chat}`,
      { ...hello, stream: true },
      { headers: { origin: 'http://page', 'x-api-key': 'k' } },
    );
    assert.equal(response.headers.get('access-control-allow-origin'), 'http://page');
    assert.match(response.headers.get('access-control-expose-headers') ?? '', /x-request-id/);
    await response.text();
  });

  test('of an origin that is not listed are not let in', async (t) => {
    const { url } = await testServer(t, scriptedEngine([]), { corsOrigin: 'http://other' });
    assert.equal((await fetch(`${url}${chat}`, preflight)).headers.get('access-control-allow-origin'), null);
  });
});

describe('base paths', () => {
  test('of the hosted APIs lead to the same endpoints', () => {
    for (const path of ['/chat/completions', '/beta/chat/completions', '/beta/v1/chat/completions', chat]) {
      assert.equal(canonicalPath(path), chat);
    }
    assert.equal(canonicalPath('/anthropic/v1/messages?beta=true'), '/v1/messages?beta=true');
    assert.equal(canonicalPath('/anthropic/messages/count_tokens'), '/v1/messages/count_tokens');
    assert.equal(canonicalPath('/models/a/b'), '/v1/models/a/b');
    for (const path of ['/', '/health', '/metrics', '/tokenize', '/betas/x', '/modelsx']) assert.equal(canonicalPath(path), path);
  });

  test('are served', async (t) => {
    const { url } = await testServer(t, scriptedEngine([answer('x')]));
    for (const path of ['/chat/completions', '/beta/chat/completions', '/beta/v1/chat/completions']) {
      assert.equal((await post(`${url}${path}`, hello)).status, 200, path);
    }
    assert.equal((await fetch(`${url}/beta/models`)).status, 200);
  });
});

describe('what runs here', () => {
  test('is told without secrets', async (t) => {
    const { url } = await testServer(t, scriptedEngine([]), { apiKey: 'secret-key', hfToken: 'secret-token' });
    const headers = { 'x-api-key': 'secret-key' };
    const info = await (await fetch(`${url}/server_info`, { headers })).text();
    assert.doesNotMatch(info, /secret/);
    assert.match(info, /"maxModelLen":8192/);
    assert.match(await (await fetch(`${url}/version`, { headers })).text(), /^\{"version":"\d+\.\d+\.\d+"\}$/);
  });
});
