// SPDX-License-Identifier: MIT

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import fc from 'fast-check';
import { EngineError } from '../../../../../engine/errors.ts';
import { DSML, THINK_CLOSE } from '../../../../../engine/text/chat-constants.ts';
import { ContentParser } from '../../../../../engine/text/content-parser.ts';
import { decodeTokens, Detokenizer } from '../../../../../engine/text/detokenizer.ts';
import { forcedCall } from '../../../../../engine/text/dsml.ts';
import { GrammarService } from '../../../../../engine/text/grammar/service.ts';
import type { GrammarSpec } from '../../../../../engine/text/grammar/specs.ts';
import { loadTokenizer, type Tokenizer } from '../../../../../engine/text/tokenizer.ts';
import { demoModel } from '../../../../helpers/project.ts';
import { randomSchema } from './random-schema.ts';
import { schemaSpec, validator } from './schemas.ts';
import { allowedTokens, randomCompletion, randomSource, randomTexts } from './walk.ts';

let tokenizer: Tokenizer;
let service: GrammarService;
before(async () => {
  tokenizer = await loadTokenizer(demoModel);
  service = new GrammarService({ tokenizer, vocabSize: tokenizer.vocabSize });
});
after(() => service.close());

const texts = (spec: GrammarSpec, count: number, limit?: number): Promise<string[]> =>
  randomTexts({ service, tokenizer }, spec, { count, limit });

async function refused(spec: GrammarSpec, reason: RegExp): Promise<void> {
  await assert.rejects(service.compile(spec, 'response_format'), (error) => {
    assert.ok(error instanceof EngineError && error.code === 'INVALID_REQUEST', String(error));
    assert.equal(error.details.param, 'response_format');
    assert.match(error.message, reason);
    return true;
  });
}

// ---------------------------------------------------------------- documents

test('whatever ends under a random schema is valid', async () => {
  let ended = 0;
  await fc.assert(
    fc.asyncProperty(randomSchema, fc.nat(), async (schema, seed) => {
      const grammar = await service.compile(schemaSpec(schema), 'response_format');
      const ids = await randomCompletion(service, grammar, tokenizer, { random: randomSource(seed), limit: 400 });
      if (ids === undefined) return;
      ended++;
      const text = decodeTokens(tokenizer, ids);
      const validate = validator(schema);
      assert.ok(validate(JSON.parse(text)), `${text} ${JSON.stringify(validate.errors)}`);
    }),
    { numRuns: 100, interruptAfterTimeLimit: 60_000 },
  );
  assert.ok(ended >= 60, `${ended} completions ended`);
});

test('a JSON object is one', async () => {
  const results = await texts({ kind: 'json-object' }, 20);
  assert.ok(results.length >= 10);
  for (const text of results) assert.ok(typeof JSON.parse(text) === 'object' && text.startsWith('{'), text);
});

test('a recursive schema gives nested documents', async () => {
  const schema = {
    type: 'object',
    properties: { v: { type: 'integer' }, next: { $ref: '#' } },
    required: ['v'],
    additionalProperties: false,
  };
  const results = await texts(schemaSpec(schema), 10);
  assert.ok(results.length > 0);
  const validate = validator(schema);
  for (const text of results) assert.ok(validate(JSON.parse(text)), text);
});

test('keywords beside anyOf, allOf and references are all met', async () => {
  const schema = {
    $defs: { base: { type: 'object', properties: { a: { type: 'integer' } }, required: ['a'] } },
    allOf: [{ $ref: '#/$defs/base' }, { properties: { b: { type: 'string', maxLength: 3 } } }],
    anyOf: [{ required: ['b'] }, { properties: { c: { const: 1 } }, required: ['c'] }],
  };
  const results = await texts(schemaSpec(schema), 12);
  assert.ok(results.length > 3);
  const validate = validator(schema);
  for (const text of results) assert.ok(validate(JSON.parse(text)), text);
});

test('an integer-like key keeps its place, and a number its spelling', async () => {
  const properties = '{"b":{"const":1.0},"10":{"const":12345678901234567890},"2":{"type":"null"}}';
  const json = `{"type":"object","properties":${properties},"required":["b","10","2"]}`;
  const results = await texts({ kind: 'json-schema', schema: { json }, strict: true }, 5);
  for (const text of results) assert.match(text, /"b":\s*1\.0,\s*"10":\s*12345678901234567890\s*,\s*"2":\s*null/);
});

test('a regular expression is matched from end to end', async () => {
  for (const pattern of [
    '(foo|ba[rz])+\\d{2,4}',
    '[^a-z\\s]{3}',
    'a.c?',
    '(?:x|yy){2,3}z*',
    '[\\w.+-]+@\\w+\\.com',
    '\\u4f60[\\u4e00-\\u4e10]',
    '(\\w{1,4}\\s?){1,30}\\d',
    '((ab?)*c|d+){3}',
  ]) {
    const results = await texts({ kind: 'regex', pattern }, 6, 200);
    for (const text of results) assert.match(text, new RegExp(`^(?:${pattern})$`, 'u'));
  }
});

test('a choice is one of the texts', async () => {
  const choices = ['yes', 'no', 'ja "wohl"\n', '你好'];
  for (const text of await texts({ kind: 'choice', choices }, 8)) assert.ok(choices.includes(text), text);
});

test('EBNF is used as it is given', async () => {
  for (const text of await texts({ kind: 'ebnf', grammar: 'root ::= "a" b+\nb ::= [0-3]' }, 5, 50))
    assert.match(text, /^a[0-3]+$/);
});

// ---------------------------------------------------------------- tool calls

const weather = {
  json: JSON.stringify({
    name: 'weather',
    parameters: {
      type: 'object',
      properties: {
        city: { type: 'string', maxLength: 12 },
        days: { type: 'integer', minimum: 1, maximum: 9 },
        unit: { enum: ['c', 'f'] },
        tags: { type: 'array', items: { type: 'string', maxLength: 4 }, maxItems: 2 },
      },
      required: ['city', 'days'],
      additionalProperties: false,
    },
  }),
};
const ping = { json: '{"name":"ping"}' };

test('forced calls are well formed, and their arguments valid for the schema', async () => {
  const validate = validator((JSON.parse(weather.json) as { parameters: object }).parameters);
  const rules = [weather, ping].map((tool) => ({ tool, strict: true }));
  let calls = 0;
  for (const start of ['block', 'call'] as const) {
    const grammar = await service.compile({ kind: 'tool-calls', tools: rules, start, parallel: true }, 'tools');
    for (let seed = 1; seed <= 8; seed++) {
      const ids = await randomCompletion(service, grammar, tokenizer, { random: randomSource(seed), limit: 400 });
      if (ids === undefined) continue;
      const parser = new ContentParser({ start: 'tool-calls', tools: [weather, ping] });
      const detokenizer = new Detokenizer(tokenizer);
      const events = parser.force(forcedCall(start === 'call' ? 'weather' : undefined));
      for (const id of ids) events.push(...parser.push(detokenizer.push(id)));
      const end = parser.finish(true);
      events.push(...end.events);
      const names = events.flatMap((event) => (event.kind === 'tool-call' ? [event.name] : []));
      assert.ok(events.every(({ kind }) => kind.startsWith('tool-')));
      assert.equal(end.finishedCalls, names.length);
      names.forEach((name, index) => {
        const text = events.map((event) => (event.kind === 'tool-arguments' && event.index === index ? event.text : '')).join('');
        assert.ok(name === 'ping' ? text === '{}' : validate(JSON.parse(text)), text);
        calls++;
      });
    }
  }
  assert.ok(calls >= 4, `${calls} calls`);
});

test('without a forced call text is free until a block begins', async () => {
  const spec: GrammarSpec = { kind: 'tool-calls', tools: [{ tool: weather, strict: true }], start: 'text', parallel: false };
  const matcher = await service.open(await service.compile(spec, 'tools'));
  const encode = async (text: string) => [...(await tokenizer.encodeText(text, { control: true }))];
  const allowed = async (text: string) => {
    const { masks, failed } = await service.step([{ matcher, accepted: await encode(text), drafts: [] }]);
    assert.deepEqual(failed, []);
    return allowedTokens(masks, tokenizer.vocabSize);
  };
  assert.ok((await allowed('Let me see.\n\n')).includes(tokenizer.eosToken));
  assert.ok((await allowed('<')).includes(tokenizer.controlId(DSML)));
  assert.ok(!(await allowed(`${DSML}tool_calls>\n<${DSML}invoke name="weather">\n`)).includes(tokenizer.eosToken));
  assert.deepEqual(
    (await service.step([{ matcher, accepted: await encode(`<${DSML}invoke name="other">`), drafts: [] }])).failed,
    [matcher],
  );
});

test('an answer with a grammar and calls of tools exclude each other', async () => {
  const answer = { kind: 'json-object' } as const;
  const tools = [{ tool: weather, strict: false }];
  const grammar = await service.compile({ kind: 'tool-calls', tools, start: 'text', parallel: true, answer }, 'tools');
  const accepts = async (text: string) => {
    const matcher = await service.open(grammar);
    const accepted = [...(await tokenizer.encodeText(text, { control: true }))];
    const { failed, masks } = await service.step([{ matcher, accepted, drafts: [] }]);
    service.release(matcher);
    return failed.length === 0 && allowedTokens(masks, tokenizer.vocabSize).includes(tokenizer.eosToken);
  };
  const call = `<${DSML}invoke name="weather">\n<${DSML}parameter name="city" string="true">Oslo</${DSML}parameter>\n`;
  const days = `<${DSML}parameter name="days" string="false">3</${DSML}parameter>\n`;
  assert.equal(await accepts('{"a": [1, "<"]}'), true);
  assert.equal(await accepts(`\n\n<${DSML}tool_calls>\n${call}${days}</${DSML}invoke>\n</${DSML}tool_calls>`), true);
  assert.equal(await accepts('Hello'), false);
  assert.equal(await accepts(`{}\n\n<${DSML}tool_calls>\n`), false);
});

test('parameters are free where no grammar can be made of the schema, unless the tool is strict', async () => {
  const tool = { json: '{"name":"odd","parameters":{"type":"object","properties":{"a":{"type":"string","pattern":"(?!x)y"}}}}' };
  const spec = (strict: boolean) => ({ kind: 'tool-calls', tools: [{ tool, strict }], start: 'call', parallel: false }) as const;
  await refused(spec(true), /look-ahead/);
  const matcher = await service.open(await service.compile(spec(false), 'tools'));
  const text =
    `<${DSML}parameter name="b c" string="true">any "text"\n</${DSML}parameter>\n` +
    `<${DSML}parameter name="n" string="false">[1, {"x": null}]</${DSML}parameter>\n</${DSML}invoke>\n</${DSML}tool_calls>`;
  const accepted = [...(await tokenizer.encodeText(text, { control: true })), tokenizer.eosToken];
  assert.deepEqual((await service.step([{ matcher, accepted, drafts: [] }])).failed, []);
});

test('matchers outlive their grammar in the cache', async () => {
  const tiny = new GrammarService({ tokenizer, vocabSize: tokenizer.vocabSize, cacheEntries: 1 });
  const open = async (text: string) => tiny.open(await tiny.compile({ kind: 'choice', choices: [text] }, 'x'));
  const first = await open('abc');
  const reference = await tiny.step([{ matcher: first, accepted: [], drafts: [] }]);
  for (const text of ['d', 'e', 'f', 'g']) await open(text);
  assert.deepEqual(await tiny.step([{ matcher: first, accepted: [], drafts: [] }]), reference);
  await tiny.close();
});

test('only grammars for calls ever allow the DSML token, and no grammar another control token', async () => {
  for (const spec of [
    { kind: 'json-object' },
    { kind: 'regex', pattern: '[^]*' },
    { kind: 'ebnf', grammar: 'root ::= [\\x00-\\U0010ffff]*' },
  ] as const) {
    const matcher = await service.open(await service.compile(spec, 'response_format'));
    const { masks } = await service.step([{ matcher, accepted: [], drafts: [] }]);
    const controls = allowedTokens(masks, tokenizer.vocabSize).filter(
      (id) => tokenizer.isControl(id) && id !== tokenizer.eosToken,
    );
    assert.deepEqual(controls, []);
  }
});

// ---------------------------------------------------------------- masks over drafts

test('masks with drafts are those of stepping one by one, and drafts leave no trace', async () => {
  const grammar = await service.compile(
    schemaSpec({ type: 'array', items: { enum: ['ab', 1, null] }, minItems: 2, maxItems: 5 }),
    'x',
  );
  const words = Math.ceil(tokenizer.vocabSize / 32);
  for (let seed = 1; seed <= 10; seed++) {
    const ids = await randomCompletion(service, grammar, tokenizer, { random: randomSource(seed), limit: 100 });
    assert.ok(ids !== undefined);
    const [drafted, plain] = [await service.open(grammar), await service.open(grammar)];
    for (let at = 0; at + 3 <= ids.length; at++) {
      const accepted = at === 0 ? [] : [ids[at - 1] as number];
      const { masks } = await service.step([{ matcher: drafted, accepted, drafts: ids.slice(at, at + 3) }]);
      const single = await service.step([{ matcher: plain, accepted, drafts: [] }]);
      assert.deepEqual(masks.subarray(0, words), single.masks);
      const probe = await service.open(grammar);
      const prefix = await service.step([{ matcher: probe, accepted: ids.slice(0, at + 2), drafts: [] }]);
      assert.deepEqual(masks.subarray(2 * words, 3 * words), prefix.masks);
      service.release(probe);
    }
    service.release(drafted);
    service.release(plain);
  }
});

test('behind a draft that does not fit, everything is allowed: it cannot be accepted', async () => {
  const matcher = await service.open(await service.compile({ kind: 'choice', choices: ['abc'] }, 'x'));
  const [bad] = await tokenizer.encodeText('z', { control: false });
  const { masks, failed } = await service.step([{ matcher, accepted: [], drafts: [bad as number, bad as number] }]);
  const words = masks.length / 3;
  assert.deepEqual(failed, []);
  assert.ok(!allowedTokens(masks.subarray(0, words), tokenizer.vocabSize).includes(bad as number));
  assert.ok(masks.subarray(words).every((word) => word === 0xffffffff));
});

test('a grammar begins behind its trigger, in the middle of a step too, and behind forced tokens', async () => {
  const trigger = tokenizer.controlId(THINK_CLOSE);
  const grammar = await service.compile({ kind: 'choice', choices: ['abc'] }, 'x');
  const encode = async (text: string) => [...(await tokenizer.encodeText(text, { control: true }))];
  const forced = await encode('\n\nforced');
  const matcher = await service.open(grammar, { trigger, skip: forced.length });
  const words = Math.ceil(tokenizer.vocabSize / 32);
  const drafts = [...(await encode('so')), trigger, ...forced];
  const { masks } = await service.step([{ matcher, accepted: await encode('I think abc'), drafts }]);
  const rows = drafts.map((_, i) => masks.subarray((i + 1) * words, (i + 2) * words));
  const eos = tokenizer.eosToken;
  const freed = (row: Uint32Array) => row.map((word, i) => (i === eos >> 5 ? word | (1 << (eos & 31)) : word));
  assert.ok(rows.slice(0, -1).every((row) => freed(row).every((word) => word === 0xffffffff)));
  // While the model reasons it may write anything, but not end: there would be no answer.
  const thinking = rows.slice(0, -1 - forced.length);
  assert.ok(thinking.length > 0 && thinking.every((row) => !allowedTokens(row, tokenizer.vocabSize).includes(eos)));
  const last = allowedTokens(rows.at(-1) as Uint32Array, tokenizer.vocabSize);
  assert.ok(last.length > 0 && last.every((id) => 'abc'.startsWith(Buffer.from(tokenizer.tokenBytes(id)).toString())));
  const start = await service.step([{ matcher, accepted: [trigger, ...forced], drafts: [] }]);
  assert.deepEqual(allowedTokens(start.masks, tokenizer.vocabSize), last);
});

test('tokens that do not fit mark their matcher as failed, and only that one', async () => {
  const grammar = await service.compile({ kind: 'choice', choices: ['abc'] }, 'x');
  const [good, bad] = [await service.open(grammar), await service.open(grammar)];
  const [z] = await tokenizer.encodeText('z', { control: false });
  const { failed, masks } = await service.step([
    { matcher: bad, accepted: [z as number], drafts: [] },
    { matcher: good, accepted: [], drafts: [] },
  ]);
  assert.deepEqual(failed, [bad]);
  assert.ok(allowedTokens(masks.subarray(masks.length / 2), tokenizer.vocabSize).length < 10);
});

// ---------------------------------------------------------------- hostile input

test('a step that breaks costs its own rows, not the matchers of others', async () => {
  const grammar = await service.compile({ kind: 'choice', choices: ['yes', 'no'] }, 'x');
  const [broken, other] = [await service.open(grammar), await service.open(grammar)];
  const step = await service.step([{ matcher: broken, accepted: null as unknown as number[], drafts: [] }]);
  assert.deepEqual(step.failed, [broken]);
  assert.ok(step.masks.every((word) => word === 0xffffffff));
  assert.deepEqual((await service.step([{ matcher: other, accepted: [], drafts: [] }])).failed, []);
});

test('what a grammar cannot be made of is refused with the reason', async () => {
  await refused(schemaSpec({ type: 'hiccup' }), /#: unknown type "hiccup"/);
  await refused(
    schemaSpec({ type: 'object', properties: { a: { type: ['string', 'int'] } } }),
    /#\/properties\/a: unknown type "int"/,
  );
  await refused(schemaSpec(false), /nothing is valid/);
  await refused(schemaSpec({ enum: [] }), /enum is empty/);
  await refused(schemaSpec({ type: 'string', minLength: 5, maxLength: 2 }), /minLength/);
  await refused(schemaSpec({ type: 'integer', minimum: 5, maximum: 4 }), /empty/);
  await refused(schemaSpec({ type: 'string', pattern: '(' }), /not a regular expression/);
  await refused(schemaSpec({ type: 'string', pattern: '(?=a)b' }), /look-ahead/);
  await refused(schemaSpec({ $ref: 'https://example.com/x.json' }), /cannot resolve/);
  await refused(schemaSpec({ $ref: '#' }), /allows nothing/);
  await refused({ kind: 'json-schema', schema: { json: '{"type":' }, strict: false }, /not JSON/);
  await refused({ kind: 'json-schema', schema: { json: '3' }, strict: false }, /must be an object or a boolean/);
  await refused({ kind: 'regex', pattern: '(a)\\1' }, /back-reference/);
  await refused({ kind: 'choice', choices: [] }, /at least one/);
  await refused({ kind: 'tool-calls', tools: [], start: 'text', parallel: true }, /needs tools/);
});

test('a strict schema is refused where a keyword cannot be enforced; another is not', async () => {
  for (const keyword of [{ multipleOf: 2 }, { not: { const: 3 } }, { maximum: 5, if: { const: 1 } }]) {
    const schema = { type: 'integer', ...keyword };
    await refused(schemaSpec(schema, true), /not supported in a strict schema/);
    await service.compile(schemaSpec(schema), 'response_format');
  }
  await refused(schemaSpec({ type: 'string', minLength: 20_000 }, true), /minLength 20000 is more than 10000/);
  await refused(schemaSpec({ type: 'string', maxLength: 1.5 }), /whole number/);
});

test('lengths beside a pattern are kept, or refused where the schema is strict', async () => {
  for (const [pattern, lengths] of [
    ['^[a-z_]+$', { minLength: 3, maxLength: 5 }],
    ['^\\d{2,}$', { maxLength: 4 }],
    ['^.*$', { minLength: 2, maxLength: 2 }],
    ['^(ab|c){1,3}$', { maxLength: 6 }],
  ] as const) {
    const schema = { type: 'string', pattern, ...lengths };
    for (const text of await texts(schemaSpec(schema, true), 6, 60)) assert.ok(validator(schema)(JSON.parse(text)), text);
  }
  const both = { type: 'string', pattern: '^(ab|c)+$', maxLength: 6 };
  await refused(schemaSpec(both, true), /a pattern with lengths is not supported in a strict schema/);
  await service.compile(schemaSpec(both), 'response_format');
  await refused(schemaSpec({ type: 'string', pattern: '^a{4}$', maxLength: 3 }), /no text matches "\^a\{4\}\$" and has 0 to 3/);
});

test('deep, wide and long schemas are refused or compiled, never a crash', async () => {
  const deep = '{"type":"array","items":'.repeat(1000) + '{}' + '}'.repeat(1000);
  await refused({ kind: 'json-schema', schema: { json: deep }, strict: false }, /nest/);
  const mutual = {
    $defs: { a: { anyOf: [{ $ref: '#/$defs/b' }, { type: 'null' }] }, b: { type: 'array', items: { $ref: '#/$defs/a' } } },
    $ref: '#/$defs/a',
  };
  await service.compile(schemaSpec(mutual), 'response_format');
  await refused(schemaSpec({ enum: Array.from({ length: 3000 }, (_, i) => i) }), /more than 2000/);
  await refused(schemaSpec({ type: 'string', description: 'x'.repeat(300_000) }), /larger than/);
  await refused({ kind: 'ebnf', grammar: 'x'.repeat(300_000) }, /larger than/);
});

test('a grammar that aborts the compiler, or takes too long, is refused; matchers of others go on', async () => {
  const bystander = await service.open(await service.compile({ kind: 'choice', choices: ['abc'] }, 'x'));
  const before = await service.step([{ matcher: bystander, accepted: [], drafts: [] }]);
  await refused({ kind: 'ebnf', grammar: 'root ::= foo' }, /Rule "foo" is not defined/);
  await refused({ kind: 'ebnf', grammar: 'root ::= "a' }, /Expect " in string literal/);
  for (const depth of [1000, 5000, 100_000]) {
    await refused({ kind: 'ebnf', grammar: `root ::= ${'('.repeat(depth)}"a"${')'.repeat(depth)}` }, /nest it less deeply/);
  }
  const delay = monitorEventLoopDelay({ resolution: 1 });
  delay.enable();
  const start = performance.now();
  await refused({ kind: 'ebnf', grammar: `root ::= ${'[a-z]{0,2000} '.repeat(50)}` }, /longer than 3000 ms/);
  delay.disable();
  assert.ok(performance.now() - start < 8000);
  assert.ok(delay.percentile(99) < 50e6);
  const again = performance.now();
  await refused({ kind: 'ebnf', grammar: `root ::= ${'[a-z]{0,2000} '.repeat(50)}` }, /longer than 3000 ms/);
  assert.ok(performance.now() - again < 500, 'a refusal is remembered');
  await service.compile({ kind: 'ebnf', grammar: 'root ::= "fresh" [0-9]' }, 'x');
  const behind = await service.step([{ matcher: bystander, accepted: [], drafts: [] }]);
  assert.deepEqual([behind.failed, behind.masks], [[], before.masks]);
});

/** Texts of it can be read in thousands of ways. */
const AMBIGUOUS = '([a-z ]{0,20} [a-z ]{0,20} "."?){1,40}';

test('a grammar whose masks take too long is refused', async () => {
  await refused({ kind: 'ebnf', grammar: `root ::= ${AMBIGUOUS}` }, /finding out what fits takes too long|longer than 3000 ms/);
});

test('where masks become slow only later, the completion fails, and others go on', async () => {
  const slow = await service.open(await service.compile({ kind: 'ebnf', grammar: `root ::= "0"{100} ${AMBIGUOUS}` }, 'x'));
  const other = await service.open(await service.compile({ kind: 'ebnf', grammar: 'root ::= [a-z]*' }, 'x'));
  let accepted = [...(await tokenizer.encodeText('0'.repeat(100), { control: false }))];
  const words = await tokenizer.encodeText('the little cat went to the garden and the little dog went home', { control: false });
  const failed = [];
  for (const word of words) {
    const step = await service.step([
      { matcher: slow, accepted, drafts: [] },
      { matcher: other, accepted: [], drafts: [] },
    ]);
    failed.push(...step.failed);
    if (failed.length > 0) break;
    accepted = [word];
  }
  assert.deepEqual(failed, [slow]);
});

test('grammars beyond the queue are refused', async () => {
  const small = new GrammarService({ tokenizer, vocabSize: tokenizer.vocabSize, maxQueued: 1 });
  const first = small.compile({ kind: 'choice', choices: ['a'] }, 'x');
  await assert.rejects(small.compile({ kind: 'choice', choices: ['b'] }, 'x'), /too many grammars/);
  await first;
  await small.close();
});

test('masks cover the rows of the model beyond the vocabulary, which are never allowed', async () => {
  const padded = new GrammarService({ tokenizer, vocabSize: tokenizer.vocabSize + 100 });
  const matcher = await padded.open(await padded.compile({ kind: 'ebnf', grammar: 'root ::= [a-z]*' }, 'x'));
  const { masks } = await padded.step([{ matcher, accepted: [], drafts: [] }]);
  assert.equal(masks.length, Math.ceil((tokenizer.vocabSize + 100) / 32));
  assert.ok(allowedTokens(masks, tokenizer.vocabSize + 100).every((id) => id < tokenizer.vocabSize));
  await padded.close();
});
