// SPDX-License-Identifier: MIT
// The server on a GPU against the server on the CPU. Needs a GPU and a build with CUDA (npm run test:gpu).

import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { describe, test } from 'node:test';
import type { TestContext } from 'node:test';
import { post } from '../helpers/http.ts';
import { serveDemo } from '../helpers/served-demo.ts';

const skip = existsSync('/dev/nvidia0') ? false : 'this machine has no NVIDIA GPU';
const prompts = [
  'What is 12 + 30?',
  'What is the capital of Norway?',
  'What is the opposite of hot?',
  'What sound does a cow make?',
];

/** Greedy answers of a server with the given options. It has ended when they are there: a server takes the GPU's memory. */
async function answers(t: TestContext, options: readonly string[]): Promise<unknown[]> {
  const server = await serveDemo(options);
  t.after(() => server.stop());
  const bodies = await Promise.all(
    prompts.map(async (content) => {
      const response = await post(`${server.url}/v1/chat/completions`, { messages: [{ role: 'user', content }], temperature: 0 });
      return (await response.json()) as { choices: { message: { content: string } }[] };
    }),
  );
  await server.stop();
  return bodies.map(({ choices }) => choices[0]?.message.content);
}

describe('the CUDA backend', () => {
  test('answers as the CPU does, with one rank and with two on one GPU, with drafts and without', { skip }, async (t) => {
    const cpu = await answers(t, ['--device', 'cpu']);
    assert.ok(cpu.every((text) => typeof text === 'string' && text.length > 0));
    const gpu = ['--device', 'cuda'];
    assert.deepEqual(await answers(t, gpu), cpu);
    assert.deepEqual(await answers(t, [...gpu, '--tp', '2', '--devices', '0,0']), cpu);
    assert.deepEqual(await answers(t, [...gpu, '--mtp', '0']), cpu);
  });
});
