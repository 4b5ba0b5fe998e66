// SPDX-License-Identifier: MIT

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { FastifyReply } from 'fastify';
import fc from 'fast-check';
import {
  json,
  jsonList,
  jsonNumbers,
  jsonObject,
  jsonText,
  jsonTexts,
  sendPieces,
} from '../../../../server/stream/json-pieces.ts';
import { post, testServer } from '../../../helpers/http.ts';
import { scriptedEngine } from '../../../helpers/scripted-engine.ts';

/** Elements or characters of a piece. */
const piece = 8192;

describe('pieces of JSON', () => {
  test('are those of the whole for any text, also where a piece would end inside a character', () => {
    const units = fc.array(fc.constantFrom('a', '"', '\n', '界', '🙂', '\ud83d', '\ude42'), { minLength: 1, maxLength: 8 });
    fc.assert(
      fc.property(units, fc.nat(10), (odd, shift) => {
        const text = 'x'.repeat(piece - shift) + odd.join('') + 'x'.repeat(piece) + odd.join('');
        assert.equal([...jsonText(text)].join(''), JSON.stringify(text));
      }),
    );
    assert.equal([...jsonText('')].join(''), '""');
  });

  test('are those of the whole for lists of any length', () => {
    for (const length of [0, 1, piece - 1, piece, piece + 1, 3 * piece]) {
      const values = Int32Array.from({ length }, (_, index) => index * 7 - 3);
      assert.equal([...jsonNumbers(values)].join(''), JSON.stringify([...values]));
      const texts = Array.from(values, (value) => `"${value}\n`);
      assert.equal([...jsonTexts(values, (value) => `"${value}\n`)].join(''), JSON.stringify(texts));
    }
  });

  test('make objects and lists of objects', () => {
    const item = { a: json(1), '"b"': json(null) };
    assert.equal(
      [...jsonList([jsonObject(item), jsonObject({ c: jsonText('x') })])].join(''),
      '[{"a":1,"\\"b\\"":null},{"c":"x"}]',
    );
  });
});

describe('an answer of megabytes', () => {
  const prompt = '界🙂 "quoted"\n'.repeat(30_000);
  const tokens = [...Buffer.from(prompt)];

  test('is the same as a short one would be', async (t) => {
    const { url } = await testServer(t, scriptedEngine([]));
    const response = await post(`${url}/tokenize`, { prompt, return_token_strs: true });
    assert.match(response.headers.get('content-type') ?? '', /^application\/json/);
    const strings = tokens.map((token) => Buffer.of(token).toString());
    const expected = { count: tokens.length, max_model_len: 8192, tokens, token_strs: strings };
    assert.ok((await response.text()) === JSON.stringify(expected));
  });

  test('of a rendered prompt too', async (t) => {
    const { url } = await testServer(t, scriptedEngine([]));
    const response = await post(`${url}/v1/completions/render`, { prompt });
    assert.ok((await response.text()) === JSON.stringify([{ token_ids: tokens, text: prompt }]));
  });

  test('leaves the event loop to others between its pieces', async () => {
    let sent: AsyncIterable<string> | undefined;
    const reply = { type: () => reply, send: (answer: AsyncIterable<string>) => (sent = answer) };
    sendPieces(reply as unknown as FastifyReply, jsonNumbers(new Int32Array(100 * piece)));
    let turns = 0;
    const count = (): void => {
      turns += 1;
      waiting = setImmediate(count);
    };
    let waiting = setImmediate(count);
    let text = '';
    for await (const next of sent!) text += next;
    clearImmediate(waiting);
    assert.equal(text, `[${'0,'.repeat(100 * piece - 1)}0]`);
    assert.ok(turns > 90, `${turns} turns`);
  });

  test('carries its length when it is short', async (t) => {
    const { url } = await testServer(t, scriptedEngine([]));
    const response = await post(`${url}/tokenize`, { prompt: 'Hi' });
    const text = await response.text();
    assert.equal(Number(response.headers.get('content-length')), text.length);
    assert.equal(text, '{"count":2,"max_model_len":8192,"tokens":[72,105],"token_strs":null}');
  });
});
