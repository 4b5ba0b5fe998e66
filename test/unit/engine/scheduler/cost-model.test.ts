// SPDX-License-Identifier: MIT

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CostModel } from '../../../../engine/scheduler/cost-model.ts';

/** Follows the budget the model gives, with steps that cost base + tokens * each. */
function settle(costs: CostModel, machine: { baseMs: number; tokenMs: number }, targetMs: number, steps = 60): number {
  let tokens = 512;
  for (let i = 0; i < steps; i++) {
    const ms = machine.baseMs + tokens * machine.tokenMs;
    costs.observe({ decodeRows: 4, prefillTokens: tokens, ms });
    tokens = Math.max(1, Math.min(4096, costs.prefillTokensWithin(targetMs)));
  }
  return machine.baseMs + tokens * machine.tokenMs;
}

test('nothing is promised before a step was measured', () => {
  assert.equal(new CostModel().prefillTokensWithin(10), Infinity);
});

test('the step time settles at the target, with and without a measured decode time', () => {
  for (const machine of [
    { baseMs: 5, tokenMs: 0.5 },
    { baseMs: 20, tokenMs: 0.05 },
  ]) {
    assert.ok(Math.abs(settle(new CostModel(), machine, 100) - 100) < 5);
    const known = new CostModel();
    known.observe({ decodeRows: 4, prefillTokens: 0, ms: machine.baseMs });
    assert.ok(Math.abs(settle(known, machine, 100) - 100) < 2);
  }
});

test('a price that grows with the context is followed', () => {
  const costs = new CostModel();
  costs.observe({ decodeRows: 1, prefillTokens: 0, ms: 5 });
  settle(costs, { baseMs: 5, tokenMs: 0.1 }, 50);
  assert.ok(Math.abs(settle(costs, { baseMs: 5, tokenMs: 1 }, 50, 30) - 50) < 3);
});

test('no prefill fits when decoding alone takes longer than the target', () => {
  const costs = new CostModel();
  costs.observe({ decodeRows: 8, prefillTokens: 0, ms: 120 });
  costs.observe({ decodeRows: 8, prefillTokens: 100, ms: 200 });
  assert.equal(costs.prefillTokensWithin(100), 0);
});
