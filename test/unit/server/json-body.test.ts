// SPDX-License-Identifier: MIT

import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { readJson } from '../../../server/json-body.ts';

/** JSON bodies are decoded in slices of this many bytes. */
const slice = 256 * 1024;

test('text around the border of a slice is decoded as it is in one piece', async () => {
  for (const character of ['a', 'é', '界', '🙂']) {
    for (let shift = 0; shift < 5; shift++) {
      const body = Buffer.from(JSON.stringify('x'.repeat(slice - 3 - shift) + character.repeat(3) + 'x'.repeat(slice)));
      const { value, text } = await readJson(body);
      assert.ok(text === body.toString() && value === JSON.parse(text), `${character} ${shift}`);
    }
  }
});

test('bytes that are not UTF-8 become the same replacement characters as in one piece', async () => {
  const bytes = fc.array(fc.constantFrom(0x41, 0x80, 0xbf, 0xc3, 0xe4, 0xed, 0xf0, 0xf5), { minLength: 1, maxLength: 12 });
  await fc.assert(
    fc.asyncProperty(bytes, fc.nat(12), async (odd, shift) => {
      const before = Buffer.alloc(slice - shift, 'x');
      const body = Buffer.concat([Buffer.from('"'), before, Buffer.from(odd), Buffer.alloc(slice, 'x'), Buffer.from('"')]);
      const { text } = await readJson(body);
      assert.ok(text === body.toString(), Buffer.from(odd).toString('hex'));
    }),
    { numRuns: 100 },
  );
});

test('a body of megabytes is read in many turns of the event loop', async () => {
  let turns = 0;
  let done = false;
  const count = (): void => {
    turns += 1;
    if (!done) setImmediate(count);
  };
  setImmediate(count);
  const text = '敏捷的棕色狐狸跳过了懒狗。'.repeat(100_000);
  const { value } = await readJson(Buffer.from(JSON.stringify(text)));
  done = true;
  assert.ok(value === text);
  assert.ok(turns >= (3 * text.length) / slice, `${turns} turns`);
});

test('a body that is not JSON is refused with its mistake', async () => {
  await assert.rejects(readJson(Buffer.from('{"a": }')), { status: 400, code: 'invalid_json', message: /Unexpected token/ });
  await assert.rejects(readJson(Buffer.alloc(0)), { status: 400, code: 'invalid_json' });
});
