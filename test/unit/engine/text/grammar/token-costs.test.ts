// SPDX-License-Identifier: MIT

import assert from 'node:assert/strict';
import { before, test } from 'node:test';
import fc from 'fast-check';
import { readEbnf } from '../../../../../engine/text/grammar/ebnf-reader.ts';
import { TokenCosts } from '../../../../../engine/text/grammar/guide.ts';
import { Network } from '../../../../../engine/text/grammar/network.ts';
import { Recogniser, type State } from '../../../../../engine/text/grammar/recogniser.ts';
import { grammarSource, type GrammarSpec } from '../../../../../engine/text/grammar/specs.ts';
import { NO_WAY, tokenTable, Vocabulary } from '../../../../../engine/text/grammar/token-costs.ts';
import { loadTokenizer, type Tokenizer } from '../../../../../engine/text/tokenizer.ts';
import { demoModel } from '../../../../helpers/project.ts';
import { randomSchema } from './random-schema.ts';
import { allowedTokens, randomSource, textTokens } from './walk.ts';

let tokenizer: Tokenizer;
let vocabulary: Vocabulary;
let costs: TokenCosts;
before(async () => {
  tokenizer = await loadTokenizer(demoModel);
  vocabulary = new Vocabulary(textTokens(tokenizer));
  costs = new TokenCosts(vocabulary, tokenizer.vocabSize, tokenizer.eosToken);
});

function recogniser(spec: GrammarSpec): Recogniser {
  const { exact, ebnf } = grammarSource(spec, 'x');
  return new Recogniser(new Network(readEbnf(exact ?? ebnf, { byteClasses: true })));
}

/** What following each token by itself gives. */
function oneByOne(grammar: Recogniser, state: State): Map<number, State> {
  const ends = new Map<number, State>();
  for (let id = 0; id < tokenizer.vocabSize; id++) {
    const end = costs.behind(grammar, state, id);
    if (end !== null) ends.set(id, end);
  }
  return ends;
}

function assertFollowed(grammar: Recogniser, state: State): void {
  const expected = oneByOne(grammar, state);
  const followed = new Map<number, State>();
  vocabulary.follow(grammar, state, (token, end) => followed.set(token, end));
  assert.deepEqual([...followed.keys()].sort(), [...expected.keys()].sort());
  for (const [token, end] of followed) assert.equal(end, expected.get(token));
  const fitting = allowedTokens(costs.fitting(grammar, state), tokenizer.vocabSize);
  assert.deepEqual(new Set(fitting), new Set([...expected.keys(), ...(state.complete ? [tokenizer.eosToken] : [])]));
  const behind = costs.behindAll(grammar, state);
  for (const [token, end] of expected) assert.equal(behind[token], costs.toEnd(grammar, end));
  assert.equal(behind.filter((way) => way !== NO_WAY).length, expected.size);
}

test('all tokens at once lead where each does by itself', () => {
  const specs: GrammarSpec[] = [
    ...['[^a]{3,20}', '\\\\w*x', '.{0,9}', '[\\u4e00-\\u9fff]{2}|abc', '[ -~]{1,70}é'].map(
      (pattern) => ({ kind: 'regex', pattern }) as const,
    ),
    ...fc
      .sample(randomSchema, { seed: 3, numRuns: 25 })
      .map((schema) => ({ kind: 'json-schema', schema: { json: JSON.stringify(schema) }, strict: false }) as const),
  ];
  for (const [i, spec] of specs.entries()) {
    const grammar = recogniser(spec);
    const random = randomSource(i + 1);
    let state: State | undefined = grammar.start;
    for (let step = 0; step < 6 && state !== undefined; step++) {
      assertFollowed(grammar, state);
      const ends: State[] = [...oneByOne(grammar, state).values()];
      state = ends[random(ends.length)];
    }
  }
});

test('the tokens of a text are counted longest first', () => {
  const table = tokenTable(['a', 'ab', 'abc', 'd', ''].map((text) => Buffer.from(text)));
  const small = new Vocabulary(table);
  assert.equal(small.tokenCount(Buffer.from('abcdab')), 3);
  assert.equal(small.tokenCount(Buffer.from('')), 0);
  assert.equal(small.tokenCount(Buffer.from('ax')), NO_WAY);
});
