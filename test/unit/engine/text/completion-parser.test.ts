// SPDX-License-Identifier: MIT

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { MalformedCompletion, parseCompletion } from '../../../../engine/text/completion-parser.ts';
import { readVectors } from './vectors.ts';

interface ReferenceMessage {
  content: string;
  reasoning_content: string;
  tool_calls: { function: { name: string; arguments: string } }[];
}

const vectors = readVectors('chat-parsing.jsonl');

test('chat-parsing.jsonl has 40 completions to parse and 35 to refuse', () => {
  assert.equal(vectors.filter(({ fields }) => 'parsed' in fields).length, 40);
  assert.equal(vectors.filter(({ fields }) => 'error' in fields).length, 35);
});

for (const { name, fields } of vectors) {
  const completion = fields['completion'] as string;
  const mode = fields['thinking_mode'] as 'chat' | 'thinking';
  if ('error' in fields) {
    test(`refuses ${name}`, () => assert.throws(() => parseCompletion(completion, mode), MalformedCompletion));
    continue;
  }
  test(`parses ${name}`, () => {
    const reference = fields['parsed'] as ReferenceMessage;
    assert.deepEqual(parseCompletion(completion, mode), {
      content: reference.content,
      reasoning: reference.reasoning_content,
      calls: reference.tool_calls.map((call) => ({ name: call.function.name, arguments: call.function.arguments })),
    });
  });
}
