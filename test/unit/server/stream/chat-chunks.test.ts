// SPDX-License-Identifier: MIT

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { GenerationEvent, Usage } from '../../../../engine/index.ts';
import { ChatAnswer } from '../../../../server/stream/chat-answer.ts';
import { ChatChunks } from '../../../../server/stream/chat-chunks.ts';
import type { ChatChunk, ChatChunkOptions } from '../../../../server/stream/chat-chunks.ts';

const header = { id: 'chatcmpl-1', created: 1, model: 'm', fingerprint: 'fp' };
const usage: Usage = {
  ...{ promptTokens: 3, cachedTokens: 0, completionTokens: 2, reasoningTokens: 2 },
  ...{ draftedTokens: 0, acceptedTokens: 0 },
};
const timing = { queuedMs: 0, firstTokenMs: 1, totalMs: 2 };
const options: ChatChunkOptions = {
  ...{ n: 1, logprobs: false, includeUsage: false, continuousUsage: false, timings: false },
  ...{ reasoningField: 'reasoning_content', includeReasoning: true },
};
const prompt: GenerationEvent = { kind: 'prompt', choice: 0, tokens: Int32Array.of(1, 2, 3), cachedTokens: 0 };
const thought: GenerationEvent = { kind: 'reasoning', choice: 0, text: 'Four.' };
const end: GenerationEvent = { kind: 'end', choice: 0, reason: 'stop', usage, timing };

function deltas(events: GenerationEvent[], more: Partial<ChatChunkOptions> = {}): unknown[] {
  const chunks = new ChatChunks(header, { ...options, ...more });
  const sent = [...chunks.from(events), ...chunks.closing()];
  return sent.map((chunk) => (typeof chunk === 'string' ? (JSON.parse(chunk) as ChatChunk) : chunk).choices[0]?.delta);
}

describe('chunks of a chat', () => {
  test('begin with the first output, not with the prompt', () => {
    assert.deepEqual(deltas([prompt]), []);
  });

  test('bring thinking again as the answer when the model stopped without closing it', () => {
    assert.deepEqual(deltas([prompt, thought, { ...end, reasoningIsAnswer: true }]).slice(1), [
      { reasoning_content: 'Four.', content: null },
      { content: 'Four.', reasoning_content: null },
      {},
    ]);
  });

  test('leave thinking out when it is not wanted', () => {
    const answer: GenerationEvent = { kind: 'answer', choice: 0, text: '4' };
    assert.deepEqual(deltas([prompt, thought, answer, end], { includeReasoning: false }), [
      { role: 'assistant', content: '', reasoning_content: null },
      { content: '4', reasoning_content: null },
      {},
    ]);
  });

  test('of a choice that failed have no finish reason', () => {
    assert.deepEqual(deltas([prompt, { ...end, reason: 'error' }]), []);
  });
});

describe('a whole chat', () => {
  const message = (events: GenerationEvent[]): unknown => {
    const answer = new ChatAnswer(header, options);
    for (const event of events) answer.add(event);
    return (answer.body()['choices'] as { message: unknown }[])[0]?.message;
  };

  test('has thinking as its content when the model stopped without closing it', () => {
    const expected = { role: 'assistant', content: 'Four.', refusal: null, reasoning_content: null };
    assert.deepEqual(message([prompt, thought, { ...end, reasoningIsAnswer: true }]), expected);
  });

  test('has null content when it was cut off while thinking', () => {
    const expected = { role: 'assistant', content: null, refusal: null, reasoning_content: 'Four.' };
    assert.deepEqual(message([prompt, thought, { ...end, reason: 'length' }]), expected);
  });
});
