// SPDX-License-Identifier: MIT
// From a protocol-free request to what the scheduler is asked for; refuses what native would refuse.

import { randomBytes } from 'node:crypto';
import { EngineError } from './errors.ts';
import type { PreparedPrompt } from './prompts.ts';
import type { Sequence, SequenceRequest, SequenceSampling } from './scheduler/sequence.ts';
import type { GenerationRequest, SamplingOptions } from './types.ts';

const MAX_LOGPROBS = 20;

export interface ModelLimits {
  vocabSize: number;
  maxModelLen: number;
  eosToken: number;
  /** Token behind which a forced tool call comes: the end of the reasoning. */
  thinkCloseToken: number;
}

/** @throws EngineError INVALID_REQUEST naming the field that is out of range. */
export function checkRequest(request: GenerationRequest, { vocabSize }: ModelLimits): void {
  const { sampling, stop } = request;
  const above = (name: string, value: number, low: number): void =>
    demand(Number.isFinite(value) && value >= low, name, `${name} must be at least ${low}, got ${value}`);
  demand(Number.isInteger(request.n) && request.n >= 1, 'n', `n must be a positive integer, got ${request.n}`);
  above('temperature', sampling.temperature, 0);
  demand(sampling.topP > 0 && sampling.topP <= 1, 'top_p', `top_p must be in (0, 1], got ${sampling.topP}`);
  demand(sampling.minP >= 0 && sampling.minP < 1, 'min_p', `min_p must be in [0, 1), got ${sampling.minP}`);
  demand(
    Number.isInteger(sampling.topK) && sampling.topK >= 0 && sampling.topK < 2 ** 31,
    'top_k',
    `top_k must be 0 or a positive integer, got ${sampling.topK}`,
  );
  const repetition = sampling.repetitionPenalty;
  demand(repetition > 0 && Number.isFinite(repetition), 'repetition_penalty', `must be above 0, got ${repetition}`);
  for (const [name, value] of [
    ['presence_penalty', sampling.presencePenalty],
    ['frequency_penalty', sampling.frequencyPenalty],
  ] as const) {
    demand(Number.isFinite(value), name, `${name} must be a number, got ${value}`);
  }
  if (request.maxTokens !== undefined) above('max_tokens', request.maxTokens, 0);
  for (const [name, value] of [
    ['logprobs', request.logprobs],
    ['prompt_logprobs', request.promptLogprobs],
  ] as const) {
    demand(
      Number.isInteger(value) && value >= -1 && value <= MAX_LOGPROBS,
      name,
      `${name} must be at most ${MAX_LOGPROBS}, got ${value}`,
    );
  }
  const known = (name: string, token: number): void =>
    demand(Number.isInteger(token) && token >= 0 && token < vocabSize, name, `${name}: no token ${token} among ${vocabSize}`);
  for (const token of stop.tokens) known('stop_token_ids', token);
  for (const token of sampling.allowedTokens ?? []) known('allowed_token_ids', token);
  demand(
    sampling.allowedTokens === undefined || request.grammar === undefined,
    'allowed_token_ids',
    'allowed_token_ids cannot be combined with a grammar',
  );
  demand(sampling.allowedTokens?.length !== 0, 'allowed_token_ids', 'allowed_token_ids must not be empty');
  for (const [token, value] of sampling.logitBias ?? []) {
    known('logit_bias', token);
    demand(value < Infinity, 'logit_bias', `logit_bias of token ${token} must be a finite number, got ${value}`);
  }
}

/** Tokens that a completion may have. */
export function completionRoom(request: GenerationRequest, prompt: PreparedPrompt, { maxModelLen }: ModelLimits): number {
  const room = maxModelLen - prompt.tokens.length;
  return Math.min(request.maxTokens ?? room, room);
}

function demand(condition: boolean, param: string, message: string): void {
  if (!condition) throw new EngineError('INVALID_REQUEST', message, { param });
}

/** What to compute for each choice; `salt` separates prefix-cache entries, `matchers` has one for each choice, or none. */
export function sequenceRequests(
  request: GenerationRequest,
  prompt: PreparedPrompt,
  limits: ModelLimits,
  shares: { salt: string; matchers: readonly number[] },
): (choice: number, leader?: Sequence) => SequenceRequest {
  const constrained = shares.matchers.length > 0;
  const { stop } = request;
  const sampling = sequenceSampling(request.sampling, limits.vocabSize);
  const shared = {
    prompt: prompt.tokens,
    maxTokens: completionRoom(request, prompt, limits),
    // Behind the end of a grammar there is nothing but the end.
    minTokens: constrained ? 0 : stop.minTokens,
    stopTokens: new Set(stop.ignoreEos && !constrained ? stop.tokens : [limits.eosToken, ...stop.tokens]),
    logprobs: request.logprobs,
    priority: request.priority ?? 0,
    salt: shares.salt,
    ...(prompt.forcedTokens === undefined ? {} : { forced: { after: limits.thinkCloseToken, tokens: prompt.forcedTokens } }),
  };
  return (choice, leader) => ({
    ...shared,
    sampling: { ...sampling, seed: BigInt.asUintN(64, sampling.seed + BigInt(choice)) },
    // Once for all choices.
    promptLogprobs: choice === 0 ? request.promptLogprobs : -1,
    ...(leader === undefined ? {} : { leader }),
    ...(constrained ? { matcher: shares.matchers[choice]! } : {}),
  });
}

function sequenceSampling(options: SamplingOptions, vocabSize: number): SequenceSampling {
  const { logitBias, allowedTokens, seed, ...numbers } = options;
  return {
    ...numbers,
    seed: seed ?? randomBytes(8).readBigUInt64LE(),
    bias: { tokens: Int32Array.from(logitBias?.keys() ?? []), values: Float32Array.from(logitBias?.values() ?? []) },
    ...(allowedTokens === undefined ? {} : { mask: maskOf(allowedTokens, vocabSize) }),
  };
}

function maskOf(tokens: readonly number[], vocabSize: number): Uint32Array {
  const mask = new Uint32Array(Math.ceil(vocabSize / 32));
  for (const token of tokens) mask[token >> 5]! |= 1 << (token & 31);
  return mask;
}
