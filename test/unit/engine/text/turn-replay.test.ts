// SPDX-License-Identifier: MIT

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ContentParser } from '../../../../engine/text/content-parser.ts';
import { promptText, renderChat } from '../../../../engine/text/prompt.ts';
import { TEMPLATE_SPLITTER } from '../../../../engine/text/segment.ts';
import { TurnRecorder, TurnReplay, type GeneratedTurn } from '../../../../engine/text/turn-replay.ts';
import type { ChatMessage } from '../../../../engine/types.ts';

/** As a model may write it: newlines at the seams, JSON without spaces, numbers spelled in their own way. */
const SOURCE =
  'Let me look.\n</think>\n\nOne moment.\n\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name="f">\n' +
  '<｜DSML｜parameter name="a" string="false">{"x":1.50}</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>';
const TOOLS = [{ json: '{"name":"f"}' }];
const RESULT: ChatMessage = { role: 'tool', content: 'ok', toolCallId: 'call_1' };

function generated(source: string, thinking = true): GeneratedTurn {
  const parser = new ContentParser({ start: thinking ? 'reasoning' : 'answer' });
  const recorder = new TurnRecorder(thinking);
  const segments = TEMPLATE_SPLITTER.split(source);
  recorder.read(segments);
  for (const event of [...parser.push(segments), ...parser.finish(true).events]) {
    recorder.add(event, event.kind === 'tool-call' ? `call_${event.index + 1}` : undefined);
  }
  return recorder.turn();
}

/** The turn as a client returns it; arguments parsed and printed again. */
function returned(turn: GeneratedTurn, changes: Partial<Extract<ChatMessage, { role: 'assistant' }>> = {}): ChatMessage {
  const toolCalls = turn.toolCalls.map((call) => ({ ...call, arguments: call.arguments.replaceAll(' ', '') }));
  return { role: 'assistant', content: turn.content, reasoning: turn.reasoning, toolCalls, ...changes };
}

function prompt(message: ChatMessage, replay: TurnReplay, thinking = true): string {
  const messages: ChatMessage[] = [{ role: 'user', content: 'x' }, message, RESULT];
  return promptText(renderChat({ kind: 'chat', messages, tools: TOOLS, thinking }, 'preview', replay).segments);
}

test('a turn that comes back unchanged is rendered as it was generated, so that the prefix cache hits', () => {
  const replay = new TurnReplay();
  const turn = generated(SOURCE);
  replay.record(turn);
  const text = prompt(returned(turn), replay);
  assert.ok(text.includes(`<｜Assistant｜><think>${SOURCE}<｜end▁of▁sentence｜><｜User｜><tool_result>ok`), text);
  assert.ok(!prompt(returned(turn), new TurnReplay()).includes(SOURCE));
});

test('reasoning that the client left out is put back', () => {
  const replay = new TurnReplay();
  const turn = generated(SOURCE);
  replay.record(turn);
  assert.ok(prompt(returned(turn, { reasoning: '' }), replay).includes(SOURCE));
});

test('what the client changed is rendered as the client sent it', () => {
  const replay = new TurnReplay();
  const turn = generated(SOURCE);
  replay.record(turn);
  for (const changes of [
    { content: 'Edited.' },
    { reasoning: 'Edited.' },
    { toolCalls: [{ id: 'call_1', name: 'f', arguments: '{"a":{"x":2}}' }] },
    { toolCalls: [{ id: 'call_9', name: 'f', arguments: '{"a":{"x":1.50}}' }] },
    { toolCalls: [] },
  ]) {
    assert.ok(!prompt(returned(turn, changes), replay).includes(SOURCE));
  }
  assert.ok(!prompt(returned(turn), replay, false).includes(SOURCE), 'chat mode renders no reasoning');
});

test('the oldest turns are forgotten when the store is full', () => {
  const replay = new TurnReplay(SOURCE.length * 2);
  const turns = [1, 2, 3].map((id) => {
    const turn = generated(SOURCE);
    return { ...turn, toolCalls: turn.toolCalls.map((call) => ({ ...call, id: `call_${id}` })) };
  });
  turns.slice(0, 2).forEach((turn) => replay.record(turn));
  assert.ok(replay.find(turns[0] as GeneratedTurn, true), 'used last');
  replay.record(turns[2] as GeneratedTurn);
  assert.deepEqual(
    turns.map((turn) => replay.find(turn, true) !== undefined),
    [true, false, true],
  );
});
