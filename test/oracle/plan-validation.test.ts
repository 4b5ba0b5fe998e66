// SPDX-License-Identifier: MIT
// A plan that is wrong in any way is refused as INVALID_PLAN; nothing crashes and the model keeps working.

import assert from 'node:assert/strict';
import { after, before, suite, test } from 'node:test';
import type { StepPlan } from '../../engine/native.ts';
import type { NativeDriver } from '../helpers/native-driver.ts';
import { completeTruth, driveOracleModel, LogitTrace, prefill, readOracle } from '../helpers/oracle.ts';

const mutations = 4000;

suite('step plans', () => {
  const oracle = readOracle('tiny');
  let driver: NativeDriver;

  before(async () => {
    driver = await driveOracleModel('tiny', { stepTokens: 400, contextTokens: 400 });
  });
  after(() => driver.model.close());

  const wrong: Record<string, [change: (plan: StepPlan) => void, message: RegExp]> = {
    'a slot that does not exist': [(plan) => (plan.slot[1] = 8), /row 1: slot 8 is not in \[0, 8\)/],
    'a slot used twice': [(plan) => (plan.slot[1] = plan.slot[0]!), /row 1: slot \d+ is used by another row/],
    'a negative position': [(plan) => (plan.position[0] = -1), /row 0: position -1/],
    'a row past the context': [(plan) => (plan.position[0] = 399), /row 0: count 3 is not in \[1, 2\)/],
    'an empty row': [(plan) => (plan.count[1] = 0), /row 1: count 0/],
    'more drafts than tokens': [(plan) => (plan.drafts[1] = 3), /row 1: drafts 3/],
    'a token outside the vocabulary': [(plan) => (plan.tokens[2] = 256), /tokens\[2\] 256 is not in \[0, 256\)/],
    'a token count that does not add up': [(plan) => (plan.tokens = plan.tokens.slice(1)), /tokens has \d+ entries, expected/],
    'an unknown flag': [(plan) => (plan.flags[1] = 128), /row 1: flags 128/],
    'resuming inside a block': [(plan) => (plan.flags[0]! |= 2), /row 0: resumes at position 130/],
    'a window table that starts elsewhere': [(plan) => (plan.windowBase[0] = 1), /row 0: window_base 1, position 130 needs 0/],
    'a window block that does not exist': [(plan) => (plan.windowBlocks[0] = 48), /row 0: window block 48 is not in/],
    'a context block that does not exist': [(plan) => (plan.contextBlocks[1] = -1), /row 0: context block -1 is not in/],
    'a block that appears twice in a row': [(plan) => (plan.contextBlocks[1] = plan.contextBlocks[0]!), /appears twice/],
    'a written block of another row': [(plan) => (plan.windowBlocks[1] = plan.windowBlocks[2]!), /written by one row and used/],
    'offsets that decrease': [(plan) => (plan.windowOffset[1] = 9), /row 1: window_offset decreases/],
    'a NaN temperature': [(plan) => (plan.temperature[0] = NaN), /sampling row 0: temperature nan/],
    'a top_p of zero': [(plan) => (plan.topP[0] = 0), /sampling row 0: top_p/],
    'an infinite penalty': [(plan) => (plan.frequencyPenalty[0] = Infinity), /sampling row 0: frequency_penalty inf/],
    'too many alternatives': [(plan) => (plan.logprobs[0] = 21), /sampling row 0: logprobs 21/],
    'a NaN bias': [(plan) => (plan.biasValues[0] = NaN), /sampling row 0: bias nan/],
    'a penalty for a token that does not exist': [(plan) => (plan.penaltyTokens[0] = 256), /penalty token 256/],
    'a penalty token named twice': [(plan) => (plan.penaltyTokens[1] = plan.penaltyTokens[0]!), /appears twice/],
    'a mask that ends early': [(plan) => (plan.masks = plan.masks.slice(1)), /masks have \d+ words, not a multiple of 8/],
    'mask rows past the end': [(plan) => (plan.maskRow[0] = 1), /sampling row 0: mask_row 1 is not in \[0, 1\)/],
    'a mask that allows nothing': [(plan) => plan.masks.fill(0), /sampling row 0: mask 0 allows no token/],
    'an array of another type': [(plan) => Object.assign(plan, { tokens: new Uint32Array(9) }), /tokens must be a Int32Array/],
    'a missing array': [(plan) => Object.assign(plan, { seed: undefined }), /plan\.seed must be a BigUint64Array/],
  };

  for (const [what, [change, message]] of Object.entries(wrong)) {
    test(`${what} is refused by name`, async () => {
      const plan = await validPlan(driver, oracle.sequences[0]!.tokens);
      change(plan);
      await assert.rejects(driver.model.step(plan), (error: Error & { code?: string }) => {
        assert.equal(error.code, 'INVALID_PLAN');
        assert.match(error.message, message);
        return true;
      });
    });
  }

  test(`${mutations} random corruptions never crash and are INVALID_PLAN or run`, async (t) => {
    const random = lcg(1);
    const base = await validPlan(driver, oracle.sequences[0]!.tokens);
    let refused = 0;
    for (let i = 0; i < mutations; i += 1) {
      const plan = corrupted(base, random);
      await driver.model.step(plan).catch((error: Error & { code?: string }) => {
        assert.equal(error.code, 'INVALID_PLAN', error.message);
        refused += 1;
      });
    }
    assert.ok(refused > mutations / 2);
    t.diagnostic(`${refused} of ${mutations} were refused`);
    const truth = await completeTruth(driver, oracle.sequences[0]!);
    driver.reset();
    const trace = new LogitTrace(driver.model.vocabSize);
    await prefill(driver, driver.start(truth.tokens), { chunks: [70], trace });
    trace.assertMatches(truth);
  });
});

/** A decode row with drafts, mask, bias and penalties at position 130, then a prefill row. */
async function validPlan(driver: NativeDriver, tokens: Int32Array): Promise<StepPlan> {
  driver.reset();
  const [decoding, prefilling] = [driver.start(tokens.subarray(0, 131)), driver.start(tokens.subarray(0, 20))];
  await driver.step([{ sequence: decoding, count: 130 }]);
  const all = [...Array(driver.model.vocabSize).keys()];
  return driver.plan([
    {
      sequence: decoding,
      count: 1,
      drafts: [5, 6],
      sample: {
        temperature: 0.8,
        topK: 20,
        topP: 0.9,
        seed: 7n,
        logprobs: 3,
        bias: [{ token: 9, value: 2 }],
        penalties: [
          { token: 3, count: 1 },
          { token: 4, count: 0 },
        ],
        allowed: [all, all, all],
      },
    },
    { sequence: prefilling, count: 9 },
  ]);
}

/** One to three random elements, lengths or offsets of the plan changed. */
function corrupted(base: StepPlan, random: () => number): StepPlan {
  const plan = structuredClone(base) as unknown as Record<string, Int32Array>;
  const names = Object.keys(plan);
  const values = [0, 1, -1, 2, 47, 48, 127, 128, 255, 256, 399, 400, 65536, 2147483647, -2147483648, NaN, Infinity, 0.5];
  for (let edits = 1 + (random() % 3); edits > 0; edits -= 1) {
    const name = names[random() % names.length]!;
    const array = plan[name]!;
    if (random() % 5 === 0) {
      plan[name] = random() % 2 === 0 ? array.slice(0, random() % (array.length + 1)) : array.slice(1);
    } else if (array.length > 0) {
      const value = values[random() % values.length]!;
      const at = random() % array.length;
      if ((array as unknown) instanceof BigUint64Array) continue;
      array[at] = random() % 2 === 0 ? value : array[at]! + (random() % 2 === 0 ? 1 : -1);
    }
  }
  return plan as unknown as StepPlan;
}

function lcg(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    return state >>> 8;
  };
}
