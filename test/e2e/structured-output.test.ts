// SPDX-License-Identifier: MIT
// The demo model under random schemas.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import type { Engine } from '../../engine/index.ts';
import { collected } from '../helpers/engine-run.ts';
import { GREEDY, demoRequest, eventsOf, question, withDemo } from '../helpers/demo-engine.ts';
import { randomSchema } from '../unit/engine/text/grammar/random-schema.ts';
import { schemaSpec, validator } from '../unit/engine/text/grammar/schemas.ts';

const SCHEMAS = 500;
const AT_ONCE = 32;
const MAX_TOKENS = 160;
const PROMPTS = ['Write JSON about Tom.', 'Tell me a story.', 'What is 2 + 2?', 'Write JSON with name and age of a cat.'];

type Outcome = 'valid' | 'invalid' | 'unfinished';

/** One document of the model under a schema; every second one is sampled, every fifth behind reasoning. */
async function outcomeOf(engine: Engine, schema: unknown, index: number): Promise<Outcome> {
  const request = demoRequest(question(PROMPTS[index % PROMPTS.length]!, { thinking: index % 5 === 0 }), {
    grammar: { spec: schemaSpec(schema), param: 'response_format' },
    sampling: { ...GREEDY, temperature: index % 2, seed: BigInt(index) },
    maxTokens: MAX_TOKENS,
  });
  const { text, end } = collected(await eventsOf(engine, request));
  if (end.reason === 'length') return 'unfinished';
  assert.equal(end.reason, 'stop', `${index}: ${end.error?.message}`);
  return validator(schema)(JSON.parse(text)) ? 'valid' : 'invalid';
}

test(`${SCHEMAS} random schemas: what finishes is valid, and at least 96 of 100 documents finish`, async (t) => {
  const schemas = fc.sample(randomSchema, { seed: 20_261_122, numRuns: SCHEMAS });
  const counts = { valid: 0, invalid: 0, unfinished: 0 };
  await withDemo({ mtp: 2, maxSequences: AT_ONCE }, async (engine) => {
    let next = 0;
    const work = async (): Promise<void> => {
      while (next < schemas.length) {
        const index = next++;
        counts[await outcomeOf(engine, schemas[index], index)] += 1;
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, work));
  });
  t.diagnostic(`${JSON.stringify(counts)} of ${SCHEMAS} with max_tokens ${MAX_TOKENS}`);
  assert.equal(counts.invalid, 0);
  assert.ok(counts.valid >= 0.96 * SCHEMAS, `${counts.valid} of ${SCHEMAS} finished`);
});
