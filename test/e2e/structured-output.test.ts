// SPDX-License-Identifier: MIT
// The demo model under random schemas.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { GREEDY } from '../../engine/index.ts';
import type { Engine } from '../../engine/index.ts';
import { collected } from '../helpers/engine-run.ts';
import { demoRequest, eventsOf, question, withDemo } from '../helpers/demo-engine.ts';
import { randomSchema } from '../unit/engine/text/grammar/random-schema.ts';
import { schemaSpec, validator } from '../unit/engine/text/grammar/schemas.ts';

const SCHEMAS = 500;
const AT_ONCE = 32;
const MAX_TOKENS = 128;
const PROMPTS = ['Write JSON about Tom.', 'Tell me a story.', 'What is 2 + 2?', 'Write JSON with name and age of a cat.'];

type Outcome = 'valid' | 'invalid' | 'unfinished';

async function someAtOnce<T>(items: readonly T[], work: (item: T, index: number) => Promise<void>): Promise<void> {
  const entries = items.entries();
  const worker = async (): Promise<void> => {
    for (const [index, item] of entries) await work(item, index);
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
}

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
    await someAtOnce(schemas, async (schema, index) => {
      counts[await outcomeOf(engine, schema, index)] += 1;
    });
  });
  t.diagnostic(`${JSON.stringify(counts)} of ${SCHEMAS} with max_tokens ${MAX_TOKENS}`);
  assert.equal(counts.invalid, 0);
  assert.ok(counts.valid >= 0.96 * SCHEMAS, `${counts.valid} of ${SCHEMAS} finished`);
});

test('documents led to their end are the same with drafts as without', async () => {
  const schemas = fc.sample(randomSchema, { seed: 5, numRuns: 60 });
  const answers: string[][] = [];
  for (const mtp of [0, 4]) {
    await withDemo({ mtp, maxSequences: AT_ONCE }, async (engine) => {
      const texts: string[] = [];
      await someAtOnce(schemas, async (schema, index) => {
        const grammar = { spec: schemaSpec(schema), param: 'response_format' };
        texts[index] = collected(await eventsOf(engine, demoRequest(question(PROMPTS[0]!), { grammar, maxTokens: 24 }))).text;
      });
      answers.push(texts);
    });
  }
  assert.deepEqual(answers[0], answers[1]);
});

/** Calls of a strict tool with a random schema, forced behind reasoning or at once, or the model's own choice. */
test('calls of strict tools with random parameters are valid, and finish', async (t) => {
  const schemas = fc.sample(randomSchema, { seed: 7, numRuns: 1500 }).filter(isObjectSchema).slice(0, 80);
  const counts = { valid: 0, unfinished: 0, uncalled: 0 };
  await withDemo({ mtp: 2, maxSequences: AT_ONCE }, async (engine) => {
    const call = async (schema: unknown, index: number): Promise<void> => {
      const tool = { json: JSON.stringify({ name: 'note', parameters: schema, strict: true }) };
      const toolChoice = (['required', { name: 'note' }, 'auto'] as const)[index % 3]!;
      const input = question('What is the weather in Paris?', { thinking: index % 2 === 0, tools: [tool], toolChoice });
      const sampling = { ...GREEDY, temperature: 1, seed: BigInt(index) };
      const { events, end } = collected(await eventsOf(engine, demoRequest(input, { sampling, maxTokens: 300 })));
      const names = events.flatMap((event) => (event.kind === 'tool-call' ? [event.name] : []));
      if (end.reason === 'length') counts.unfinished += 1;
      else if (names.length === 0 && toolChoice === 'auto') counts.uncalled += 1;
      else {
        assert.equal(end.reason, 'tool_calls', end.error?.message);
        names.forEach((name, at) => {
          const text = events.map((event) => (event.kind === 'tool-arguments' && event.index === at ? event.text : '')).join('');
          assert.equal(name, 'note');
          const validate = validator(schema);
          assert.ok(validate(JSON.parse(text)), `${text} ${JSON.stringify(schema)} ${JSON.stringify(validate.errors)}`);
        });
        counts.valid += 1;
      }
    };
    await someAtOnce(schemas, call);
  });
  t.diagnostic(`${JSON.stringify(counts)} of ${schemas.length}`);
  assert.ok(counts.valid >= 50 && counts.unfinished <= 3, JSON.stringify(counts));
});

/** What parameters of a tool are: an object whose names have no quotes, which the markup of calls could not carry. */
function isObjectSchema(schema: unknown): boolean {
  const { type, properties } = schema as { type?: unknown; properties?: object };
  return type === 'object' && properties !== undefined && !Object.keys(properties).some((name) => name.includes('"'));
}
