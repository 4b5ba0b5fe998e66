// SPDX-License-Identifier: MIT
// Tensor parallelism, ranks as threads, gives the ground truth too, also where a rank's shard is empty; so do worker threads.

import { after, before, suite, test } from 'node:test';
import type { NativeDriver } from '../helpers/native-driver.ts';
import { completeTruth, driveOracleModel, LogitTrace, prefill, readOracle } from '../helpers/oracle.ts';
import type { OracleName } from '../helpers/oracle.ts';

for (const name of ['tiny', 'small', 'pro-pattern', 'demo'] satisfies OracleName[]) {
  for (const { tp, threads } of [
    { tp: 2, threads: 2 },
    { tp: 4, threads: 4 },
    { tp: 1, threads: 2 },
  ]) {
    suite(`${name} on ${tp} ranks and ${threads} threads: logits and MTP logits equal the ground truth`, () => {
      const oracle = readOracle(name);
      let driver: NativeDriver;

      before(async () => {
        driver = await driveOracleModel(name, { tp, threads });
      });
      after(() => driver.model.close());

      for (const chunks of [[1024], [100, 1, 1, 1]]) {
        test(`prefill chunks of ${chunks.join(', ')}`, async () => {
          const expected = await completeTruth(driver, oracle.sequences.at(-1)!);
          driver.reset();
          const trace = new LogitTrace(driver.model.vocabSize);
          await prefill(driver, driver.start(expected.tokens), { chunks, trace });
          trace.assertMatches(expected);
        });
      }
    });
  }
}
