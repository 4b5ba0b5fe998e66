// SPDX-License-Identifier: MIT

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { planCache, roomyBytes } from '../../../../engine/cache/layout.ts';
import type { CacheDemand } from '../../../../engine/cache/layout.ts';
import type { EngineError } from '../../../../engine/errors.ts';

const MIB = 2 ** 20;
const demand = (changes: Partial<CacheDemand> = {}): CacheDemand => ({
  bytes: { windowBlockBytes: 2 * MIB, contextBlockBytes: MIB / 4, slotBytes: MIB },
  budgetBytes: 200 * MIB,
  slots: 8,
  stepTokens: 512,
  mtp: 2,
  maxModelLen: 8192,
  ...changes,
});

test('a plan keeps to its budget and uses all but a unit of it', () => {
  for (let budget = 70; budget < 2000; budget += 37) {
    const plan = planCache(demand({ budgetBytes: budget * MIB }));
    assert.ok(plan.totalBytes <= budget * MIB);
    assert.ok(plan.totalBytes > (budget - 4) * MIB - 1);
  }
});

test('every slot can decode while a full chunk is computed, and a longest sequence fits alone', () => {
  for (const slots of [1, 4, 16]) {
    const plan = planCache(demand({ slots }));
    assert.ok(plan.windowBlocks >= 2 * slots + 5);
    assert.ok(plan.contextBlocks * 128 >= plan.maxModelLen + 2);
  }
});

test('a budget too small for the longest sequence shortens it, one too small for any is an error that says what to do', () => {
  const plan = planCache(demand({ budgetBytes: 72 * MIB }));
  assert.ok(plan.maxModelLen < 8192 && plan.maxModelLen > 0);
  assert.equal(plan.maxModelLen, plan.contextBlocks * 128 - 2);
  assert.throws(
    () => planCache(demand({ budgetBytes: 20 * MIB })),
    (error: EngineError) => error.code === 'OUT_OF_MEMORY' && /--max-sequences/.test(error.message),
  );
});

test('a roomy budget serves every slot and a longest sequence, whatever their number', () => {
  for (const slots of [1, 16, 64]) {
    const plan = planCache(demand({ slots, budgetBytes: roomyBytes(demand({ slots })) }));
    assert.equal(plan.maxModelLen, 8192);
    assert.ok(plan.contextBlocks >= slots * 8);
  }
});
