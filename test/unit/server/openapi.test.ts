// SPDX-License-Identifier: MIT

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { operations } from '../../../server/openapi.ts';
import { post, testServer } from '../../helpers/http.ts';
import { projectFiles, readProject } from '../../helpers/project.ts';
import { answer, scriptedEngine } from '../../helpers/scripted-engine.ts';

interface Schema {
  type?: string;
  properties?: Record<string, Schema & { maximum?: number; anyOf?: Schema[] }>;
  required?: string[];
}

interface Document {
  openapi: string;
  paths: Record<string, Record<string, { requestBody?: { content: Record<string, { schema: { $ref: string } }> } }>>;
  components: { schemas: Record<string, Schema> };
}

async function documentOf(url: string): Promise<Document> {
  return (await (await fetch(`${url}/openapi.json`)).json()) as Document;
}

describe('the OpenAPI document', () => {
  test('has the fields and bounds that requests are checked with', async (t) => {
    const { url } = await testServer(t, scriptedEngine([]));
    const { openapi, paths, components } = await documentOf(url);
    assert.equal(openapi, '3.1.0');
    const content = paths['/v1/chat/completions']?.['post']?.requestBody?.content['application/json'];
    assert.equal(content?.schema.$ref, '#/components/schemas/ChatCompletionRequest');
    const { properties, required } = components.schemas['ChatCompletionRequest']!;
    assert.deepEqual(required, ['messages']);
    assert.deepEqual([properties?.['temperature']?.maximum, properties?.['stream']?.type], [2, 'boolean']);
    assert.deepEqual(components.schemas['MessagesRequest']?.required?.sort(), ['max_tokens', 'messages', 'model']);
  });

  test('names every endpoint that there is, and no other', async (t) => {
    const { app } = await testServer(t, scriptedEngine([]));
    for (const { method, path } of operations) {
      const url = path.replace('{id}', '*');
      assert.ok(app.hasRoute({ method: method.toUpperCase() as 'GET' | 'POST', url }), `${method} ${path}`);
    }
    const registered = projectFiles('server/routes', ['.ts']).flatMap((file) =>
      [...readProject(file).matchAll(/app\.(get|post)(?:<[^(]*>)?\(\s*'([^']+)'/g)].map(
        ([, method, path]) => `${method} ${path}`,
      ),
    );
    const described = new Set(operations.map(({ method, path }) => `${method} ${path.replace('{id}', '*')}`));
    const missing = registered.filter((route) => !described.has(route) && route !== 'get /openapi.json');
    assert.deepEqual(missing, []);
    assert.ok(registered.length > 10);
  });

  test('gives examples that the server answers', async (t) => {
    const { url } = await testServer(t, scriptedEngine([answer('ok')]));
    for (const { method, path, example } of operations) {
      if (path.includes('{')) continue;
      const response = method === 'get' ? await fetch(url + path) : await post(url + path, example);
      assert.equal(response.status, 200, `${path}: ${await response.text()}`);
    }
  });
});

test('the page at /docs loads nothing from elsewhere', async (t) => {
  const { url } = await testServer(t, scriptedEngine([]), { apiKey: 'secret' });
  const page = await fetch(`${url}/docs`);
  assert.equal(page.headers.get('content-type'), 'text/html; charset=utf-8');
  const html = await page.text();
  const links = [...html.matchAll(/(?:src|href)="([^"]+)"/g)].map(([, link]) => link ?? '');
  assert.ok(links.length >= 3);
  for (const link of links.filter((target) => !target.startsWith('data:'))) {
    assert.doesNotMatch(link, /^(https?:)?\/\//);
    assert.equal((await fetch(new URL(link, `${url}/docs`))).status, 200, link);
  }
});
