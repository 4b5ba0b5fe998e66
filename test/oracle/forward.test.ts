// SPDX-License-Identifier: MIT
// The forward pass against ground truth, however the tokens are cut into steps.

import assert from 'node:assert/strict';
import { after, before, suite, test } from 'node:test';
import type { NativeDriver, Row } from '../helpers/native-driver.ts';
import { completeTruth, driveOracleModel, LogitTrace, prefill, readOracle, tracedStep } from '../helpers/oracle.ts';
import type { OracleName, OracleSequence } from '../helpers/oracle.ts';

const chunkings: Record<string, number[]> = {
  'one prefill': [1024],
  'prefill chunks of 7': [7],
  'prefill chunks of 64': [64],
  'prefill chunks of 127': [127],
  'prefill chunks of 128': [128],
  'prefill chunks of 129': [129],
  'mixed prefill chunks': [1, 7, 129, 2, 64, 3, 127, 1, 1, 128, 5],
  'one token at a time': [1],
};

for (const name of ['tiny', 'small', 'pro-pattern', 'demo'] satisfies OracleName[]) {
  suite(`${name}: logits and MTP logits equal the ground truth`, () => {
    const oracle = readOracle(name);
    let driver: NativeDriver;
    let sequences: OracleSequence[];

    before(async () => {
      driver = await driveOracleModel(name);
      sequences = [];
      for (const sequence of oracle.sequences) sequences.push(await completeTruth(driver, sequence));
    });
    after(() => driver.model.close());

    for (const [how, chunks] of Object.entries(chunkings)) {
      test(how, async (t) => {
        for (const [i, expected] of sequences.entries()) {
          driver.reset();
          const trace = new LogitTrace(driver.model.vocabSize);
          await prefill(driver, driver.start(expected.tokens), { chunks, trace });
          const largest = trace.assertMatches(expected);
          const [logits, mtp] = [largest.logits.toExponential(1), largest.mtp.toExponential(1)];
          t.diagnostic(`sequence ${i}: largest difference ${logits}, MTP ${mtp}`);
        }
      });
    }

    test('with other sequences in the batch', async () => {
      driver.reset();
      const expected = sequences[0]!;
      const crowd = [
        { tokens: expected.tokens, chunk: 5 },
        { tokens: sequences.at(-1)!.tokens, chunk: 37 },
        { tokens: expected.tokens.slice(3), chunk: 1 },
        { tokens: expected.tokens, chunk: 64 },
      ].map(({ tokens, chunk }) => ({ sequence: driver.start(tokens), chunk, trace: new LogitTrace(driver.model.vocabSize) }));
      let steps = 0;
      for (; crowd[0]!.sequence.computed < expected.tokens.length; steps += 1) {
        const rows = crowd.flatMap(({ sequence, chunk, trace }): { row: Row; trace: LogitTrace }[] => {
          const count = Math.min(chunk, sequence.tokens.length - sequence.computed);
          return count > 0 ? [{ row: { sequence, count }, trace }] : [];
        });
        await tracedStep(driver, rows);
      }
      crowd[0]!.trace.assertMatches(expected);
      assert.ok(crowd[3]!.sequence.computed === expected.tokens.length, 'the last sequence is done as well');
      crowd[3]!.trace.assertMatches(expected);
    });
  });
}
