// SPDX-License-Identifier: MIT

import assert from 'node:assert/strict';
import { before, test } from 'node:test';
import fc from 'fast-check';
import { character, complement, intersect, JSON_PLAIN, TEXT, type Range } from '../../../../../engine/text/grammar/characters.ts';
import { integerExpression, numberExpression } from '../../../../../engine/text/grammar/numbers.ts';
import { alphabetText } from '../../../../../engine/text/byte-alphabet.ts';
import { loadXGrammar, type GrammarCompiler, type XGrammar } from '../../../../../engine/text/grammar/xgrammar.ts';

const STOP = 256;
let library: XGrammar;
let compiler: GrammarCompiler;
/** One token for each byte, so that grammars can be asked byte by byte. */
before(async () => {
  library = loadXGrammar();
  const vocabulary = Array.from({ length: 257 }, (_, byte) => (byte === STOP ? '' : alphabetText(Uint8Array.of(byte))));
  const info = await library.TokenizerInfo.createTokenizerInfo(vocabulary, 'byte_level', false, 257, [STOP]);
  compiler = await library.GrammarCompiler.createGrammarCompiler(info, false);
});

type Accepts = (input: string | Uint8Array) => Promise<boolean>;

async function language(expression: string): Promise<Accepts> {
  const grammar = await compiler.compileGrammar(`root ::= ${expression}\n`);
  return async (input) => {
    const matcher = await library.GrammarMatcher.createGrammarMatcher(grammar);
    const tokens = [...(typeof input === 'string' ? Buffer.from(input) : input), STOP];
    const accepted = tokens.every((token) => matcher.acceptToken(token));
    matcher.dispose();
    return accepted;
  };
}

const codePoint = fc.oneof(
  fc.integer({ min: 0x20, max: 0x7e }),
  fc.integer({ min: 0x80, max: 0xd7ff }),
  fc.integer({ min: 0xe000, max: 0x10ffff }),
  fc.constantFrom(0x7f, 0x80, 0x7ff, 0x800, 0xd7ff, 0xe000, 0xffff, 0x10000, 0x10ffff),
);

test('a set of characters matches exactly its members', async () => {
  const range = fc.tuple(codePoint, codePoint).map(([a, b]): Range => [Math.min(a, b), Math.max(a, b)]);
  await fc.assert(
    fc.asyncProperty(
      fc.array(range, { minLength: 1, maxLength: 3 }),
      fc.array(codePoint, { minLength: 5 }),
      async (ranges, probes) => {
        const accepts = await language(character(ranges) ?? '"none"');
        const edges = ranges.flatMap(([first, last]) => [first - 1, first, last, last + 1]);
        for (const probe of [...probes, ...edges]) {
          if (probe < 0x20 || probe > 0x10ffff || (probe >= 0xd800 && probe <= 0xdfff)) continue;
          const inside = ranges.some(([first, last]) => first <= probe && probe <= last);
          assert.equal(
            await accepts(String.fromCodePoint(probe)),
            inside,
            `U+${probe.toString(16)} in ${JSON.stringify(ranges)}`,
          );
        }
      },
    ),
    { numRuns: 60 },
  );
});

test('broken UTF-8 is never matched', async () => {
  const accepts = await language(character(TEXT) as string);
  for (const bytes of [
    [0x80],
    [0xc0, 0x80],
    [0xc3],
    [0xe0, 0x80, 0x80],
    [0xed, 0xa0, 0x80],
    [0xf0, 0x80, 0x80, 0x80],
    [0xf4, 0x90, 0x80, 0x80],
    [0xff],
  ]) {
    assert.equal(await accepts(Uint8Array.from(bytes)), false, bytes.join(' '));
  }
  assert.equal(await accepts('你'), true);
});

test('JSON strings take every character without an escape but quotes, backslashes and control characters', async () => {
  const accepts = await language(character(JSON_PLAIN) as string);
  for (const char of ['"', '\\', '\n', '\u0001', '\u001b']) assert.equal(await accepts(char), false);
  for (const char of ['a', ' ', '/', 'é', '\u2028', '🙂']) assert.equal(await accepts(char), true);
});

test('complement and intersection are those of sets', () => {
  const small = fc.array(
    fc.tuple(fc.integer({ min: 0, max: 30 }), fc.nat(6)).map(([first, width]): Range => [first, first + width]),
    { maxLength: 4 },
  );
  const has = (ranges: readonly Range[], value: number) => ranges.some(([first, last]) => first <= value && value <= last);
  fc.assert(
    fc.property(small, small, (a, b) => {
      for (let value = 0; value < 45; value++) {
        assert.equal(has(complement(a), value), !has(a, value));
        assert.equal(has(intersect(a, b), value), has(a, value) && has(b, value));
      }
    }),
  );
});

test('a range of integers matches exactly its members', async () => {
  await fc.assert(
    fc.asyncProperty(fc.integer({ min: -2000, max: 2000 }), fc.nat(2500), async (minimum, width) => {
      const maximum = minimum + width;
      const accepts = await language(integerExpression({ minimum, maximum }));
      for (const probe of [
        minimum - 1,
        minimum,
        minimum + 1,
        maximum - 1,
        maximum,
        maximum + 1,
        0,
        -1,
        1,
        9,
        10,
        99,
        100,
        -99,
        -100,
        999,
        1000,
      ]) {
        assert.equal(await accepts(String(probe)), minimum <= probe && probe <= maximum, `${probe} in ${minimum}..${maximum}`);
      }
      assert.equal(await accepts('007'), false);
    }),
    { numRuns: 60 },
  );
});

test('half-open ranges of integers have no other end', async () => {
  const positive = await language(integerExpression({ exclusiveMinimum: 41.5 }));
  for (const [text, inside] of [
    ['41', false],
    ['42', true],
    ['1000000', true],
    ['-42', false],
  ] as const) {
    assert.equal(await positive(text), inside, text);
  }
  const negative = await language(integerExpression({ maximum: -7 }));
  for (const [text, inside] of [
    ['-6', false],
    ['-7', true],
    ['-70000', true],
    ['0', false],
  ] as const) {
    assert.equal(await negative(text), inside, text);
  }
});

test('every number under bounds is inside them', async () => {
  const probe = fc
    .tuple(fc.integer({ min: -60, max: 60 }), fc.constantFrom('', '.5', '.0', '.999', 'e-1', 'e-2'))
    .map((parts) => parts.join(''));
  await fc.assert(
    fc.asyncProperty(
      fc.double({ min: -50, max: 50, noNaN: true }),
      fc.double({ min: 0.02, max: 20, noNaN: true }),
      fc.array(probe, { minLength: 30, maxLength: 30 }),
      async (minimum, width, probes) => {
        const maximum = minimum + width;
        const accepts = await language(numberExpression({ minimum, maximum }));
        for (const text of probes) {
          if (await accepts(text))
            assert.ok(minimum <= Number(text) && Number(text) <= maximum, `${text} in ${minimum}..${maximum}`);
        }
        if (width >= 1) assert.ok(await accepts(String(Math.ceil(minimum))));
      },
    ),
    { numRuns: 60 },
  );
});
