// SPDX-License-Identifier: MIT

import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { DSML, EOS, THINK_CLOSE, THINK_OPEN } from '../../../../engine/text/chat-constants.ts';
import type { ContentEvent } from '../../../../engine/text/content-events.ts';
import { ContentParser, type ParserOptions } from '../../../../engine/text/content-parser.ts';
import { forcedCall, renderToolCalls } from '../../../../engine/text/dsml.ts';
import { SegmentBuilder, segmentsText, TEMPLATE_SPLITTER, type Segment } from '../../../../engine/text/segment.ts';
import { readVectors } from './vectors.ts';

interface Outcome {
  reasoning: string;
  answer: string;
  calls: { name: string; arguments: string }[];
  finishedCalls: number;
  reasoningIsAnswer: boolean;
  /** Kinds in order, repetitions removed. */
  order: string[];
}

/** Feeds `pushes` and checks the protocol of the events on the way. */
function run(pushes: readonly (readonly Segment[])[], options: ParserOptions, complete = true): Outcome {
  const parser = new ContentParser(options);
  const events: ContentEvent[] = options.start === 'tool-calls' ? parser.force(forcedCall()) : [];
  for (const segments of pushes) events.push(...parser.push(segments));
  const end = parser.finish(complete);
  events.push(...end.events);
  const { finishedCalls, reasoningIsAnswer } = end;
  const outcome: Outcome = { reasoning: '', answer: '', calls: [], finishedCalls, reasoningIsAnswer, order: [] };
  let open = false;
  for (const event of events) {
    if (outcome.order.at(-1) !== event.kind) outcome.order.push(event.kind);
    if ('index' in event) assert.equal(event.index, outcome.calls.length - (event.kind === 'tool-call' ? 0 : 1));
    if ('text' in event) assert.notEqual(event.text, '');
    switch (event.kind) {
      case 'reasoning':
      case 'answer':
        outcome[event.kind] += event.text;
        break;
      case 'tool-call':
        assert.equal(open, false);
        open = true;
        outcome.calls.push({ name: event.name, arguments: '' });
        break;
      case 'tool-arguments':
        assert.equal(open, true);
        (outcome.calls.at(-1) as { arguments: string }).arguments += event.text;
        break;
      case 'tool-end':
        assert.equal(open, true);
        open = false;
    }
  }
  assert.equal(open, false);
  for (const call of outcome.calls) {
    const value: unknown = JSON.parse(call.arguments);
    assert.ok(typeof value === 'object' && value !== null && !Array.isArray(value));
  }
  assert.ok(finishedCalls <= outcome.calls.length);
  return outcome;
}

function parse(completion: string, options: Partial<ParserOptions> = {}, complete = true): Outcome {
  return run([TEMPLATE_SPLITTER.split(completion)], { start: 'answer', ...options }, complete);
}

/** Every text cut into pieces of the given lengths, over and over; each piece is a push of its own. */
function cut(segments: readonly Segment[], lengths: readonly number[]): Segment[][] {
  let turn = 0;
  return segments.flatMap(({ kind, text }) => {
    if (kind === 'control') return [[{ kind, text }]];
    const pieces: Segment[][] = [];
    for (let start = 0; start < text.length;) {
      const length = lengths[turn++ % lengths.length] ?? 1;
      pieces.push([{ kind, text: text.slice(start, start + length) }]);
      start += length;
    }
    return pieces;
  });
}

const BLOCK = `\n\n<${DSML}tool_calls>\n`;
const BLOCK_END = `\n</${DSML}tool_calls>`;
const invoke = (name: string, ...inside: string[]) => `<${DSML}invoke name="${name}">\n${inside.join('\n')}\n</${DSML}invoke>`;
const parameter = (name: string, value: string, string = 'true') =>
  `<${DSML}parameter name="${name}" string="${string}">${value}</${DSML}parameter>`;
const CALL = BLOCK + invoke('f', parameter('a', 'x')) + BLOCK_END;
const weather = {
  json: JSON.stringify({
    name: 'weather',
    parameters: {
      type: 'object',
      properties: {
        city: { type: 'string' },
        days: { type: 'integer' },
        metric: { type: 'boolean' },
        tags: { type: ['array', 'null'], items: { type: 'string' } },
        unit: { enum: ['c', 'f'] },
        place: { $ref: '#/$defs/place' },
        open: {},
      },
      $defs: { place: { anyOf: [{ type: 'object' }, { type: 'number' }] } },
    },
  }),
};

// ---------------------------------------------------------------- vectors

/** A completion as the released encoder parses it. */
interface ReferenceMessage {
  content: string;
  reasoning_content: string;
  tool_calls: { function: { name: string; arguments: string } }[];
}

const wellFormed = readVectors('chat-parsing.jsonl').filter(({ fields }) => 'parsed' in fields);

test('chat-parsing.jsonl has 40 completions that the released encoder parses', () => {
  assert.equal(wellFormed.length, 40);
});

for (const { name, fields } of wellFormed) {
  if (name.startsWith('quirk-truncated')) continue;
  test(`gives what the reference gives, newlines at the seams apart: ${name}`, () => {
    const mode = fields['thinking_mode'] as 'chat' | 'thinking';
    const completion = fields['completion'] as string;
    const reference = fields['parsed'] as ReferenceMessage;
    const calls = reference.tool_calls.map((call) => ({ name: call.function.name, arguments: call.function.arguments }));
    const outcome = parse(completion, { start: mode === 'thinking' ? 'reasoning' : 'answer' });
    const seams = (text: string) => text.replace(/^\n+/, '');
    assert.equal(outcome.reasoning, seams(reference.reasoning_content).replace(/\n+$/, ''));
    const answer = seams(reference.content);
    assert.equal(outcome.answer, calls.length > 0 ? answer.replace(/\n+$/, '') : answer);
    // The released parser copies values that are no JSON; the streaming one makes strings of them.
    if (name === 'tool-json-invalid-value-passthrough' || name === 'tool-json-empty-value-passthrough') return;
    assert.deepEqual(outcome.calls, calls);
    assert.equal(outcome.finishedCalls, calls.length);
  });
}

// ---------------------------------------------------------------- reasoning

test('newlines around the end of the reasoning are dropped, others kept', () => {
  const outcome = parse(`\n\na\n\nb\n${THINK_CLOSE}\n\nc\n\nd\n`, { start: 'reasoning' });
  assert.deepEqual([outcome.reasoning, outcome.answer], ['a\n\nb', 'c\n\nd\n']);
});

test('reasoning that is never closed stays reasoning; when the model stopped, the end says that it is the answer', () => {
  assert.equal(parse('thought', { start: 'reasoning' }, true).reasoningIsAnswer, true);
  const cutOff = parse('thought\n<', { start: 'reasoning' }, false);
  assert.deepEqual([cutOff.reasoning, cutOff.answer, cutOff.reasoningIsAnswer], ['thought\n<', '', false]);
});

test('a tool block ends reasoning that was not closed', () => {
  const outcome = parse(`hm${CALL}`, { start: 'reasoning' });
  assert.deepEqual([outcome.reasoning, outcome.answer, outcome.calls.length], ['hm', '', 1]);
});

test('text that spells a literal is text, in every state', () => {
  const spelled: Segment[] = [{ kind: 'text', text: `a${THINK_CLOSE}${CALL}${EOS}` }];
  assert.equal(run([spelled], { start: 'reasoning' }).reasoning, `a${THINK_CLOSE}${CALL}${EOS}`);
});

test('a stray closing think token and an echoed opening one are dropped', () => {
  assert.equal(parse(`a${THINK_CLOSE}b`).answer, 'ab');
  const echoed = parse(`${THINK_OPEN}\na${THINK_CLOSE}b`, { start: 'reasoning' });
  assert.deepEqual([echoed.reasoning, echoed.answer], ['a', 'b']);
  const reopened = parse(`${THINK_OPEN}a${THINK_CLOSE}b`, { start: 'answer' });
  assert.deepEqual([reopened.reasoning, reopened.answer], ['a', 'b']);
});

test('an answer that the prompt has begun keeps its leading newlines', () => {
  assert.equal(parse('\n\nb', { start: 'continued' }).answer, '\n\nb');
});

test('plain text is not parsed', () => {
  assert.equal(parse(`\na${THINK_CLOSE}${CALL}${EOS}`, { start: 'plain' }).answer, `\na${THINK_CLOSE}${CALL}`);
});

// ---------------------------------------------------------------- calls

test('text is held back only while it may begin a marker', () => {
  const parser = new ContentParser({ start: 'answer' });
  const push = (text: string) => parser.push([{ kind: 'text', text }]);
  assert.deepEqual(push('a\n'), [{ kind: 'answer', text: 'a' }]);
  assert.deepEqual(push('\n<'), []);
  assert.deepEqual(push('b'), [{ kind: 'answer', text: '\n\n<b' }]);
});

test('string arguments are streamed as they come', () => {
  const parser = new ContentParser({ start: 'answer' });
  parser.push(TEMPLATE_SPLITTER.split(`${BLOCK}<${DSML}invoke name="f">\n<${DSML}parameter name="a" string="true">x"`));
  assert.deepEqual(parser.push([{ kind: 'text', text: 'y\n' }]), [{ kind: 'tool-arguments', index: 0, text: 'y\\n' }]);
});

test('text before, between and behind the calls is answer text without markup', () => {
  const block = BLOCK + invoke('f') + '\nthen  that\n' + invoke('g') + BLOCK_END;
  const outcome = parse(`before${block}\n\nbehind`);
  assert.equal(outcome.answer, 'beforethen  thatbehind');
  assert.deepEqual(
    outcome.calls.map((call) => call.name),
    ['f', 'g'],
  );
});

test('closing tags may be missing', () => {
  const source = `${BLOCK}<${DSML}invoke name="f">\n${parameter('a', '1', 'false')}\n<${DSML}invoke name="g">\n`;
  const outcome = parse(`${source}<${DSML}parameter name="b" string="true">x</${DSML}invoke>\n`);
  assert.deepEqual(outcome.calls, [
    { name: 'f', arguments: '{"a": 1}' },
    { name: 'g', arguments: '{"b": "x"}' },
  ]);
  assert.equal(outcome.finishedCalls, 2);
});

test('a call without its block and a block of the previous format are understood', () => {
  assert.equal(parse(`a\n${invoke('f')}`).calls.length, 1);
  assert.equal(parse(CALL.replaceAll('tool_calls', 'function_calls')).calls.length, 1);
});

test('broken markup before a call comes back as text, white space included', () => {
  for (const broken of [
    `a\n\n<${DSML}tools>\nb`,
    `a\n\n<${DSML}tool_calls>\n b`,
    `a\n\n<${DSML}tool_calls>\n<${DSML}invoke nome="f">\nb`,
    `a\n\n<${DSML}tool_calls>\n<${DSML}invoke name="f>\n`,
    `a ${DSML} b`,
    `a </${DSML}invoke> b`,
    `a\n<${DSML}tool_calls`,
  ]) {
    const outcome = parse(broken);
    assert.deepEqual([outcome.answer, outcome.calls], [broken, []]);
  }
});

test('an opening cut off by a limit is dropped, an open call ended as valid JSON but not counted', () => {
  assert.equal(parse(`a\n\n<${DSML}tool_calls>\n<${DSML}inv`, {}, false).answer, 'a');
  for (const [rest, expected] of [
    ['', '{}'],
    [`<${DSML}parameter name="a`, '{}'],
    [`<${DSML}parameter name="a" string="true">x</`, '{"a": "x</"}'],
    [`<${DSML}parameter name="a" string="true">x</${DSML}para`, '{"a": "x"}'],
    [`<${DSML}parameter name="a" string="false">[1,`, '{}'],
    [`${parameter('a', '1', 'false')}\n<`, '{"a": 1}'],
  ] as const) {
    const outcome = parse(`${BLOCK}<${DSML}invoke name="f">\n${rest}`, {}, false);
    assert.deepEqual([outcome.calls, outcome.finishedCalls, outcome.answer], [[{ name: 'f', arguments: expected }], 0, '']);
  }
});

test('values that are no JSON become strings, JSON values keep their spelling', () => {
  const inside = [parameter('a', '{bad', 'false'), parameter('b', ' 1.50 ', 'false'), parameter('c', '3', 'true')];
  const outcome = parse(BLOCK + invoke('f', ...inside) + BLOCK_END);
  assert.equal(outcome.calls[0]?.arguments, '{"a": "{bad", "b":  1.50 , "c": "3"}');
});

test('a schema guides the types of arguments', () => {
  const cases: [string, string, string, string][] = [
    ['metric', 'true', 'true', 'true'],
    ['metric', 'True', 'false', 'true'],
    ['metric', 'perhaps', 'true', '"perhaps"'],
    ['days', '3', 'true', '3'],
    ['days', '"3"', 'false', '3'],
    ['city', '5', 'false', '"5"'],
    ['city', '"Oslo"', 'false', '"Oslo"'],
    ['city', 'Oslo', 'false', '"Oslo"'],
    ['tags', '["a"]', 'true', '["a"]'],
    ['tags', '"[\\"a\\"]"', 'false', '["a"]'],
    ['tags', 'None', 'false', 'null'],
    ['unit', 'c', 'true', '"c"'],
    ['place', '{"x": 1}', 'true', '{"x": 1}'],
    ['open', '7', 'true', '"7"'],
    ['unknown', 'x', 'true', '"x"'],
  ];
  for (const [name, value, string, expected] of cases) {
    const outcome = parse(BLOCK + invoke('weather', parameter(name, value, string)) + BLOCK_END, { tools: [weather] });
    assert.equal(outcome.calls[0]?.arguments, `{"${name}": ${expected}}`, `${name}=${value}`);
  }
});

test('an object wrapped in a parameter that the schema does not have is unwrapped', () => {
  const wrapped = (value: string, flag: string) =>
    parse(BLOCK + invoke('weather', parameter('arguments', value, flag)) + BLOCK_END, { tools: [weather] }).calls[0]?.arguments;
  assert.equal(wrapped('{"city": "Oslo", "days": 2}', 'false'), '{"city": "Oslo", "days": 2}');
  assert.equal(wrapped('{"city": "Oslo"}', 'true'), '{"city": "Oslo"}');
  assert.equal(wrapped('{}', 'false'), '{}');
  assert.equal(wrapped('{"other": 1}', 'false'), '{"arguments": {"other": 1}}');
});

test('a missing string attribute is decided by the value', () => {
  const bare = (name: string, value: string) => `<${DSML}parameter name="${name}">${value}</${DSML}parameter>`;
  const outcome = parse(BLOCK + invoke('f', bare('a', '1'), bare('b', 'x')) + BLOCK_END);
  assert.equal(outcome.calls[0]?.arguments, '{"a": 1, "b": "x"}');
});

test('a repeated parameter is written again: the last value wins when the JSON is read', () => {
  const outcome = parse(BLOCK + invoke('f', parameter('a', 'x'), parameter('a', 'y')) + BLOCK_END);
  assert.deepEqual(JSON.parse(outcome.calls[0]?.arguments ?? ''), { a: 'y' });
});

test('forced markup is not given back when the model does not follow it', () => {
  const outcome = run([[{ kind: 'text', text: 'No.' }]], { start: 'tool-calls' });
  assert.deepEqual([outcome.answer, outcome.calls], ['No.', []]);
});

test('a forced name announces its call before the model says anything', () => {
  const parser = new ContentParser({ start: 'tool-calls' });
  assert.deepEqual(parser.force(forcedCall('f')), [{ kind: 'tool-call', index: 0, name: 'f' }]);
});

test('without parallel calls the first one ends the completion', () => {
  const source = `${BLOCK}${invoke('f')}\n${invoke('g')}${BLOCK_END} tail`;
  const parser = new ContentParser({ start: 'answer', parallel: false });
  const kinds = parser.push(TEMPLATE_SPLITTER.split(source)).map((event) => event.kind);
  assert.deepEqual(kinds, ['tool-call', 'tool-arguments', 'tool-end']);
  assert.equal(parser.done, true);
  assert.deepEqual(parser.finish(true), { events: [], finishedCalls: 1, reasoningIsAnswer: false });
});

test('with tool calls off, markup is answer text', () => {
  assert.equal(parse(CALL, { toolCalls: false }).answer, CALL.trimStart());
});

// ---------------------------------------------------------------- properties

const TEXTS = ['<', '</', '\n', '\n\n', ' ', '>', '"', 'a', 'b\n', 'tool_calls>', 'invoke name="f">', 'invoke', '>\n']
  .concat(['parameter name="a" string="true">', 'parameter name="days" string="false">', 'parameter>', 'invoke>'])
  .concat(['{"x": [1, "<"]}', '12', ' name="weather">\n', 'function_calls>\n', '\ud83d\ude42', 'é', '\\', '\u0001']);
const piece = fc.oneof(
  { weight: 4, arbitrary: fc.constantFrom(...TEXTS).map((text): Segment => ({ kind: 'text', text })) },
  { weight: 2, arbitrary: fc.constant<Segment>({ kind: 'control', text: DSML }) },
  {
    weight: 1,
    arbitrary: fc.constantFrom(THINK_CLOSE, THINK_OPEN, EOS, '<｜User｜>').map((text): Segment => ({ kind: 'control', text })),
  },
);
/** Markup that is right more often than not. */
const tagged = fc
  .constantFrom(
    ...[BLOCK, BLOCK_END, `<${DSML}invoke name="weather">\n`, `</${DSML}invoke>`, parameter('city', 'Oslo'), CALL].concat(
      parameter('days', '3', 'false'),
      `<${DSML}parameter name="a" string="true">`,
      `</${DSML}parameter>`,
    ),
  )
  .map((markup) => TEMPLATE_SPLITTER.split(markup));
const garbage = fc
  .array(
    fc.oneof(
      piece.map((segment) => [segment]),
      tagged,
    ),
    { maxLength: 40 },
  )
  .map((parts) => new SegmentBuilder().append(parts.flat()).build());
const parserOptions: fc.Arbitrary<ParserOptions> = fc.record({
  start: fc.constantFrom('reasoning', 'answer', 'continued', 'tool-calls', 'plain'),
  toolCalls: fc.boolean(),
  parallel: fc.boolean(),
  tools: fc.constantFrom([], [weather]),
});

test('any split of any input gives the same texts in the same order, and always valid JSON', () => {
  fc.assert(
    fc.property(
      garbage,
      fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 1, maxLength: 6 }),
      parserOptions,
      fc.boolean(),
      (segments, lengths, options, complete) => {
        const whole = run([segments], options, complete);
        assert.deepEqual(run(cut(segments, lengths), options, complete), whole);
        assert.deepEqual(run(cut(segments, [1]), options, complete), whole);
      },
    ),
    { numRuns: 3000 },
  );
});

test('nothing is lost when no call is recognised', () => {
  const bare = (text: string) =>
    text.replaceAll(THINK_OPEN, '').replaceAll(THINK_CLOSE, '').replaceAll(EOS, '').replace(/\n/g, '');
  const emptyBlock = new RegExp(`<${DSML}(tool|function)_calls>\\s*</${DSML}(tool|function)_calls>`);
  fc.assert(
    fc.property(garbage, fc.constantFrom('reasoning', 'answer'), (segments, start) => {
      const outcome = run([segments], { start });
      fc.pre(outcome.calls.length === 0);
      const source = segmentsText(segments);
      fc.pre(!emptyBlock.test(source.replace(/<think>|<\/think>/g, '').replaceAll(EOS, '')));
      assert.equal(bare(outcome.reasoning + outcome.answer), bare(source));
    }),
    { numRuns: 3000 },
  );
});

test('rendered calls come back exactly, whatever is in them, and no markup is left in the text', () => {
  const name = fc
    .string({ unit: 'grapheme', minLength: 1, maxLength: 12 })
    .filter((text) => !text.includes('"') && text.trim() !== '');
  const text = fc.string({ unit: 'grapheme', maxLength: 30 });
  const call = fc.record({ name, arguments: fc.dictionary(name, fc.oneof(text, fc.jsonValue({ maxDepth: 3 })), { maxKeys: 4 }) });
  fc.assert(
    fc.property(
      text,
      text,
      fc.array(call, { minLength: 1, maxLength: 3 }),
      fc.array(fc.integer({ min: 1, max: 5 }), { minLength: 1, maxLength: 4 }),
      (reasoning, answer, calls, lengths) => {
        const history = calls.map((entry) => ({ name: entry.name, arguments: JSON.stringify(entry.arguments) }));
        const segments = new SegmentBuilder()
          .text(reasoning)
          .control(THINK_CLOSE)
          .text(answer)
          .append(renderToolCalls(history, 'tool_calls'))
          .build();
        const outcome = run(cut(segments, lengths), { start: 'reasoning' });
        const trim = (value: string) => value.replace(/^\n+|\n+$/g, '');
        assert.deepEqual([outcome.reasoning, outcome.answer], [trim(reasoning), trim(answer)]);
        assert.deepEqual(
          outcome.calls.map((entry) => [entry.name, JSON.parse(entry.arguments)]),
          calls.map((entry) => [entry.name, JSON.parse(JSON.stringify(entry.arguments))]),
        );
        assert.equal(outcome.finishedCalls, calls.length);
      },
    ),
    { numRuns: 1000 },
  );
});

test('a completion of megabytes is parsed in linear time, in one piece or in many', () => {
  const source = '<\n'.repeat(1_000_000) + `${BLOCK}<${DSML}invoke name="f">\n` + ' \n</'.repeat(500_000);
  const segments = TEMPLATE_SPLITTER.split(source);
  const start = performance.now();
  run([segments], { start: 'answer' });
  run(cut(segments, [3]), { start: 'answer' });
  assert.ok(performance.now() - start < 10_000);
});
