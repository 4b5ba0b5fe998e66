// SPDX-License-Identifier: MIT

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { BlockTable, KvCache } from '../../../../engine/cache/kv-cache.ts';
import type { TokenHistory } from '../../../../engine/cache/kv-cache.ts';

function history(length: number, first = 0): TokenHistory {
  const tokens = Int32Array.from({ length }, (_, i) => first + i);
  return { length, slice: (begin, end) => tokens.subarray(begin, end) };
}

const cacheOf = (windowBlocks: number, contextBlocks: number, mtp = 2): KvCache =>
  new KvCache({ windowBlocks, contextBlocks, mtp });

/** Computes a prompt in chunks of `chunk` tokens and gives its blocks back. */
function compute(cache: KvCache, tokens: TokenHistory, chunk: number, salt = ''): void {
  const table = new BlockTable(salt);
  for (let position = 0; position < tokens.length; position += chunk) {
    const count = Math.min(chunk, tokens.length - position);
    assert.ok(cache.reserve(table, position, count));
    cache.advance(table, tokens, { computed: position + count, promptLength: tokens.length });
  }
  cache.release(table);
}

test('a step holds context up to its last token and windows up to its last draft row', () => {
  const cache = cacheOf(10, 10, 2);
  const table = new BlockTable('');
  assert.ok(cache.reserve(table, 0, 126));
  assert.deepEqual([table.context.length, table.window.length], [1, 1]);
  cache.advance(table, history(400), { computed: 126, promptLength: 400 });
  assert.ok(cache.reserve(table, 126, 1));
  assert.deepEqual([table.context.length, table.window.length], [1, 2]);
});

test('windows are given back once the window has passed them, context never', () => {
  const cache = cacheOf(10, 10, 0);
  const table = new BlockTable('');
  const tokens = history(640);
  assert.ok(cache.reserve(table, 0, 384));
  cache.advance(table, tokens, { computed: 254, promptLength: 640 });
  assert.equal(table.windowBase, 0, 'position 254 still reads from 127');
  cache.advance(table, tokens, { computed: 255, promptLength: 640 });
  assert.equal(table.windowBase, 1);
  cache.advance(table, tokens, { computed: 384, promptLength: 640 });
  assert.equal(table.windowBase, 2);
  assert.equal(cache.windowPool.available, 9);
  assert.equal(cache.contextPool.available, 7);
});

test('a reservation that does not fit changes nothing', () => {
  const cache = cacheOf(3, 2, 0);
  const table = new BlockTable('');
  assert.ok(!cache.reserve(table, 0, 300), 'three context blocks');
  assert.equal(cache.contextPool.available, 2);
  assert.equal(cache.windowPool.available, 3);
  assert.equal(cache.reach(table, 0, 0), 256);
  assert.equal(cache.reach(table, 0, 2), 128);
  assert.ok(cache.reserve(table, 0, 256));
});

test('a prefix is found in whole blocks, never further than the limit', () => {
  const cache = cacheOf(20, 20);
  const tokens = history(512);
  compute(cache, tokens, 100);
  assert.equal(cache.lookup(new BlockTable(''), tokens, 511).tokens, 384);
  assert.equal(cache.lookup(new BlockTable(''), tokens, 512).tokens, 512);
  assert.equal(cache.lookup(new BlockTable('salt'), tokens, 512).tokens, 0);
  assert.equal(cache.lookup(new BlockTable(''), history(512, 1), 512).tokens, 0);
});

test('a hit ends at a block whose window block is still there', () => {
  const cache = cacheOf(3, 20, 0);
  const tokens = history(1200);
  compute(cache, tokens, 128);
  // Three window blocks are left: 7 (an anchor) and the last two of the prompt.
  const table = new BlockTable('');
  assert.equal(cache.lookup(table, tokens, 1199).tokens, 1152);
  assert.equal(cache.lookup(table, tokens, 1151).tokens, 1024);
  assert.equal(cache.lookup(table, tokens, 1023).tokens, 0);
  assert.equal(table.branch, 7, 'the context is known further than it can be restarted');
});

test('two holders of a prefix share its blocks and write only behind it', () => {
  const cache = cacheOf(20, 20);
  const tokens = history(300);
  compute(cache, tokens, 300);
  const [one, two] = [new BlockTable(''), new BlockTable('')];
  for (const table of [one, two]) {
    const hit = cache.lookup(table, tokens, 299);
    assert.equal(hit.tokens, 256);
    assert.equal(hit.idleContextBlocks, table === one ? 2 : 0);
    cache.attach(table, hit);
    assert.ok(cache.reserve(table, 256, 44));
  }
  assert.deepEqual(one.context.slice(0, 2), two.context.slice(0, 2));
  assert.equal(one.window[0], two.window[0]);
  assert.equal(one.windowBase, 1);
  assert.notEqual(one.context[2], two.context[2]);
  assert.notEqual(one.window[1], two.window[1]);
  cache.release(one);
  cache.release(two);
  assert.equal(cache.contextPool.available, 20);
  assert.equal(cache.windowPool.available, 20);
});

test('new contents replace what nobody asked for longest', () => {
  const cache = cacheOf(8, 6);
  const [old, recent] = [history(300), history(300, 5000)];
  compute(cache, old, 300);
  compute(cache, recent, 300);
  compute(cache, history(400, 9000), 400);
  assert.equal(cache.lookup(new BlockTable(''), old, 299).tokens, 0);
  assert.equal(cache.lookup(new BlockTable(''), recent, 299).tokens, 256);
});

test('drafted tokens are not findable before they are verified', () => {
  const cache = cacheOf(8, 8);
  const tokens = history(256);
  const table = new BlockTable('');
  assert.ok(cache.reserve(table, 0, 128));
  cache.advance(table, tokens, { computed: 127, promptLength: 100 });
  assert.equal(cache.lookup(new BlockTable(''), tokens, 256).tokens, 0);
  cache.advance(table, tokens, { computed: 128, promptLength: 100 });
  assert.equal(cache.lookup(new BlockTable(''), tokens, 256).tokens, 128);
});
