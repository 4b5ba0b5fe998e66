// SPDX-License-Identifier: MIT

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { EngineError } from '../../../../engine/errors.ts';
import { admit, checkPromptLength } from '../../../../engine/scheduler/admission.ts';

const limits = { maxQueuedRequests: 2, maxQueuedTokens: 1000 };
const queue = { requests: 0, tokens: 0, freeSlots: 0, prefillTokenMs: 10 };

function refused(action: () => void): EngineError {
  try {
    action();
  } catch (error) {
    assert.ok(error instanceof EngineError);
    return error;
  }
  assert.fail('nothing was refused');
}

test('requests that free slots take up do not fill the queue', () => {
  admit(10, { ...queue, requests: 3, freeSlots: 4 }, limits);
  admit(10, { ...queue, requests: 1 }, limits);
  assert.equal(refused(() => admit(10, { ...queue, requests: 2 }, limits)).code, 'QUEUE_FULL');
  admit(10, { ...queue, freeSlots: 1 }, { ...limits, maxQueuedRequests: 0 });
  assert.equal(refused(() => admit(10, queue, { ...limits, maxQueuedRequests: 0 })).code, 'QUEUE_FULL');
});

test('queued tokens are bounded, but an empty queue takes any prompt', () => {
  admit(5000, queue, limits);
  admit(400, { ...queue, requests: 1, tokens: 600 }, limits);
  assert.equal(refused(() => admit(401, { ...queue, requests: 1, tokens: 600 }, limits)).code, 'QUEUE_FULL');
});

test('a refused request may come back when the queued prompts are computed', () => {
  const after = (tokens: number): number =>
    refused(() => admit(1, { ...queue, requests: 9, tokens }, limits)).details.retryAfterMs!;
  assert.equal(after(500), 5000);
  assert.equal(after(0), 1000);
  assert.equal(after(1e6), 60_000);
});

test('a prompt must leave room for a token, unless none is wanted', () => {
  const check = (promptTokens: number, maxTokens: number | undefined): void =>
    checkPromptLength({ promptTokens, maxTokens, maxModelLen: 100, param: 'messages' });
  check(99, undefined);
  check(100, 0);
  const error = refused(() => check(100, 5));
  assert.equal(error.code, 'CONTEXT_LENGTH_EXCEEDED');
  assert.equal(error.details.param, 'messages');
  assert.match(error.message, /maximum context length is 100 tokens\. However, your prompt has 100 tokens/);
  const empty = refused(() => check(0, 5));
  assert.equal(empty.code, 'INVALID_REQUEST');
  assert.equal(empty.details.param, 'messages');
});
