// SPDX-License-Identifier: MIT

import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { StopMatcher } from '../../../../engine/text/stop-strings.ts';

interface Outcome {
  text: string;
  stop: string | undefined;
}

function run(pieces: readonly string[], stops: readonly string[], include = false): Outcome {
  const matcher = new StopMatcher(stops, include);
  let text = '';
  for (const piece of pieces) {
    const match = matcher.push(piece);
    text += match.text;
    if (match.stop !== undefined) return { text, stop: match.stop };
  }
  return { text: text + matcher.flush(), stop: undefined };
}

/** By definition: the match that ends first; of those that end there, the longest. */
function reference(text: string, stops: readonly string[], include: boolean): Outcome {
  for (let end = 1; end <= text.length; end++) {
    const ending = stops.filter((stop) => stop !== '' && text.slice(0, end).endsWith(stop));
    const stop = ending.sort((a, b) => b.length - a.length)[0];
    if (stop !== undefined) return { text: text.slice(0, include ? end : end - stop.length), stop };
  }
  return { text, stop: undefined };
}

test('any split finds what the definition finds', () => {
  const word = fc.string({ unit: fc.constantFrom('a', 'b', '\n', '🙂'), maxLength: 5 });
  fc.assert(
    fc.property(fc.array(word, { maxLength: 20 }), fc.array(word, { maxLength: 4 }), fc.boolean(), (pieces, stops, include) => {
      assert.deepEqual(run(pieces, stops, include), reference(pieces.join(''), stops, include));
    }),
    { numRuns: 3000 },
  );
});

test('only what may still become a stop string is held back', () => {
  const matcher = new StopMatcher(['STOP', 'END']);
  assert.equal(matcher.push('abcST').text, 'abc');
  assert.equal(matcher.push('A').text, 'STA');
  assert.equal(matcher.push('ENE').text, 'EN');
  assert.equal(matcher.push('N').text, '');
  assert.deepEqual(matcher.push('Dmore'), { text: '', stop: 'END' });
  assert.deepEqual(matcher.push('even more'), { text: '', stop: 'END' });
});

test('the stop string is shown on request', () => {
  assert.deepEqual(run(['a', 'bc'], ['b'], true), { text: 'ab', stop: 'b' });
  assert.deepEqual(run(['a', 'bc'], ['b'], false), { text: 'a', stop: 'b' });
});

test('empty stop strings match nothing', () => {
  assert.deepEqual(run(['abc'], ['']), { text: 'abc', stop: undefined });
});

test('megabytes that nearly match all the time are matched in linear time', () => {
  const start = performance.now();
  const stop = `${'a'.repeat(500)}b`;
  assert.equal(
    run(
      Array.from({ length: 40_000 }, () => 'a'.repeat(100)),
      [stop],
    ).text.length,
    4_000_000,
  );
  assert.ok(performance.now() - start < 5000);
});
