// SPDX-License-Identifier: MIT
// Following text through grammars: the reader of EBNF, networks, states, shortest ends.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Ajv2020 } from 'ajv/dist/2020.js';
import fc from 'fast-check';
import { readEbnf, UnreadableGrammar } from '../../../../../engine/text/grammar/ebnf-reader.ts';
import { Network } from '../../../../../engine/text/grammar/network.ts';
import { Recogniser } from '../../../../../engine/text/grammar/recogniser.ts';
import { grammarSource } from '../../../../../engine/text/grammar/specs.ts';
import { randomSchema } from './random-schema.ts';

function recogniser(ebnf: string, byteClasses = true): Recogniser {
  return new Recogniser(new Network(readEbnf(ebnf, { byteClasses })));
}

function regexRecogniser(pattern: string): Recogniser {
  const { exact, ebnf } = grammarSource({ kind: 'regex', pattern }, 'x');
  return recogniser(exact ?? ebnf);
}

/** Whether the text is one of the grammar, only the beginning of one, or neither. */
function verdict(grammar: Recogniser, text: string): 'whole' | 'begun' | 'no' {
  const state = grammar.run(grammar.start, Buffer.from(text));
  return state === null ? 'no' : state.complete ? 'whole' : 'begun';
}

function shortest(grammar: Recogniser, text = ''): string | undefined {
  const state = grammar.run(grammar.start, Buffer.from(text));
  const end = state && grammar.shortestEnd(state);
  return end ? Buffer.from(end).toString() : undefined;
}

test('rules, literals, classes, repetitions, comments and assertions are read', () => {
  const grammar = recogniser(`
    # a comment
    root ::= "a\\"\\\\\\n" [b-d\\]] # behind a rule
      ( x | "0" ) {2} end*
    x ::= [^a-z\\x41] (=[0-9])
    end ::= "\\u00e9"? "é"+ "z"{1,} y{2,3}
    y ::= "y"`);
  const head = 'a"\\\n';
  for (const [text, expected] of [
    ['d0', 'begun'],
    [']01', 'whole'],
    ['b?-', 'whole'],
    ['bA', 'no'],
    ['b00éézzyyy', 'whole'],
    ['b00éézzyyyy', 'no'],
    ['b00zyy', 'no'],
  ] as const) {
    assert.equal(verdict(grammar, head + text), expected, text);
  }
});

test('what is not understood, never ends or begins with itself is not followed', () => {
  for (const ebnf of [
    'root ::= "a',
    'root ::= (a',
    'root ::= missing',
    'root ::= "a" )',
    'root ::= "\\q"',
    'root ::= root "a" | "b"',
    'root ::= "x"? other\nother ::= ("y")* root',
    'other ::= "a"',
    'root ::= TagDispatch(("a", b))',
  ]) {
    assert.throws(() => recogniser(ebnf), UnreadableGrammar, ebnf);
  }
  assert.throws(() => recogniser('root ::= [\\u4e00-\\u9fff]', false), UnreadableGrammar);
  assert.equal(shortest(recogniser('root ::= "a" root')), undefined);
});

test('a text fits where the regular expression matches it', () => {
  const patterns = [
    'a{2,4}b?',
    '(ab|a){0,3}c',
    '[^a]{0,2}(b|cc)*',
    'a*a{3}',
    '(a?b?){2}c',
    '(a|b){3,}',
    '(a?b?){9}',
    '(aa|a){1,3}b{0,40}',
  ];
  const text = fc.string({ unit: fc.constantFrom('a', 'b', 'c'), maxLength: 9 });
  for (const pattern of patterns) {
    const grammar = regexRecogniser(pattern);
    const matches = new RegExp(`^(?:${pattern})$`);
    fc.assert(fc.property(text, (sample) => assert.equal(verdict(grammar, sample) === 'whole', matches.test(sample), sample)));
  }
});

test('the way to an end is as short as it can be, and told in advance', () => {
  assert.equal(shortest(regexRecogniser('[x-z]{3,9}(q|rr)')), 'xxxq');
  assert.equal(shortest(regexRecogniser('(abc|d){20,}'), 'dd'), 'd'.repeat(18));
  assert.equal(shortest(recogniser('root ::= "[" (item ("," item)*)? "]"\nitem ::= root | "{}"'), '[[{'), '}]]');
  fc.assert(
    fc.property(randomSchema, (schema) => {
      const source = { kind: 'json-schema', schema: { json: JSON.stringify(schema) }, strict: false } as const;
      const { exact, ebnf } = grammarSource(source, 'x');
      const grammar = recogniser(exact ?? ebnf);
      const text = shortest(grammar) as string;
      assert.equal(Buffer.byteLength(text), grammar.start.least);
      assert.equal(verdict(grammar, text), 'whole');
      assert.ok(new Ajv2020({ strict: false, validateFormats: false }).validate(schema as object, JSON.parse(text)), text);
      for (let i = 0; i < text.length; i++) {
        const rest = shortest(grammar, text.slice(0, i)) as string;
        assert.equal(Buffer.byteLength(rest), Buffer.byteLength(text.slice(i)));
      }
    }),
    { numRuns: 150 },
  );
});

test('thousands of repetitions need no more than one, and states are shared', () => {
  const before = performance.now();
  const grammar = regexRecogniser('[a-z]{1,9000}(,[0-9]{3}){150}');
  const text = 'x'.repeat(9000) + ',123'.repeat(150);
  assert.equal(verdict(grammar, text), 'whole');
  assert.equal(verdict(grammar, `x${text}`), 'no');
  assert.ok(performance.now() - before < 2000);
  const free = recogniser('root ::= "\\"" s\ns ::= "\\"" | [a-z] s');
  const [a, b] = ['"abc', '"xyzxyz'].map((beginning) => free.run(free.start, Buffer.from(beginning)));
  assert.ok(a !== null && a === b);
});

test('a text with very many readings stays followed', () => {
  const grammar = regexRecogniser('(\\w{1,30}\\s?){1,60}');
  assert.equal(verdict(grammar, 'lorem ipsum dolor sit amet'), 'whole');
});
