// SPDX-License-Identifier: MIT

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { RecentItems } from '../../../server/recent-items.ts';
import type { OutputItem } from '../../../server/stream/response-events.ts';

const message = (id: string, characters: number): OutputItem => ({
  ...{ type: 'message', id, status: 'completed', role: 'assistant' },
  content: [{ type: 'output_text', text: 'x'.repeat(characters) }],
});

test('items are known until newer ones need their room', () => {
  const recent = new RecentItems(1000);
  recent.add(message('a', 300));
  recent.add(message('b', 300));
  assert.ok(recent.get('a') !== undefined && recent.get('b') !== undefined);
  recent.add(message('c', 300));
  assert.deepEqual(
    ['a', 'b', 'c'].map((id) => recent.get(id)?.id),
    [undefined, 'b', 'c'],
  );
});

test('an item larger than all the room is not kept', () => {
  const recent = new RecentItems(1000);
  recent.add(message('a', 2000));
  assert.equal(recent.get('a'), undefined);
  recent.add(message('b', 300));
  assert.equal(recent.get('b')?.id, 'b');
});
