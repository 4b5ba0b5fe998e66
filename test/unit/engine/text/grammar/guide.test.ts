// SPDX-License-Identifier: MIT
// What masks are narrowed to: counts, and ways that end within max_tokens.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import fc from 'fast-check';
import { decodeTokens } from '../../../../../engine/text/detokenizer.ts';
import { Guide, TokenCosts } from '../../../../../engine/text/grammar/guide.ts';
import { GrammarService } from '../../../../../engine/text/grammar/service.ts';
import type { GrammarSpec } from '../../../../../engine/text/grammar/specs.ts';
import { Vocabulary } from '../../../../../engine/text/grammar/token-costs.ts';
import { loadTokenizer, type Tokenizer } from '../../../../../engine/text/tokenizer.ts';
import { demoModel } from '../../../../helpers/project.ts';
import { randomSchema } from './random-schema.ts';
import { schemaSpec, validator } from './schemas.ts';
import { allowedTokens, randomCompletion, randomSource, randomTexts, textTokens } from './walk.ts';

let tokenizer: Tokenizer;
let service: GrammarService;
let costs: TokenCosts;
before(async () => {
  tokenizer = await loadTokenizer(demoModel);
  service = new GrammarService({ tokenizer, vocabSize: tokenizer.vocabSize });
  costs = new TokenCosts(new Vocabulary(textTokens(tokenizer)), tokenizer.vocabSize, tokenizer.eosToken);
});
after(() => service.close());

test('counts of any size are kept to, whatever tokens cross them', async () => {
  const cases: [schema: object, limit: number][] = [
    [{ type: 'string', maxLength: 7 }, 60],
    [{ type: 'string', minLength: 25, maxLength: 26 }, 60],
    [{ type: 'string', minLength: 300, maxLength: 5000 }, 700],
    [{ type: 'string', pattern: '^[a-c]{20,30}x{0,9}$' }, 80],
    [{ type: 'string', pattern: '^(ab?){12}(c|dd){9,}$' }, 100],
    [{ type: 'string', pattern: '^([a-c]+[ "]?){2,5}$' }, 80],
    [{ type: 'array', items: { type: 'integer' }, minItems: 90, maxItems: 91 }, 700],
    [{ type: 'array', items: { type: 'string' }, maxItems: 70 }, 700],
    [{ type: 'object', additionalProperties: { type: 'string', maxLength: 3 }, minProperties: 1, maxProperties: 66 }, 700],
  ];
  for (const [schema, limit] of cases) {
    const results = await randomTexts({ service, tokenizer }, schemaSpec(schema, true), { count: 6, limit });
    assert.ok(results.length > 0, JSON.stringify(schema));
    const validate = validator(schema);
    for (const text of results) assert.ok(validate(JSON.parse(text)), `${text} ${JSON.stringify(schema)}`);
  }
});

test('a token that exceeds a count fails its matcher', async () => {
  const matcher = await service.open(await service.compile(schemaSpec({ type: 'string', maxLength: 9 }), 'x'));
  const accepted = [...(await tokenizer.encodeText('"0123456789', { control: false }))];
  assert.deepEqual((await service.step([{ matcher, accepted, drafts: [] }])).failed, [matcher]);
});

// ---------------------------------------------------------------- the end within max_tokens

test('whatever the model writes, a document ends within its tokens where they are enough for the shortest one', async () => {
  let closed = 0;
  await fc.assert(
    fc.asyncProperty(randomSchema, fc.nat(), fc.nat(60), async (schema, seed, more) => {
      const grammar = await service.compile(schemaSpec(schema), 'response_format');
      const guide = new Guide(grammar.source);
      const way = costs.toEnd(guide.recogniser, guide.start);
      const limit = way + 1 + more;
      const ids = await randomCompletion(service, grammar, tokenizer, { random: randomSource(seed), limit, lead: true });
      assert.ok(ids !== undefined && ids.length < limit, `${way} tokens would do, ${limit} were there`);
      const text = decodeTokens(tokenizer, ids);
      assert.ok(validator(schema)(JSON.parse(text)), text);
      closed++;
    }),
    { numRuns: 120, interruptAfterTimeLimit: 60_000 },
  );
  assert.ok(closed >= 60, `${closed} documents were closed`);
});

test('nothing is taken from the model while there is room, where there is too little, or where it could end', async () => {
  const masksOf = async (spec: GrammarSpec, maxTokens: number | undefined, text: string) => {
    const matcher = await service.open(await service.compile(spec, 'x'), maxTokens === undefined ? {} : { maxTokens });
    const accepted = text === '' ? [] : [...(await tokenizer.encodeText(text, { control: true }))];
    const { masks } = await service.step([{ matcher, accepted, drafts: [] }]);
    service.release(matcher);
    return masks;
  };
  const object = schemaSpec({ type: 'object', properties: { a: { type: 'string' } }, required: ['a'] });
  const begun = '{"a": "x';
  const used = (await tokenizer.encodeText(begun, { control: false })).length;
  const free = await masksOf(object, undefined, begun);
  for (const left of [2000, 1]) assert.deepEqual(await masksOf(object, used + left, begun), free);
  const near = allowedTokens(await masksOf(object, used + 3, begun), tokenizer.vocabSize);
  assert.ok(near.length > 0 && near.length < allowedTokens(free, tokenizer.vocabSize).length);
  const digits: GrammarSpec = { kind: 'regex', pattern: '\\d*' };
  assert.deepEqual(await masksOf(digits, 1, ''), await masksOf(digits, undefined, ''));
});

test('a tool call that has begun ends within the tokens', async () => {
  const parameters = { type: 'object', properties: { city: { type: 'string' }, days: { type: 'integer' } }, required: ['days'] };
  const tool = { json: JSON.stringify({ name: 'weather', parameters }) };
  const spec: GrammarSpec = { kind: 'tool-calls', tools: [{ tool, strict: true }], start: 'call', parallel: true };
  const grammar = await service.compile(spec, 'tools');
  for (let seed = 1; seed <= 12; seed++) {
    const options = { random: randomSource(seed), limit: 70, lead: true };
    assert.ok((await randomCompletion(service, grammar, tokenizer, options)) !== undefined);
  }
});

test('masks are those of the text, whatever was written at the same place before', async () => {
  const fresh = new GrammarService({ tokenizer, vocabSize: tokenizer.vocabSize });
  const masksAlong = async (at: GrammarService, spec: GrammarSpec, ids: readonly number[]): Promise<Uint32Array[]> => {
    const matcher = await at.open(await at.compile(spec, 'x'));
    const masks = [];
    for (let i = 0; i <= ids.length; i++) {
      masks.push((await at.step([{ matcher, accepted: ids.slice(Math.max(0, i - 1), i), drafts: [] }])).masks);
    }
    at.release(matcher);
    return masks;
  };
  for (const [i, schema] of fc.sample(randomSchema, { seed: 11, numRuns: 30 }).entries()) {
    const spec = schemaSpec(schema);
    const grammar = await service.compile(spec, 'x');
    const options = { random: randomSource(i), limit: 120 };
    const [, ids = []] = [
      await randomCompletion(service, grammar, tokenizer, options),
      await randomCompletion(service, grammar, tokenizer, options),
    ];
    assert.deepEqual(await masksAlong(service, spec, ids), await masksAlong(fresh, spec, ids));
  }
  await fresh.close();
});
