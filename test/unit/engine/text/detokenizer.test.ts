// SPDX-License-Identifier: MIT

import assert from 'node:assert/strict';
import { before, test } from 'node:test';
import fc from 'fast-check';
import { EOS, THINK_CLOSE } from '../../../../engine/text/chat-constants.ts';
import { bytesText, decodeStepwise, decodeTokens, Detokenizer } from '../../../../engine/text/detokenizer.ts';
import { loadTokenizer, type Tokenizer } from '../../../../engine/text/tokenizer.ts';
import { demoModel } from '../../../helpers/project.ts';

let tokenizer: Tokenizer;
before(async () => {
  tokenizer = await loadTokenizer(demoModel);
});

function stream(ids: Iterable<number>): string[] {
  const detokenizer = new Detokenizer(tokenizer);
  const pieces = [...ids].flatMap((id) => detokenizer.push(id));
  return [...pieces, ...detokenizer.flush()].map(({ text }) => text);
}

test('any text comes back from its tokens, and no piece has half a code point', async () => {
  await fc.assert(
    fc.asyncProperty(fc.string({ unit: 'binary', maxLength: 40 }), async (text) => {
      const pieces = stream(await tokenizer.encodeText(text, { control: false }));
      assert.equal(pieces.join(''), text);
      for (const piece of pieces) assert.equal(Buffer.from(piece).toString(), piece);
    }),
  );
});

test('any sequence of tokens decodes like its bytes', () => {
  const id = fc.integer({ min: 18, max: 4095 });
  fc.assert(
    fc.property(fc.array(id, { maxLength: 30 }), (ids) => {
      const bytes = Buffer.concat(ids.map((token) => tokenizer.tokenBytes(token)));
      assert.equal(stream(ids).join(''), bytesText(bytes));
      assert.equal(decodeTokens(tokenizer, ids), bytesText(bytes));
    }),
  );
});

test('a code point that is cut off comes out as U+FFFD at the end, or before a control token', async () => {
  const ids = [...(await tokenizer.encodeText('🙂', { control: false }))];
  assert.ok(ids.length > 1);
  const detokenizer = new Detokenizer(tokenizer);
  assert.deepEqual(detokenizer.push(ids[0] as number), []);
  assert.deepEqual(detokenizer.push(tokenizer.eosToken), [
    { kind: 'text', text: '\ufffd' },
    { kind: 'control', text: EOS },
  ]);
  detokenizer.push(ids[0] as number);
  assert.deepEqual(detokenizer.flush(), [{ kind: 'text', text: '\ufffd' }]);
});

test('a long sequence is decoded a slice at a time, like its tokens one by one', () => {
  // Parts of a character on both sides of every border, and control tokens wherever they may cut one off.
  const ids = Int32Array.from({ length: 100_000 }, (_, i) => (i * 7919) % 4096);
  const slices = decodeStepwise(tokenizer, ids);
  let steps = 0;
  for (let step = slices.next(); ; step = slices.next(), steps++) {
    if (step.done !== true) continue;
    assert.equal(step.value, stream(ids).join(''));
    break;
  }
  assert.ok(steps > 10, `${steps} steps`);
});

test('a control token is a segment of its own, text that spells it is text', async () => {
  const detokenizer = new Detokenizer(tokenizer);
  const control = detokenizer.push(tokenizer.controlId(THINK_CLOSE));
  assert.deepEqual(control, [{ kind: 'control', text: THINK_CLOSE }]);
  const spelled = [...(await tokenizer.encodeText(THINK_CLOSE, { control: false }))].flatMap((id) => detokenizer.push(id));
  assert.ok(spelled.every(({ kind }) => kind === 'text'));
  assert.equal(spelled.map(({ text }) => text).join(''), THINK_CLOSE);
});

test('token bytes are the true bytes, also of a part of a code point', async () => {
  const ids = await tokenizer.encodeText('é🙂\ufeff', { control: false });
  const bytes = Buffer.concat([...ids].map((id) => tokenizer.tokenBytes(id)));
  assert.deepEqual(bytes, Buffer.from('é🙂\ufeff'));
});
