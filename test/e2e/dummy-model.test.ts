// SPDX-License-Identifier: MIT
// A folder that holds nothing but a config.json, with made-up weights: how sizes are measured that nobody has on disk.

import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { post } from '../helpers/http.ts';
import { demoModel } from '../helpers/project.ts';
import { serveDemo } from '../helpers/served-demo.ts';

describe('a model folder without weights and tokenizer', () => {
  let folder: string;
  const options = (): string[] => ['--model', folder, '--load-format', 'dummy', '--layers', '1', '--mtp', '0'];

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'twelvex-dummy-'));
    const config = JSON.parse(await readFile(join(demoModel, 'config.json'), 'utf8')) as object;
    // Twice the tokens that the demo's tokenizer has.
    await writeFile(join(folder, 'config.json'), JSON.stringify({ ...config, vocab_size: 8192 }));
  });
  after(() => rm(folder, { recursive: true }));

  test('is not served without being told where a tokenizer is', async () => {
    await assert.rejects(serveDemo(options()), /tokenizer\.json: no such file; give .* with --tokenizer/);
  });

  for (const tokenizer of [demoModel, join(demoModel, 'tokenizer.json')]) {
    test(`answers with the tokenizer of ${tokenizer === demoModel ? 'another folder' : 'a file'}`, async (t) => {
      const server = await serveDemo([...options(), '--tokenizer', tokenizer]);
      t.after(() => server.stop());
      const listed = (await (await fetch(`${server.url}/v1/models`)).json()) as { data: { max_model_len: number }[] };
      assert.ok(listed.data[0]!.max_model_len > 8192, 'the context is not cut to that of the borrowed tokenizer');
      const response = await post(`${server.url}/v1/chat/completions`, {
        messages: [{ role: 'user', content: 'What is 2 + 2?' }],
        thinking: { type: 'disabled' },
        max_tokens: 64,
        ignore_eos: true,
        seed: 1,
      });
      const answer = (await response.json()) as {
        choices: { message: { content: string } }[];
        usage: { completion_tokens: number };
      };
      assert.equal(response.status, 200, JSON.stringify(answer));
      assert.equal(answer.usage.completion_tokens, 64);
      assert.match(answer.choices[0]!.message.content, /\ufffd/, 'tokens that only the model has show in the text');
    });
  }
});
