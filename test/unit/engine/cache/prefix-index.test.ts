// SPDX-License-Identifier: MIT

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { PrefixIndex, childKey, rootKey } from '../../../../engine/cache/prefix-index.ts';

const block = (first: number): Int32Array => Int32Array.from({ length: 128 }, (_, i) => first + i);

test('a key depends on every token before it, their order and the salt', () => {
  const one = childKey(rootKey(''), block(0));
  const keys = [
    one,
    childKey(rootKey(''), block(1)),
    childKey(rootKey('salt'), block(0)),
    childKey(one, block(128)),
    childKey(childKey(rootKey(''), block(128)), block(0)),
    childKey(rootKey(''), block(0).reverse()),
  ];
  assert.equal(new Set(keys).size, keys.length);
  assert.equal(childKey(rootKey(''), block(0)), one);
});

test('a key is of the tokens seen, not of the array that holds them', () => {
  const array = Int32Array.from({ length: 256 }, (_, i) => i);
  assert.equal(childKey(rootKey(''), array.subarray(128)), childKey(rootKey(''), block(128)));
  assert.throws(() => childKey(rootKey(''), array), /128 tokens/);
});

test('the first block of a key stays findable until it is removed', () => {
  const index = new PrefixIndex();
  const key = childKey(rootKey(''), block(0));
  assert.equal(index.find(key), -1);
  assert.ok(index.add(key, 3));
  assert.ok(!index.add(key, 4));
  assert.equal(index.find(key), 3);
  index.remove(4);
  assert.equal(index.find(key), 3);
  index.remove(3);
  assert.equal(index.find(key), -1);
  assert.ok(!index.has(3));
  assert.equal(index.size, 0);
});
