// SPDX-License-Identifier: MIT

import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import {
  elements,
  escapeJson,
  JsonSyntaxError,
  MAX_JSON_DEPTH,
  member,
  parseLossless,
  parseMember,
  pythonJson,
  pythonNumber,
  sourceText,
  type JsonNode,
} from '../../../../engine/text/json-text.ts';

const python = (text: string): string => pythonJson(parseLossless(text));

test('objects keep the order of their keys, integer-like ones and __proto__ too', () => {
  assert.equal(
    python('{"b":1,"10":2,"2":3,"__proto__":4,"constructor":5}'),
    '{"b": 1, "10": 2, "2": 3, "__proto__": 4, "constructor": 5}',
  );
});

test('a repeated key keeps its first place and its last value', () => {
  assert.equal(python('{"a":1,"b":2,"a":3}'), '{"a": 3, "b": 2}');
});

test('numbers are written as Python writes them', () => {
  const expected: Record<string, string> = {
    '1': '1',
    '-0': '0',
    '-0.0': '-0.0',
    '1.0': '1.0',
    '1e5': '100000.0',
    '1E+2': '100.0',
    '1e15': '1000000000000000.0',
    '1e16': '1e+16',
    '123456789012345680': '123456789012345680',
    '12345678901234567890123456789': '12345678901234567890123456789',
    '1.5e16': '1.5e+16',
    '0.0001': '0.0001',
    '0.00001': '1e-05',
    '1.25e-7': '1.25e-07',
    '1e-100': '1e-100',
    '-2.50': '-2.5',
    '0.1': '0.1',
    '123.456': '123.456',
    '5e-324': '5e-324',
    '1.7976931348623157e308': '1.7976931348623157e+308',
    '1e400': 'Infinity',
    '-1e400': '-Infinity',
  };
  for (const [text, repr] of Object.entries(expected)) assert.equal(pythonNumber(text), repr, text);
});

test('every finite double is written in a form that reads back as the same double', () => {
  fc.assert(
    fc.property(fc.double({ noNaN: true, noDefaultInfinity: true }), (value) => {
      const text = pythonNumber(Object.is(value, -0) ? '-0e0' : value.toExponential());
      assert.ok(Object.is(Number(text), value));
      assert.match(text, /^-?\d+(\.\d+)?(e[+-]\d\d+)?$/);
    }),
  );
});

test('strings escape what JSON demands and nothing else', () => {
  assert.equal(
    python('"\\u00e9\\/\\u007f\\u2028\\u0001\\b\\f\\n\\r\\t\\"\\\\"'),
    '"é/\u007f\u2028\\u0001\\b\\f\\n\\r\\t\\"\\\\"',
  );
  assert.equal(python('"\\ud83d\\ude42"'), '"🙂"');
});

test('escaping is the same for any split, between surrogates too', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), fc.nat(), (text, at) => {
      const middle = at % (text.length + 1);
      assert.equal(escapeJson(text.slice(0, middle)) + escapeJson(text.slice(middle)), escapeJson(text));
    }),
  );
});

test('any JSON value survives, by JSON.parse as the judge', () => {
  fc.assert(
    fc.property(fc.jsonValue({ maxDepth: 5 }), fc.constantFrom(undefined, 1, '\t'), (value, indent) => {
      const text = JSON.stringify(value, null, indent);
      assert.deepEqual(JSON.parse(python(text)), JSON.parse(text));
    }),
  );
});

test('text is refused exactly when JSON.parse refuses it', () => {
  const fragments = [
    '{',
    '}',
    '[',
    ']',
    ',',
    ':',
    '"a"',
    '"',
    '1',
    '-',
    '01',
    '1.',
    '.5',
    '1e',
    '1e5',
    'true',
    'nul',
    ' ',
    '\n',
    '\\',
    "'a'",
    '\u0001',
    'NaN',
  ];
  const accepts = (parse: (text: string) => unknown, text: string): boolean => {
    try {
      parse(text);
      return true;
    } catch (error) {
      assert.ok(error instanceof SyntaxError || error instanceof JsonSyntaxError);
      return false;
    }
  };
  fc.assert(
    fc.property(fc.array(fc.constantFrom(...fragments), { maxLength: 8 }), (parts) => {
      const text = parts.join('');
      assert.equal(accepts(parseLossless, text), accepts(JSON.parse, text), text);
    }),
    { numRuns: 5000 },
  );
});

test('a syntax error says where it is', () => {
  for (const [text, position] of [
    ['{"a" 1}', 5],
    ['[1,]', 3],
    ['', 0],
    ['{"a": "x', 6],
    ['1 2', 2],
  ] as const) {
    assert.throws(
      () => parseLossless(text),
      (error) => error instanceof JsonSyntaxError && error.position === position,
      text,
    );
  }
});

test('hostile nesting is an error, not a crash', () => {
  for (const opening of ['[', '{"a":']) {
    assert.throws(() => parseLossless(opening.repeat(1_000_000)), /nesting deeper than 512/);
  }
  const deep = '['.repeat(MAX_JSON_DEPTH) + ']'.repeat(MAX_JSON_DEPTH);
  assert.equal(python(deep), deep);
});

test('a string of megabytes full of escapes is read in linear time', () => {
  const start = performance.now();
  const root = parseLossless(JSON.stringify('\n"'.repeat(2_000_000)));
  assert.equal(root.kind === 'string' && root.value.length, 4_000_000);
  assert.ok(performance.now() - start < 3000);
});

test('the source text of a value inside a body is available as it was sent', () => {
  const body = '{ "tools": [ {"function": {"name":"f", "n": 1.0 , "2":0}} ] }';
  const tool = elements(member(parseLossless(body), 'tools'))[0];
  const inner = member(tool, 'function');
  assert.ok(inner !== undefined);
  assert.deepEqual(sourceText(body, inner), { json: '{"name":"f", "n": 1.0 , "2":0}' });
  assert.equal(member(tool, 'absent'), undefined);
});

test("Python's non-finite numbers are accepted on request only", () => {
  assert.equal(pythonJson(parseLossless('[NaN, -Infinity]', { nonFinite: true })), '[NaN, -Infinity]');
  assert.throws(() => parseLossless('[NaN]'), JsonSyntaxError);
});

/** Everything that a node tells, however it is kept. */
function plain(node: JsonNode | undefined): unknown {
  if (node?.kind === 'array') return { ...node, items: node.items.map(plain) };
  if (node?.kind === 'object') return { ...node, members: [...node.members].map(([key, value]) => [key, plain(value)]) };
  return node?.kind === 'string' ? { kind: node.kind, value: node.value, start: node.start, end: node.end } : node;
}

test('one member of an object is the one that reading everything gives', () => {
  const hostile = fc.constantFrom('"', '\\\\', '\\\\"', '}', ']', ',', '{"a":', '\\u0022');
  const key = fc.constantFrom('a', 'b', '"', 'tools', 'ü');
  const value = fc.oneof(fc.jsonValue({ maxDepth: 3 }), hostile, fc.array(hostile), fc.dictionary(hostile, hostile));
  const members = fc.array(fc.tuple(key, value, fc.constantFrom('', ' ', '\n\t')), { maxLength: 6 });
  fc.assert(
    fc.property(members, key, (given, wanted) => {
      const parts = given.map(
        ([name, content, space]) => `${JSON.stringify(name)}${space}:${space}${JSON.stringify(content)}${space}`,
      );
      const text = ` {${parts.join(', ')}} `;
      assert.deepEqual(plain(parseMember(text, wanted)), plain(member(parseLossless(text), wanted)), text);
    }),
    { numRuns: 2000 },
  );
  for (const text of ['[{"a":1}]', '"a"', 'null', '{}', ' 1 ']) assert.equal(parseMember(text, 'a'), undefined, text);
});

test('a member beside megabytes of escapes is found in linear time', () => {
  const text = JSON.stringify({ a: '\\'.repeat(1_000_000), b: '"'.repeat(1_000_000), c: [1] });
  const started = performance.now();
  assert.equal(pythonJson(parseMember(text, 'c')!), '[1]');
  assert.ok(performance.now() - started < 1000);
});
