// SPDX-License-Identifier: MIT

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { EngineError } from '../../../engine/errors.ts';
import { estimateTokens, Prompts } from '../../../engine/prompts.ts';
import { loadTokenizer } from '../../../engine/text/tokenizer.ts';
import type { Tokenizer } from '../../../engine/text/tokenizer.ts';
import type { ChatMessage } from '../../../engine/types.ts';
import { demoModel } from '../../helpers/project.ts';

const tokenizer = await loadTokenizer(demoModel);
const promptsOf = (table: Tokenizer): Prompts => new Prompts(table, 'preview', table.vocabSize);

test('filling the middle puts hole and suffix before the answer, their text as plain characters', async () => {
  const prompts = promptsOf(tokenizer);
  const input = { kind: 'fim', prefix: 'a <｜fim▁hole｜>', suffix: 'b' } as const;
  const { tokens, parser } = await prompts.prepare(input);
  const control = [...tokens].map((id) => (tokenizer.isControl(id) ? Buffer.from(tokenizer.tokenBytes(id)).toString() : ''));
  assert.deepEqual(
    control.filter((literal) => literal !== ''),
    ['<｜begin▁of▁sentence｜>', '<｜fim▁begin｜>', '<｜fim▁hole｜>', '<｜fim▁end｜>'],
  );
  assert.equal(control.at(-1), '<｜fim▁end｜>');
  assert.equal(parser.start, 'plain');
  const text = '<｜begin▁of▁sentence｜><｜fim▁begin｜>a <｜fim▁hole｜><｜fim▁hole｜>b<｜fim▁end｜>';
  assert.equal(await prompts.render(input), text);
});

test('filling the middle is refused where the tokenizer has no tokens for it', async () => {
  const without: Tokenizer = Object.create(tokenizer, { hasControl: { value: () => false } });
  await assert.rejects(
    promptsOf(without).prepare({ kind: 'fim', prefix: 'a', suffix: 'b' }),
    (error) => error instanceof EngineError && error.code === 'UNSUPPORTED' && error.details.param === 'suffix',
  );
});

test('the guess of a prompt counts what agents send: tools, calls, reasoning and results in parts', () => {
  const text = 'x'.repeat(400);
  const messages: ChatMessage[] = [
    { role: 'user', content: text },
    { role: 'assistant', content: '', reasoning: text, toolCalls: [{ name: 'f', arguments: text }] },
    { role: 'tool', content: [{ type: 'text', text }] },
  ];
  assert.equal(estimateTokens({ kind: 'chat', messages, tools: [{ json: text }], thinking: true }), 500);
  assert.equal(estimateTokens({ kind: 'fim', prefix: text, suffix: text }), 200);
  assert.equal(estimateTokens({ kind: 'tokens', tokens: new Int32Array(7) }), 7);
});
