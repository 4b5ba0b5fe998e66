// SPDX-License-Identifier: MIT
// What served numerics (FP8 activations) and FP8 cache rows cost on the demo checkpoint: measured against exact.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { NativeLoadOptions } from '../../engine/native.ts';
import { argmax, driveOracleModel, expectedRow, LogitTrace, prefill, readOracle } from '../helpers/oracle.ts';
import type { OracleSequence } from '../helpers/oracle.ts';

const variants: { name: string; options: Partial<NativeLoadOptions> }[] = [
  { name: 'bf16 rows', options: { rowFormat: 'bf16' } },
  { name: 'fp8 rows', options: { rowFormat: 'fp8' } },
  { name: 'served numerics', options: { numerics: 'served' } },
  { name: 'served numerics with fp8 rows', options: { numerics: 'served', rowFormat: 'fp8' } },
];

for (const { name, options } of variants) {
  test(`${name} stay close to exact on the demo checkpoint`, async (t) => {
    const driver = await driveOracleModel('demo', options);
    t.after(() => driver.model.close());
    let positions = 0;
    let divergence = 0;
    let agreeing = 0;
    for (const expected of readOracle('demo').sequences) {
      driver.reset();
      const trace = new LogitTrace(driver.model.vocabSize);
      await prefill(driver, driver.start(expected.tokens), { chunks: [1024], trace });
      for (const { truth, got } of pairs(trace, expected)) {
        positions += 1;
        divergence += klDivergence(truth, got);
        agreeing += argmax(truth) === argmax(got) ? 1 : 0;
      }
    }
    const [kl, top1] = [divergence / positions, agreeing / positions];
    t.diagnostic(`${name}: mean KL ${kl.toExponential(2)} nats, top-1 agreement ${(100 * top1).toFixed(1)} %, ${positions} positions`);
    assert.ok(kl > 0, 'the variant computes something else than exact');
    assert.ok(kl <= 0.02, `mean KL divergence ${kl}`);
    assert.ok(top1 >= 0.97, `top-1 agreement ${top1}`);
  });
}

function* pairs(trace: LogitTrace, expected: OracleSequence): Generator<{ truth: Float32Array; got: Float32Array }> {
  for (let position = expected.logits.first; position < expected.tokens.length; position += 1) {
    yield { truth: expectedRow(expected.logits, position), got: trace.logits.get(position)! };
  }
}

/** KL(softmax(truth) || softmax(got)) in nats. */
function klDivergence(truth: Float32Array, got: Float32Array): number {
  const [p, q] = [logSoftmax(truth), logSoftmax(got)];
  return p.reduce((sum, logp, i) => sum + Math.exp(logp) * (logp - q[i]!), 0);
}

function logSoftmax(logits: Float32Array): Float64Array {
  const largest = logits.reduce((a, b) => Math.max(a, b));
  const total = logits.reduce((sum, logit) => sum + Math.exp(logit - largest), 0);
  return Float64Array.from(logits, (logit) => logit - largest - Math.log(total));
}
