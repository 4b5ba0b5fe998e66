// SPDX-License-Identifier: MIT

import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { TextTemplate } from '../../../../server/stream/text-template.ts';

test('gives the JSON of the object with any text in its place, also in several', () => {
  const sample = (text: string): object => ({
    model: 'a "b" $&',
    choices: [{ delta: { content: text, again: text }, logprobs: null }],
  });
  const template = new TextTemplate(sample);
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), (text) => assert.equal(template.json(text), JSON.stringify(sample(text)))),
  );
});
