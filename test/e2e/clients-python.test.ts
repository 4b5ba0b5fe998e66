// SPDX-License-Identifier: MIT
// OpenAI's Python client against the demo model, where it is installed.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { demoServer } from '../helpers/demo-server.ts';
import { eventually } from '../helpers/http.ts';
import { projectRoot } from '../helpers/project.ts';

const run = promisify(execFile);
const installed = await run('python3', ['-c', 'import openai']).then(
  () => true,
  () => false,
);

test(
  "OpenAI's Python client streams, joins deltas, calls tools and names failures",
  { skip: installed ? false : 'the Python package openai is not installed' },
  async (t) => {
    const server = await demoServer();
    t.after(() => server.close());
    const { stdout } = await run('python3', [join(projectRoot, 'test/e2e/openai_client.py'), server.url]);
    const { content, reasoning, usage, response, ...seen } = JSON.parse(stdout) as Record<string, unknown>;
    assert.match(String(content), /42/);
    assert.match(String(response), /42/);
    assert.ok(String(reasoning).length > 0 && Number(usage) > 0);
    assert.deepEqual(seen, {
      role: 'assistant',
      call: ['function', 'get_weather', { city: 'Oslo' }],
      error: ['invalid_value', 'temperature'],
      timeout: true,
    });
    await eventually(() => server.engine.stats().running === 0, 'the end of the request that timed out');
  },
);
