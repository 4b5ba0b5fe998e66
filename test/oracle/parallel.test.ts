// SPDX-License-Identifier: MIT
// Tensor parallelism, ranks as threads, gives the ground truth too, also where a rank's shard is empty; so do worker threads. One
// rank, two ranks and any number of threads give the same bits.

import assert from 'node:assert/strict';
import { after, before, suite, test } from 'node:test';
import type { NativeLoadOptions } from '../../engine/native.ts';
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

const served = { numerics: 'served', rowFormat: 'fp8' } satisfies Partial<NativeLoadOptions>;

for (const name of ['tiny', 'small', 'pro-pattern', 'demo'] satisfies OracleName[]) {
  for (const [numerics, options] of [
    ['exact', {}],
    ['served', served],
  ] as const) {
    test(`${name}, ${numerics} numerics: one rank, two ranks and three threads give the same bits`, async () => {
      const { tokens } = readOracle(name).sequences.at(-1)!;
      const traces: LogitTrace[] = [];
      for (const ranks of [{ tp: 1 }, { tp: 2, threads: 2 }, { tp: 1, threads: 3 }]) {
        const driver = await driveOracleModel(name, { ...options, ...ranks });
        const trace = new LogitTrace(driver.model.vocabSize);
        await prefill(driver, driver.start(tokens), { chunks: [100, 1, 1, 1], trace });
        await driver.model.close();
        traces.push(trace);
      }
      const [one, ...others] = traces;
      for (const other of others) {
        assertSameBits(other.logits, one!.logits);
        assertSameBits(other.mtpLogits, one!.mtpLogits);
      }
      assert.equal(one!.logits.size, tokens.length);
    });
  }
}

function assertSameBits(got: Map<number, Float32Array>, expected: Map<number, Float32Array>): void {
  assert.equal(got.size, expected.size);
  for (const [position, logits] of expected) {
    assert.deepEqual(bytesOf(got.get(position)!), bytesOf(logits), `position ${position}`);
  }
}

function bytesOf({ buffer, byteOffset, byteLength }: Float32Array): Buffer {
  return Buffer.from(buffer, byteOffset, byteLength);
}
