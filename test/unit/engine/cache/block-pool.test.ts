// SPDX-License-Identifier: MIT

import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { BlockPool } from '../../../../engine/cache/block-pool.ts';
import type { Warmth } from '../../../../engine/cache/block-pool.ts';

test('blank blocks are taken before cold ones, cold before hot, the longest released first', () => {
  const pool = new BlockPool(6);
  const blocks = Array.from({ length: 6 }, () => pool.take());
  assert.equal(pool.take(), -1);
  const warmths: Warmth[] = ['hot', 'cold', 'blank', 'hot', 'cold', 'blank'];
  blocks.forEach((block, i) => pool.release(block, warmths[i]!));
  assert.deepEqual(
    Array.from({ length: 6 }, () => pool.take()),
    [2, 5, 1, 4, 0, 3].map((i) => blocks[i]),
  );
});

test('a block held by two is available only after both let go', () => {
  const pool = new BlockPool(1);
  const block = pool.take();
  pool.hold(block);
  pool.release(block, 'hot');
  assert.equal(pool.available, 0);
  pool.release(block, 'hot');
  assert.equal(pool.available, 1);
  assert.throws(() => pool.release(block, 'hot'), /more often than held/);
});

test('an available block can be held again for its contents', () => {
  const taken: number[] = [];
  const pool = new BlockPool(2, (block) => taken.push(block));
  const block = pool.take();
  pool.release(block, 'hot');
  pool.hold(block);
  assert.notEqual(pool.take(), block);
  assert.equal(pool.take(), -1);
  assert.deepEqual(taken, [0, 1]);
});

test('any sequence of operations keeps holders and available blocks apart', () => {
  const operation = fc.record({ kind: fc.constantFrom('take', 'hold', 'release'), which: fc.nat(), warm: fc.nat(2) });
  const property = fc.property(fc.integer({ min: 1, max: 12 }), fc.array(operation, { maxLength: 200 }), (size, operations) => {
    const pool = new BlockPool(size);
    const held: number[] = [];
    for (const { kind, which, warm } of operations) {
      if (kind === 'take') {
        const block = pool.take();
        assert.equal(block === -1, new Set(held).size === size);
        assert.ok(!held.includes(block));
        if (block >= 0) held.push(block);
      } else if (kind === 'hold') {
        const block = which % size;
        pool.hold(block);
        held.push(block);
      } else if (held.length > 0) {
        const [block] = held.splice(which % held.length, 1);
        pool.release(block!, (['blank', 'cold', 'hot'] as const)[warm]!);
      }
      assert.equal(pool.available, size - new Set(held).size);
      for (let block = 0; block < size; block++) {
        assert.equal(pool.references(block), held.filter((other) => other === block).length);
      }
    }
  });
  fc.assert(property, { numRuns: 200 });
});
