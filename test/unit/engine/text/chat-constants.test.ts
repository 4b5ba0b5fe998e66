// SPDX-License-Identifier: MIT

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { test } from 'node:test';
import * as chat from '../../../../engine/text/chat-constants.ts';

/** UTF-8 bytes and SHA-256 of the released strings. */
const RELEASED: [string, string, number, string][] = [
  [
    'effort max, preview',
    chat.EFFORT_PREFIX.preview['max'] ?? '',
    476,
    'f7a24f3b3050d4a83781e9b755b316aae2ec1d9dc87562541d90bcb04d7350f7',
  ],
  [
    'effort high, 0731',
    chat.EFFORT_PREFIX['0731']['high'] ?? '',
    476,
    'f7a24f3b3050d4a83781e9b755b316aae2ec1d9dc87562541d90bcb04d7350f7',
  ],
  [
    'effort max, 0731',
    chat.EFFORT_PREFIX['0731']['max'] ?? '',
    528,
    '53fb31b8392ec5b4a926481943efc67636748f137c1a49d493a7af4d4fa55d2c',
  ],
  [
    'tools, before the schemas',
    chat.TOOLS_SECTION.prefix,
    890,
    'c7c9042638154a237b5d1bd48be772374a35a4d24c5cacfd1ffbd92703da329c',
  ],
  [
    'tools, behind the schemas',
    chat.TOOLS_SECTION.suffix,
    99,
    '690702850fe256512cb1ee67c4e436ecb3e735c71ebee77ca45ff357a75fb5a7',
  ],
  ['response format', chat.RESPONSE_FORMAT_PREFIX, 80, '5200f58413f49f3957c43beddbc97bead023232cb5934fad0c1997c30c139112'],
];

for (const [name, text, bytes, hash] of RELEASED) {
  test(`the text "${name}" is the released one`, () => {
    assert.equal(Buffer.byteLength(text), bytes);
    assert.equal(createHash('sha256').update(text).digest('hex'), hash);
  });
}

test('control literals are spelled with U+FF5C and U+2581', () => {
  const hex = (text: string) => [...text].map((char) => (char.codePointAt(0) as number).toString(16)).join(' ');
  assert.equal(hex(chat.DSML), 'ff5c 44 53 4d 4c ff5c');
  assert.equal(hex(chat.BOS), '3c ff5c 62 65 67 69 6e 2581 6f 66 2581 73 65 6e 74 65 6e 63 65 ff5c 3e');
  assert.equal(hex(chat.THINK_CLOSE), '3c 2f 74 68 69 6e 6b 3e');
});
