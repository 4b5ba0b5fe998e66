// SPDX-License-Identifier: MIT

import { EngineError } from '../errors.ts';

export interface QueueLimits {
  maxQueuedRequests: number;
  maxQueuedTokens: number;
}

/** What stands in the queue: requests accepted (also those still being tokenised) that have not begun to run. */
export interface QueueState {
  requests: number;
  tokens: number;
  freeSlots: number;
  /** Measured time of a prefill token; 0 while unknown. */
  prefillTokenMs: number;
}

const MIN_RETRY_MS = 1_000;
const MAX_RETRY_MS = 60_000;

/**
 * Refuses a request that finds the queue full. Requests that free slots will take up at once do not count as queued, and
 * `tokens` (an estimate before tokenising) is never refused by an empty queue.
 * @throws EngineError QUEUE_FULL with retryAfterMs, the time the queued prompts need.
 */
export function admit(tokens: number, queue: QueueState, limits: QueueLimits): void {
  const retryAfterMs = Math.round(Math.min(MAX_RETRY_MS, Math.max(MIN_RETRY_MS, queue.tokens * queue.prefillTokenMs)));
  if (queue.requests + 1 - queue.freeSlots > limits.maxQueuedRequests) {
    throw new EngineError('QUEUE_FULL', `${queue.requests} requests are waiting already, ${limits.maxQueuedRequests} may`, {
      retryAfterMs,
    });
  }
  if (queue.requests > 0 && queue.tokens + tokens > limits.maxQueuedTokens) {
    throw new EngineError('QUEUE_FULL', `${queue.tokens} prompt tokens are waiting already, ${limits.maxQueuedTokens} may`, {
      retryAfterMs,
    });
  }
}

export interface PromptLength {
  promptTokens: number;
  maxTokens: number | undefined;
  maxModelLen: number;
  /** Field that the prompt came in. */
  param: 'messages' | 'prompt';
}

/**
 * @throws EngineError CONTEXT_LENGTH_EXCEEDED when no token could be sampled behind the prompt, INVALID_REQUEST when it is
 * empty.
 */
export function checkPromptLength({ promptTokens, maxTokens, maxModelLen, param }: PromptLength): void {
  if (promptTokens === 0) throw new EngineError('INVALID_REQUEST', 'the prompt is empty', { param });
  const room = maxTokens === 0 ? maxModelLen : maxModelLen - 1;
  if (promptTokens <= room) return;
  throw new EngineError(
    'CONTEXT_LENGTH_EXCEEDED',
    `This model's maximum context length is ${maxModelLen} tokens. However, your prompt has ${promptTokens} tokens.`,
    { promptTokens, maxModelLen, param },
  );
}
