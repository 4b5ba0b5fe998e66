// SPDX-License-Identifier: MIT

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import fc from 'fast-check';
import { EngineError } from '../../../../../engine/errors.ts';
import { EbnfBuilder } from '../../../../../engine/text/grammar/ebnf.ts';
import { freeText } from '../../../../../engine/text/grammar/free-text.ts';
import { readEbnf } from '../../../../../engine/text/grammar/ebnf-reader.ts';
import { Network } from '../../../../../engine/text/grammar/network.ts';
import { Recogniser } from '../../../../../engine/text/grammar/recogniser.ts';
import { GrammarService } from '../../../../../engine/text/grammar/service.ts';
import { grammarSource } from '../../../../../engine/text/grammar/specs.ts';
import { loadTokenizer, type Tokenizer } from '../../../../../engine/text/tokenizer.ts';
import { demoModel } from '../../../../helpers/project.ts';
import { randomTexts } from './walk.ts';

let tokenizer: Tokenizer;
let service: GrammarService;
before(async () => {
  tokenizer = await loadTokenizer(demoModel);
  service = new GrammarService({ tokenizer, vocabSize: tokenizer.vocabSize });
});
after(() => service.close());

const spec = (tag: unknown) => ({ kind: 'structural-tag', tag: { json: JSON.stringify(tag) } }) as const;

function recogniser(ebnf: string): Recogniser {
  return new Recogniser(new Network(readEbnf(ebnf, { byteClasses: true })));
}

function isWhole(grammar: Recogniser, text: string): boolean {
  return grammar.run(grammar.start, Buffer.from(text))?.complete === true;
}

/** Texts that are whole under the tag, and texts that are not. */
function assertTexts(tag: unknown, whole: readonly string[], others: readonly string[]): void {
  const { exact, ebnf } = grammarSource(spec(tag), 'x');
  const grammar = recogniser(exact ?? ebnf);
  for (const text of whole) assert.ok(isWhole(grammar, text), text);
  for (const text of others) assert.ok(!isWhole(grammar, text), text);
}

const format = (value: object) => ({ type: 'structural_tag', format: value });
const integer = { type: 'json_schema', json_schema: { type: 'integer' } };
const tag = (name: string, content: object = integer) => ({ type: 'tag', begin: `<${name}>`, content, end: `</${name}>` });

test('free text is any without the excluded strings', () => {
  const excluded = ['aab', 'ba', 'é<'];
  const builder = new EbnfBuilder({ exact: true });
  const grammar = recogniser(builder.grammar(freeText(builder, excluded)));
  const text = fc.string({ unit: fc.constantFrom('a', 'b', 'é', '<', 'x', '\n'), maxLength: 10 });
  fc.assert(
    fc.property(text, (sample) =>
      assert.equal(isWhole(grammar, sample), !excluded.some((part) => sample.includes(part)), sample),
    ),
    { numRuns: 500 },
  );
});

test('constants, schemas, expressions, sequences and alternatives are formats', () => {
  assertTexts(format({ type: 'const_string', value: 'yes "!"' }), ['yes "!"'], ['', 'yes']);
  assertTexts(format(integer), ['12'], ['a', '"12"']);
  assertTexts(format({ type: 'regex', pattern: '[ab]{2,30}' }), ['ab', 'b'.repeat(30)], ['a', 'b'.repeat(31)]);
  const elements = [{ type: 'const_string', value: 'n=' }, integer];
  assertTexts(format({ type: 'sequence', elements }), ['n=3'], ['n=', '3']);
  assertTexts(format({ type: 'or', elements }), ['n=', '3'], ['n=3']);
  assertTexts(format({ type: 'any_text' }), ['', 'anything\nat all é'], []);
});

test('any text in a tag goes to its end', () => {
  const think = tag('think', { type: 'any_text' });
  assertTexts(
    format({ type: 'sequence', elements: [think, integer] }),
    ['<think></think>4', '<think>a < b</thin></think>12'],
    ['4', '<think>4', '<think>a</think>b</think>4'],
  );
  const either = { type: 'tag', begin: '(', content: { type: 'any_text' }, end: [')', ' end'] };
  assertTexts(format(either), ['(a)', '(a end'], ['(a', '(a) end']);
});

test('text becomes a tag at a trigger', () => {
  const tags = [tag('one'), tag('two', { type: 'const_string', value: '!' })];
  const triggered = (more: object = {}) => format({ type: 'triggered_tags', triggers: ['<'], tags, ...more });
  assertTexts(
    triggered(),
    ['', 'text', 'a <one>1</one> b <two>!</two>', '<one>1</one><one>2</one>'],
    ['a < b', '<one>x</one>', 'a <three>'],
  );
  assertTexts(triggered({ at_least_one: true }), ['<one>1</one>', '<two>!</two> text <one>1</one>'], ['', 'text <one>1</one>']);
  assertTexts(triggered({ stop_after_first: true }), ['', 'text <one>1</one>'], ['<one>1</one> text']);
  assertTexts(triggered({ at_least_one: true, stop_after_first: true }), ['<one>1</one>'], ['', 'a<one>1</one>']);
});

test('tags stand with a separator between them', () => {
  const separated = (more: object = {}) => format({ type: 'tags_with_separator', tags: [tag('a')], separator: ', ', ...more });
  assertTexts(separated(), ['', '<a>1</a>', '<a>1</a>, <a>2</a>'], ['<a>1</a>, ', '<a>1</a><a>2</a>']);
  assertTexts(separated({ at_least_one: true, stop_after_first: true }), ['<a>1</a>'], ['', '<a>1</a>, <a>2</a>']);
});

test('the older form has structures and triggers', () => {
  const structures = [
    { begin: '<function=f>', schema: { type: 'object', properties: { a: { type: 'integer' } } }, end: '</function>' },
  ];
  assertTexts(
    { type: 'structural_tag', structures, triggers: ['<function='] },
    ['none', 'call <function=f>{"a": 1}</function>.', '<function=f>{}</function><function=f>{}</function>'],
    ['<function=g>{}</function>', '<function=f>{"a": "x"}</function>', '<function=f>'],
  );
});

test('completions under a structural tag keep to it', async () => {
  const object = {
    type: 'json_schema',
    json_schema: { type: 'object', properties: { n: { type: 'integer' } }, required: ['n'] },
  };
  const call = { type: 'tag', begin: '<call>', content: object, end: '</call>' };
  const tags = format({ type: 'triggered_tags', triggers: ['<call'], tags: [call], at_least_one: true });
  const texts = await randomTexts({ service, tokenizer }, spec(tags), { count: 20, limit: 120 });
  assert.ok(texts.length > 5);
  for (const text of texts) {
    const calls = [...text.matchAll(/<call>(.*?)<\/call>/gs)].map(([, body]) => JSON.parse(body as string) as { n: unknown });
    assert.ok(text.startsWith('<call>') && calls.length === text.split('<call').length - 1, text);
    for (const { n } of calls) assert.ok(Number.isInteger(n));
  }
});

test('what makes no sense is refused with its place', () => {
  const triggers = ['<x'];
  for (const [given, reason] of [
    [{ type: 'structural_tag' }, /needs a "format"/],
    [format({ type: 'qwen_xml_parameter', json_schema: {} }), /format: the format "qwen_xml_parameter" is not supported/],
    [format({ type: 'sequence', elements: [] }), /format: "elements" must be an array/],
    [format({ type: 'or', elements: [integer, { type: 'regex' }] }), /format.elements\[1\]: "pattern" is missing/],
    [format({ type: 'triggered_tags', triggers, tags: [tag('a')] }), /"<a>" begins with none of the triggers/],
    [format({ type: 'triggered_tags', triggers: [], tags: [tag('a')] }), /format.triggers must be an array/],
    [format({ type: 'tag', begin: '<', content: { type: 'json_schema', json_schema: { type: 'x' } }, end: '>' }), /unknown type/],
    [
      format({ type: 'triggered_tags', triggers: ['<'.repeat(2000)], tags: [tag('<'.repeat(2000))] }),
      /more than 1000 characters/,
    ],
    ['{', /needs a "format"/],
  ] as const) {
    assert.throws(
      () => grammarSource(spec(given), 'response_format'),
      (error) => error instanceof EngineError && error.details.param === 'response_format' && reason.test(error.message),
      String(reason),
    );
  }
  let deep: object = integer;
  for (let i = 0; i < 40; i++) deep = { type: 'sequence', elements: [deep] };
  assert.throws(() => grammarSource(spec(format(deep)), 'x'), /nested deeper/);
});
