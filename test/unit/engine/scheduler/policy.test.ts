// SPDX-License-Identifier: MIT

import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { FIRST_IN_LINE_SHARE, PREFILL_CHUNK, grantPrefill } from '../../../../engine/scheduler/policy.ts';
import { Sequence } from '../../../../engine/scheduler/sequence.ts';
import { promptOf, sequenceRequest } from '../../../helpers/scheduler-run.ts';

const sequences = (...lengths: number[]): Sequence[] =>
  lengths.map((length, id) => new Sequence(id, sequenceRequest(promptOf(id, length))));

const granted = (lengths: number[], budget: number): number[] => {
  const candidates = sequences(...lengths);
  const grants = grantPrefill(candidates, budget);
  return candidates.map((candidate) => grants.find(({ sequence }) => sequence === candidate)?.tokens ?? 0);
};

test('a short prompt does not wait for a long one that came first', () => {
  assert.deepEqual(granted([1000, 50], 200), [150, 50]);
});

test('the first in line keeps its share when short prompts want everything', () => {
  assert.deepEqual(granted([1000, 90, 80, 70], 200), [50, 0, 80, 70]);
});

test('the shortest goes first, also when it is the first in line', () => {
  assert.deepEqual(granted([100, 90, 500], 120), [30, 90, 0]);
  assert.deepEqual(granted([40, 90, 500], 120), [40, 80, 0]);
});

test('a lower priority number stands before arrival', () => {
  const [first, second] = sequences(50, 60);
  const high = new Sequence(2, sequenceRequest(promptOf(2, 1000), { priority: -1 }));
  const grants = grantPrefill([first!, second!, high], 100);
  assert.equal(grants.find(({ sequence }) => sequence === high)?.tokens, 25);
});

test('more than a chunk of rows is used only while most of the budget is left', () => {
  assert.equal(granted([60, 60, 60, 60, 60, 60], 300).filter((tokens) => tokens > 0).length, PREFILL_CHUNK);
  assert.equal(granted([10, 10, 10, 10, 10, 10], 300).filter((tokens) => tokens > 0).length, 6);
});

test('grants keep to the budget, never exceed what is needed, and give the first in line its share', () => {
  const property = fc.property(
    fc.array(fc.integer({ min: 1, max: 500 }), { minLength: 1, maxLength: 12 }),
    fc.integer({ min: 1, max: 600 }),
    (lengths, budget) => {
      const tokens = granted(lengths, budget);
      const sum = tokens.reduce((total, count) => total + count, 0);
      assert.ok(sum <= budget);
      tokens.forEach((count, i) => assert.ok(count <= lengths[i]!));
      const share = Math.max(1, Math.floor(budget / FIRST_IN_LINE_SHARE));
      assert.ok(tokens[0]! >= Math.min(share, lengths[0]!));
      // Nothing is left over while somebody within the rows still needs it.
      const wanted = lengths.reduce((total, length) => total + length, 0);
      if (lengths.length <= PREFILL_CHUNK) assert.equal(sum, Math.min(budget, wanted));
    },
  );
  fc.assert(property);
});
