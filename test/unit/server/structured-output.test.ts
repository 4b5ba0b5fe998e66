// SPDX-License-Identifier: MIT
// From the fields that ask for structured output to the engine's grammar.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { ChatInput } from '../../../engine/index.ts';
import { post, testServer } from '../../helpers/http.ts';
import { scriptedEngine } from '../../helpers/scripted-engine.ts';

const chat = '/v1/chat/completions';
const messages = [{ role: 'user', content: 'x' }];
/** Spelled so that parsing and printing would change it. */
const schema = '{"2": 1.0, "1": {"type" : "object"}}';

describe('structured output', () => {
  const cases: [string, string, unknown][] = [
    ['json_object', '"response_format":{"type":"json_object"}', { spec: { kind: 'json-object' }, param: 'response_format' }],
    [
      'json_schema, spelled as it came',
      `"response_format":{"type":"json_schema","json_schema":{"name":"a","strict":true,"schema":${schema}}}`,
      { spec: { kind: 'json-schema', schema: { json: schema }, strict: true }, param: 'response_format' },
    ],
    [
      'a schema directly in the format',
      `"response_format":{"type":"json_object","schema":${schema}}`,
      { spec: { kind: 'json-schema', schema: { json: schema }, strict: false }, param: 'response_format' },
    ],
    [
      'structured_outputs.json',
      `"structured_outputs":{"json":${schema}}`,
      { spec: { kind: 'json-schema', schema: { json: schema }, strict: false }, param: 'structured_outputs.json' },
    ],
    [
      'structured_outputs.regex',
      '"structured_outputs":{"regex":"a+"}',
      { spec: { kind: 'regex', pattern: 'a+' }, param: 'structured_outputs.regex' },
    ],
    [
      'structured_outputs.choice',
      '"structured_outputs":{"choice":["a","b"]}',
      { spec: { kind: 'choice', choices: ['a', 'b'] }, param: 'structured_outputs.choice' },
    ],
    [
      'guided_json given as text',
      `"guided_json":${JSON.stringify(schema)}`,
      { spec: { kind: 'json-schema', schema: { json: schema }, strict: false }, param: 'guided_json' },
    ],
    [
      'guided_grammar',
      '"guided_grammar":"root ::= \\"a\\""',
      { spec: { kind: 'ebnf', grammar: 'root ::= "a"' }, param: 'guided_grammar' },
    ],
    [
      'structural tags, whole',
      `"response_format":{"type":"structural_tag","format":{"type":"json_schema","json_schema":${schema}}}`,
      {
        spec: {
          kind: 'structural-tag',
          tag: { json: `{"type":"structural_tag","format":{"type":"json_schema","json_schema":${schema}}}` },
        },
        param: 'response_format',
      },
    ],
    [
      'structured_outputs.structural_tag given as text',
      '"structured_outputs":{"json":null,"structural_tag":"{\\"format\\":{}}"}',
      { spec: { kind: 'structural-tag', tag: { json: '{"format":{}}' } }, param: 'structured_outputs.structural_tag' },
    ],
    ['nulls', '"guided_json":null,"structured_outputs":{"json":null,"structural_tag":null}', undefined],
    ['text', '"response_format":{"type":"text"}', undefined],
  ];
  for (const [title, fields, expected] of cases) {
    test(`reads ${title}`, async (t) => {
      const engine = scriptedEngine([]);
      const { url } = await testServer(t, engine);
      const response = await post(`${url}${chat}`, `{"messages":${JSON.stringify(messages)},${fields}}`);
      assert.equal(response.status, 200, await response.text());
      assert.deepEqual(engine.requests[0]?.grammar, expected);
    });
  }

  test('shows the format to the model', async (t) => {
    const engine = scriptedEngine([]);
    const { url } = await testServer(t, engine);
    await post(`${url}${chat}`, { messages, response_format: { type: 'json_object' } });
    const format = `{"type":"json_schema","json_schema":{"schema":${schema}}}`;
    await post(`${url}${chat}`, `{"messages":${JSON.stringify(messages)},"response_format":${format}}`);
    const shown = engine.requests.map(({ input }) => (input as ChatInput).responseFormat?.json);
    assert.deepEqual(shown, ['{"type": "json_object"}', schema]);
  });

  test('works for completions and responses', async (t) => {
    const engine = scriptedEngine([]);
    const { url } = await testServer(t, engine);
    await post(`${url}/v1/completions`, { prompt: 'x', guided_choice: ['a'] });
    await post(`${url}/v1/completions`, { prompt: 'x', response_format: { type: 'json_object' } });
    const format = { type: 'json_schema', name: 'a', schema: { type: 'object' }, strict: true };
    await post(`${url}/v1/responses`, { input: 'x', text: { format } });
    assert.deepEqual(
      engine.requests.map(({ grammar }) => grammar?.param),
      ['guided_choice', 'response_format', 'text.format'],
    );
  });

  const refused: [string, object, string, string][] = [
    ['an unknown type', { response_format: { type: 'xml' } }, 'response_format.type', 'invalid_value'],
    ['a missing schema', { response_format: { type: 'json_schema' } }, 'response_format', 'missing_required_parameter'],
    ['two grammars', { guided_regex: 'a', guided_choice: ['b'] }, 'guided_choice', 'invalid_value'],
    ['an empty choice', { structured_outputs: { choice: [] } }, 'structured_outputs.choice', 'invalid_value'],
  ];
  for (const [title, fields, param, code] of refused) {
    test(`refuses ${title}`, async (t) => {
      const { url } = await testServer(t, scriptedEngine([]));
      const response = await post(`${url}${chat}`, { messages, ...fields });
      const { error } = (await response.json()) as { error: { param: string; code: string; message: string } };
      assert.equal(response.status, 400);
      assert.deepEqual([error.param, error.code], [param, code], error.message);
    });
  }
});
