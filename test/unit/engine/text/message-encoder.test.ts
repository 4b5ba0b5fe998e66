// SPDX-License-Identifier: MIT

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { EngineError } from '../../../../engine/errors.ts';
import { encodeVector, readVectors } from './vectors.ts';

/**
 * The reference puts arguments that are an object, not text, under one parameter "arguments". Calls carry text here, so
 * the object's members become parameters, as spec/chat-encoding section 4 asks.
 */
const OBJECT_ARGUMENTS = 'tools-args-as-object-not-string';
const REFERENCE_PARAMETER = '<｜DSML｜parameter name="arguments" string="false">{"a": 1}</｜DSML｜parameter>';
const OUR_PARAMETER = '<｜DSML｜parameter name="a" string="false">1</｜DSML｜parameter>';

for (const [file, revision, count] of [
  ['chat-encoding.jsonl', 'preview', 125],
  ['chat-encoding-0731.jsonl', '0731', 11],
] as const) {
  const vectors = readVectors(file);
  test(`${file} has ${count} vectors`, () => assert.equal(vectors.length, count));
  for (const vector of vectors) {
    test(`${file}: ${vector.name}`, () => {
      let expected = vector.fields['prompt'] as string;
      if (vector.name === OBJECT_ARGUMENTS) {
        assert.ok(expected.includes(REFERENCE_PARAMETER));
        expected = expected.replace(REFERENCE_PARAMETER, OUR_PARAMETER);
      }
      assert.equal(encodeVector(vector, revision), expected);
    });
  }
}

const PARAMS: Record<string, string> = {
  'bad-role': 'messages[0].role',
  'developer-empty': 'messages[0].content',
  'bad-effort-low': 'reasoning_effort',
  'bad-effort-in-chat-too': 'reasoning_effort',
  'bad-mode': 'thinking',
  'bad-task': 'messages[0].task',
  'user-null-content': 'messages[0].content',
  'user-list-content': 'messages[0].content',
  'args-json-array': 'messages[1].tool_calls[0].function.arguments',
  'args-json-null': 'messages[1].tool_calls[0].function.arguments',
  'args-json-number': 'messages[1].tool_calls[0].function.arguments',
  'tool-def-without-function': 'tools[0].function',
};

for (const vector of readVectors('chat-encoding-errors.jsonl')) {
  test(`chat-encoding-errors.jsonl: ${vector.name} names the field at fault`, () => {
    assert.throws(
      () => encodeVector(vector, 'preview'),
      (error) => error instanceof EngineError && error.code === 'INVALID_REQUEST' && error.details.param === PARAMS[vector.name],
    );
  });
}
