// SPDX-License-Identifier: MIT

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { grammarOf } from '../../../engine/constraints.ts';
import { forcedCall } from '../../../engine/text/dsml.ts';

const grammar = { spec: { kind: 'json-object' }, param: 'response_format' } as const;
const tool = { json: '{"name":"f"}' };
const parser = { start: 'answer', toolCalls: true, tools: [tool], parallel: true } as const;
const strictRules = { kind: 'tool-calls', tools: [{ tool, strict: true }], start: 'text', parallel: true } as const;

test('without tools the answer has its grammar, without either there is none', () => {
  assert.deepEqual(grammarOf({ grammar }, { parser: { start: 'answer', toolCalls: false, tools: [] } }), grammar);
  assert.equal(grammarOf({}, { parser }), undefined);
});

test('with tools a call may stand instead of the answer', () => {
  assert.deepEqual(grammarOf({ grammar }, { parser })?.spec, {
    kind: 'tool-calls',
    tools: [{ tool, strict: false }],
    start: 'text',
    parallel: true,
    answer: grammar.spec,
  });
  assert.deepEqual(grammarOf({ grammar }, { parser, toolGrammar: strictRules })?.spec, { ...strictRules, answer: grammar.spec });
});

test('a forced call leaves no answer', () => {
  const forced = { ...strictRules, start: 'block' } as const;
  assert.deepEqual(grammarOf({ grammar }, { parser, toolGrammar: forced, forced: forcedCall() }), {
    spec: forced,
    param: 'tools',
  });
});

test('an EBNF grammar stands alone: the tools have no place in it', () => {
  const ebnf = { spec: { kind: 'ebnf', grammar: 'root ::= "a"' }, param: 'guided_grammar' } as const;
  assert.deepEqual(grammarOf({ grammar: ebnf }, { parser }), ebnf);
});
