// SPDX-License-Identifier: MIT
// The forward pass stays true to the ground truth after prefix-cache hits, preemption and rejected drafts.

import assert from 'node:assert/strict';
import { after, before, suite, test } from 'node:test';
import type { DrivenSequence, NativeDriver } from '../helpers/native-driver.ts';
import { argmax, completeTruth, driveOracleModel, expectedRow, LogitTrace, margin } from '../helpers/oracle.ts';
import { LOGIT_TOLERANCE, maxDifference, prefill, readOracle, tracedStep } from '../helpers/oracle.ts';
import type { OracleName, OracleSequence } from '../helpers/oracle.ts';

/** Draft sets to verify in turn: how many of the two are right. */
const rightDrafts = [2, 0, 1, 1, 0, 2, 0, 0];

for (const name of ['tiny', 'small', 'pro-pattern', 'demo'] satisfies OracleName[]) {
  suite(`${name}: reuse and speculation do not change logits`, () => {
    const oracle = readOracle(name);
    const blocks = Math.floor((oracle.sequences.at(-1)!.tokens.length - 1) / 128);
    let driver: NativeDriver;
    let expected: OracleSequence;
    const newTrace = (): LogitTrace => new LogitTrace(driver.model.vocabSize);

    before(async () => {
      driver = await driveOracleModel(name);
      expected = await completeTruth(driver, oracle.sequences.at(-1)!);
    });
    after(() => driver.model.close());

    for (const chunk of [1, 50, 1024]) {
      test(`a prefix hit at every block border, continued in chunks of ${chunk}`, async () => {
        driver.reset();
        const parent = driver.start(expected.tokens);
        await prefill(driver, parent, { chunks: [100], trace: newTrace() });
        for (let shared = 1; shared <= blocks; shared += 1) {
          const trace = newTrace();
          const child = driver.fork(parent, shared, expected.tokens);
          const end = Math.min(child.tokens.length, shared * 128 + 90);
          await prefill(driver, child, { chunks: [chunk], end, trace });
          assertRange(trace, expected, shared * 128, end);
          driver.end(child);
        }
      });
    }

    test('a prefix hit with another continuation equals a cold run of it', async () => {
      driver.reset();
      const parent = driver.start(expected.tokens);
      await prefill(driver, parent, { chunks: [1024], trace: newTrace() });
      const shared = blocks * 128;
      const tail = Array.from({ length: 80 }, (_, i) => expected.tokens[(i * 3) % 99]!);
      const other = [...expected.tokens.slice(0, shared), ...tail];
      const [warm, cold] = [newTrace(), newTrace()];
      await prefill(driver, driver.fork(parent, blocks, other), { chunks: [30], trace: warm });
      await prefill(driver, driver.start(other), { chunks: [1024], trace: cold });
      for (let position = shared; position < other.length - 1; position += 1) {
        const logits = maxDifference(warm.logits.get(position)!, cold.logits.get(position)!);
        const mtp = maxDifference(warm.mtpLogits.get(position)!, cold.mtpLogits.get(position)!);
        assert.ok(Math.max(logits, mtp) <= LOGIT_TOLERANCE, `position ${position} differs by ${logits}, MTP ${mtp}`);
      }
    });

    test('recomputed after preemption, in the slot and blocks of other sequences', async () => {
      driver.reset();
      const victim = driver.start(expected.tokens);
      await prefill(driver, victim, { chunks: [90], end: Math.floor(expected.tokens.length / 2), trace: newTrace() });
      driver.end(victim);
      const intruder = driver.start([...expected.tokens].reverse());
      assert.equal(intruder.slot, victim.slot);
      for (const [logical, physical] of victim.window) intruder.window.set(logical, physical);
      intruder.context.push(...victim.context);
      await prefill(driver, intruder, { chunks: [33], end: Math.floor(expected.tokens.length / 3), trace: newTrace() });
      driver.end(intruder);
      const again = driver.start(expected.tokens);
      for (const [logical, physical] of intruder.window) again.window.set(logical, physical);
      again.context.push(...intruder.context);
      const trace = newTrace();
      await prefill(driver, again, { chunks: [77], trace });
      trace.assertMatches(expected);
    });

    test('decoding with right, wrong and half-right drafts', async (t) => {
      driver.reset();
      const trace = newTrace();
      const sequence = driver.start(expected.tokens.subarray(0, 10));
      await prefill(driver, sequence, { chunks: [1024], end: 9, trace });
      const outcome = await decodeWithDrafts(driver, sequence, expected, trace);
      trace.assertMatches(expected, 9);
      assert.deepEqual(outcome.acceptedDrafts, outcome.rightDrafts, 'exactly the right drafts are accepted');
      t.diagnostic(`${outcome.rightDrafts.length} steps`);
    });

    test('the next drafts are the argmax of the MTP logits', async () => {
      driver.reset();
      const sequence = driver.start(expected.tokens);
      const first = expected.mtpLogits.first + 1;
      await prefill(driver, sequence, { chunks: [1024], end: first, trace: newTrace() });
      let compared = 0;
      while (sequence.computed < expected.tokens.length - 1) {
        const position = sequence.computed;
        sequence.tokens.length = position + 1;
        const result = await driver.step([{ sequence, count: 1, sample: { allowed: [[expected.tokens[position + 1]!]] } }]);
        const mtp = expectedRow(expected.mtpLogits, position);
        if (margin(mtp) < 2 * LOGIT_TOLERANCE) continue;
        assert.equal(result.drafts[0], argmax(mtp), `draft behind position ${position}`);
        compared += 1;
      }
      assert.ok(compared > 0.9 * (expected.tokens.length - 1 - first), 'nearly every margin is decisive');
    });

    test('greedy sampling takes the largest logit', async () => {
      for (let length = expected.logits.first + 1; length <= expected.tokens.length; length += 23) {
        const logits = expectedRow(expected.logits, length - 1);
        if (margin(logits) < 2 * LOGIT_TOLERANCE) continue;
        driver.reset();
        const sequence = driver.start(expected.tokens.subarray(0, length));
        const result = await driver.step([{ sequence, count: length, sample: {} }]);
        assert.equal(result.accepted[0], argmax(logits), `after ${length} tokens`);
      }
    });
  });
}

function assertRange(trace: LogitTrace, expected: OracleSequence, from: number, end: number): void {
  const last = end === expected.tokens.length ? end - 1 : end; // nothing is known behind the last token
  for (let position = Math.max(from, expected.logits.first); position < end; position += 1) {
    const difference = maxDifference(trace.logits.get(position)!, expectedRow(expected.logits, position));
    assert.ok(difference <= LOGIT_TOLERANCE, `hit at ${from}: position ${position} differs by ${difference}`);
  }
  for (let position = Math.max(from, expected.mtpLogits.first); position < last; position += 1) {
    const difference = maxDifference(trace.mtpLogits.get(position)!, expectedRow(expected.mtpLogits, position));
    assert.ok(difference <= LOGIT_TOLERANCE, `hit at ${from}: MTP logits of position ${position} differ by ${difference}`);
  }
}

/** Teacher-forced decoding: a mask allows only the true token at each position, whatever the drafts say. */
async function decodeWithDrafts(
  driver: NativeDriver,
  sequence: DrivenSequence,
  expected: OracleSequence,
  trace: LogitTrace,
): Promise<{ rightDrafts: number[]; acceptedDrafts: number[] }> {
  const { tokens } = expected;
  const outcome: { rightDrafts: number[]; acceptedDrafts: number[] } = { rightDrafts: [], acceptedDrafts: [] };
  for (let step = 0; sequence.computed < tokens.length; step += 1) {
    const position = sequence.computed;
    const room = Math.min(2, tokens.length - position - 1);
    const right = Math.min(rightDrafts[step % rightDrafts.length]!, room);
    const drafts = Array.from({ length: room }, (_, i) => {
      const truth = tokens[position + 1 + i]!;
      return i < right ? truth : (truth + 1 + i) % driver.model.vocabSize;
    });
    const allowed = Array.from({ length: 1 + room }, (_, i) => [tokens[position + 1 + i] ?? 0]);
    const result = await tracedStep(driver, [{ row: { sequence, count: 1, drafts, sample: { allowed } }, trace }]);
    outcome.rightDrafts.push(right);
    outcome.acceptedDrafts.push(result.acceptedCount[0]! - 1);
  }
  return outcome;
}
