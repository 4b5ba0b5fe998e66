// SPDX-License-Identifier: MIT

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ChoiceText } from '../../../engine/choice-text.ts';
import type { ChoiceTextOptions } from '../../../engine/choice-text.ts';
import { forcedCall } from '../../../engine/text/dsml.ts';
import { segmentsText } from '../../../engine/text/segment.ts';
import { TurnReplay } from '../../../engine/text/turn-replay.ts';
import type { GenerationEvent } from '../../../engine/types.ts';

const THINK_CLOSE = '</think>';
const DSML = '｜DSML｜';
const CONTROLS = [THINK_CLOSE, DSML];
const STOP = { strings: [], tokens: [], includeInOutput: false, ignoreEos: false, minTokens: 0 };
const TOOL = { json: '{"name": "f", "parameters": {"type": "object", "properties": {"x": {"type": "string"}}}}' };

/** A vocabulary made of the pieces a test uses. */
function choiceText(pieces: readonly string[], changes: Partial<ChoiceTextOptions> = {}): ChoiceText {
  return new ChoiceText({
    choice: 0,
    table: { tokenBytes: (id) => Buffer.from(pieces[id] ?? ''), isControl: (id) => CONTROLS.includes(pieces[id] ?? '') },
    parser: { start: 'answer', tools: [TOOL] },
    stop: STOP,
    ...changes,
  });
}

function play(text: ChoiceText, pieces: readonly string[]): { kinds: string[]; texts: Record<string, string> } {
  const events: GenerationEvent[] = [];
  for (let i = 0; i < pieces.length && text.end === undefined; i++) events.push(...text.push(i, false));
  events.push(...text.finish(true).events);
  const texts: Record<string, string> = {};
  for (const event of events) {
    if ('text' in event) texts[event.kind] = (texts[event.kind] ?? '') + event.text;
  }
  return { kinds: [...new Set(events.map(({ kind }) => kind))], texts };
}

const CALL = [
  `\n\n<`,
  DSML,
  'tool_calls>\n<',
  DSML,
  'invoke name="f">\n<',
  DSML,
  'parameter name="x" string="true">',
  'A',
  '</',
  DSML,
];
const CALL_END = ['parameter>\n</', DSML, 'invoke>\n', '</', DSML, 'tool_calls>'];

test('reasoning, answer and tool call come as their own events, and the reasoning is counted', () => {
  const pieces = ['We', ' think', THINK_CLOSE, 'Yes', '.', ...CALL, ...CALL_END];
  const text = choiceText(pieces, { parser: { start: 'reasoning', tools: [TOOL] } });
  const { kinds, texts } = play(text, pieces);
  assert.deepEqual(kinds, ['reasoning', 'answer', 'tool-call', 'tool-arguments', 'tool-end']);
  assert.equal(texts['reasoning'], 'We think');
  assert.equal(texts['answer'], 'Yes.');
  assert.deepEqual(JSON.parse(texts['tool-arguments']!), { x: 'A' });
  assert.equal(text.reasoningTokens, 3);
});

test('an answer held back for a stop string is shown before the tool call behind it', () => {
  const pieces = ['on', ...CALL, ...CALL_END];
  const { kinds, texts } = play(choiceText(pieces, { stop: { ...STOP, strings: ['one'] } }), pieces);
  assert.deepEqual(kinds, ['answer', 'tool-call', 'tool-arguments', 'tool-end']);
  assert.equal(texts['answer'], 'on');
});

test('stop strings are not looked for in reasoning or tool arguments', () => {
  const pieces = ['A', THINK_CLOSE, 'B', ...CALL, ...CALL_END];
  const text = choiceText(pieces, { parser: { start: 'reasoning', tools: [TOOL] }, stop: { ...STOP, strings: ['A'] } });
  const { kinds } = play(text, pieces);
  assert.ok(kinds.includes('tool-end'));
  assert.equal(text.end, undefined);
});

test('one call is all there is when calls may not be parallel', () => {
  const pieces = [...CALL, ...CALL_END, 'never'];
  const text = choiceText(pieces, { parser: { start: 'answer', tools: [TOOL], parallel: false } });
  const { texts } = play(text, pieces);
  assert.deepEqual(text.end, { reason: 'tool_calls' });
  assert.equal(texts['answer'], undefined);
});

test('half a code point is never shown; what stays half comes out at the end', () => {
  const bytes = Buffer.from('é');
  const table = { tokenBytes: (id: number) => bytes.subarray(id, id + 1), isControl: () => false };
  const whole = choiceText([], { table });
  assert.deepEqual(whole.push(0, false), []);
  assert.deepEqual(whole.push(1, false), [{ kind: 'answer', choice: 0, text: 'é' }]);
  const half = choiceText([], { table });
  half.push(0, false);
  assert.deepEqual(half.finish(false).events, [{ kind: 'answer', choice: 0, text: '\ufffd' }]);
});

test('a call that the prompt has opened for the model is announced before its arguments', () => {
  const pieces = ['<', DSML, 'parameter name="x" string="true">', 'A', '</', DSML, ...CALL_END];
  const forced = forcedCall('f');
  const text = choiceText(pieces, { parser: { start: 'tool-calls', tools: [TOOL] }, forced });
  const { kinds, texts } = play(text, pieces);
  assert.deepEqual(kinds, ['tool-call', 'tool-arguments', 'tool-end']);
  assert.deepEqual(JSON.parse(texts['tool-arguments']!), { x: 'A' });
});

test('a completed turn with a call is kept for its next prompt, a turn that was cut is not', () => {
  const pieces = ['We', THINK_CLOSE, '\nYes', ...CALL, ...CALL_END];
  const kept = (parallel: boolean): boolean => {
    const replay = new TurnReplay();
    const text = choiceText(pieces, { parser: { start: 'reasoning', tools: [TOOL], parallel }, replay });
    const events: GenerationEvent[] = [];
    for (let i = 0; i < pieces.length && text.end === undefined; i++) events.push(...text.push(i, false));
    events.push(...text.finish(true).events);
    const id = events.flatMap((event) => (event.kind === 'tool-call' ? [event.id] : []))[0] as string;
    const turn = { reasoning: 'We', content: 'Yes', toolCalls: [{ id, name: 'f', arguments: '{"x":"A"}' }] };
    const source = replay.find(turn, true);
    assert.ok(source === undefined || segmentsText(source) === pieces.join(''));
    return source !== undefined;
  };
  assert.deepEqual([kept(true), kept(false)], [true, false]);
});
