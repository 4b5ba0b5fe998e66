// SPDX-License-Identifier: MIT
// The demo checkpoint as it is served: its greedy continuations, with and without drafts, and its token log-probabilities.

import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, suite, test } from 'node:test';
import type { NativeDriver } from '../helpers/native-driver.ts';
import { driveOracleModel, readOracle } from '../helpers/oracle.ts';
import { projectRoot } from '../helpers/project.ts';
import { Safetensors } from '../helpers/safetensors.ts';

for (const mtp of [0, 1, 2, 4]) {
  suite(`demo with ${mtp} drafts a step`, () => {
    const oracle = readOracle('demo');
    let driver: NativeDriver;

    before(async () => {
      driver = await driveOracleModel('demo', { mtp });
    });
    after(() => driver.model.close());

    test('greedy continuations equal those of the ground truth', async (t) => {
      for (const { tokens, greedy } of oracle.sequences) {
        driver.reset();
        const sequence = driver.start(tokens);
        let result = await driver.step([{ sequence, count: tokens.length, sample: {} }]);
        let steps = 1;
        for (; sequence.tokens.length < tokens.length + greedy!.length; steps += 1) {
          const drafts = [...result.drafts].filter((draft) => draft >= 0);
          assert.equal(drafts.length, mtp);
          result = await driver.step([{ sequence, count: 1, drafts, sample: {} }]);
        }
        const continuation = sequence.tokens.slice(tokens.length, tokens.length + greedy!.length);
        assert.deepEqual(continuation, [...greedy!]);
        t.diagnostic(`${greedy!.length} tokens in ${steps} steps`);
      }
    });
  });
}

suite('demo log-probabilities', () => {
  const file = new Safetensors(join(projectRoot, 'test/oracle/demo/expected.safetensors'));
  const oracle = readOracle('demo');
  let driver: NativeDriver;

  before(async () => {
    driver = await driveOracleModel('demo', { mtp: 0 });
  });
  after(() => driver.model.close());

  test('of every prompt token equal the ground truth', async () => {
    for (const [i, { tokens }] of oracle.sequences.entries()) {
      driver.reset();
      const expected = file.floats(`${i}.token_logprobs`).data;
      const sequence = driver.start(tokens);
      const got: number[] = [];
      while (sequence.computed < tokens.length) {
        const count = Math.min(250, tokens.length - sequence.computed);
        got.push(...(await driver.step([{ sequence, count, allLogprobs: true }])).promptLogprobs);
      }
      assert.equal(got.length, tokens.length);
      assert.ok(Number.isNaN(got.pop()), 'nothing is known behind the last token');
      got.forEach((logprob, t) => {
        assert.ok(Math.abs(logprob - expected[t]!) < 2e-3, `token ${t + 1}: ${logprob}, expected ${expected[t]}`);
      });
    }
  });

  test('of sampled tokens come with their alternatives in order', async () => {
    driver.reset();
    const sequence = driver.start(oracle.sequences[1]!.tokens);
    const result = await driver.step([{ sequence, count: sequence.tokens.length, sample: { logprobs: 20 } }]);
    assert.equal(result.topWidth, 20);
    assert.equal(result.topTokens[0], result.accepted[0]);
    assert.equal(result.topLogprobs[0], result.logprobs[0]);
    const top = [...result.topLogprobs.subarray(0, 20)];
    assert.deepEqual(top, [...top].sort((a, b) => b - a));
    assert.ok(top.reduce((sum, logprob) => sum + Math.exp(logprob), 0) <= 1.0001);
  });
});
