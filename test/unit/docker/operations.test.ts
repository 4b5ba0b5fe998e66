// SPDX-License-Identifier: MIT
// What operators apply and look at: names that must be the server's own, and documents that must name what is there.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { post, testServer } from '../../helpers/http.ts';
import { projectFiles, readProject } from '../../helpers/project.ts';
import { answer, scriptedEngine } from '../../helpers/scripted-engine.ts';

const alerts = readProject('docker/observability/alerts.yml');

test('alerts, dashboard and scalers ask for metrics that the server has', async (t) => {
  const { url } = await testServer(t, scriptedEngine([answer('a')]));
  await post(`${url}/v1/chat/completions`, { messages: [{ role: 'user', content: 'hi' }] });
  const text = await (await fetch(`${url}/metrics`)).text();
  const served = new Set([...text.matchAll(/^# TYPE (\S+)/gm)].map((match) => match[1]));
  const files = projectFiles('docker', ['.yml', '.yaml', '.json']);
  const asked = files.flatMap((file) =>
    [...readProject(file).matchAll(/\b(?:vllm|twelvex|http):?_?[a-z_]*[a-z](?=[{[])/g)].map(([name]) => ({ file, name })),
  );
  assert.ok(asked.length > 20);
  for (const { file, name } of asked) assert.ok(served.has(name.replace(/_bucket$/, '')), `${file} asks for ${name}`);
});

test('every alert is explained, and no other', () => {
  const names = [...alerts.matchAll(/- alert: (\w+)/g)].map((match) => match[1]);
  const explained = [...readProject('docker/OPERATIONS.md').matchAll(/^\| (Twelvex\w+) \|/gm)].map((match) => match[1]);
  assert.deepEqual(explained.toSorted(), names.toSorted());
});

test('a Service called twelvex does not set the port of its pods', () => {
  for (const file of ['kubernetes/deployment.yaml', 'helm/twelvex/templates/deployment.yaml'])
    assert.match(readProject(`docker/${file}`), /^ {6}enableServiceLinks: false$/m, file);
});
