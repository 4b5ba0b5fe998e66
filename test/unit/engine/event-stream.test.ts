// SPDX-License-Identifier: MIT

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { EventStream, MAX_UNREAD_EVENTS } from '../../../engine/event-stream.ts';
import type { GenerationEvent } from '../../../engine/types.ts';

const piece = (text: string): GenerationEvent => ({ kind: 'answer', choice: 0, text });

function recording(): { stream: EventStream; calls: string[] } {
  const calls: string[] = [];
  const stream = new EventStream({ onStall: () => calls.push('stall'), onRead: () => calls.push('read') });
  return { stream, calls };
}

test('a reader gets everything that came since it last read, in order', async () => {
  const { stream } = recording();
  stream.push([piece('a')]);
  stream.push([piece('b'), piece('c')]);
  assert.deepEqual(await stream.next(), [piece('a'), piece('b'), piece('c')]);
  const waiting = stream.next();
  stream.push([piece('d')]);
  assert.deepEqual(await waiting, [piece('d')]);
});

test('what is unread when the stream closes is still read, then comes the end', async () => {
  const { stream } = recording();
  stream.push([piece('a')]);
  stream.close();
  stream.push([piece('late')]);
  assert.deepEqual(await stream.next(), [piece('a')]);
  assert.equal(await stream.next(), undefined);
  const other = recording().stream;
  const waiting = other.next();
  other.close();
  assert.equal(await waiting, undefined);
});

test('a reader that falls behind is reported once, and again when it reads', async () => {
  const { stream, calls } = recording();
  const many = Array.from({ length: MAX_UNREAD_EVENTS - 1 }, () => piece('x'));
  stream.push(many);
  assert.deepEqual(calls, []);
  stream.push([piece('y')]);
  stream.push([piece('z')]);
  assert.deepEqual(calls, ['stall']);
  assert.equal((await stream.next())!.length, MAX_UNREAD_EVENTS + 1);
  assert.deepEqual(calls, ['stall', 'read']);
});
