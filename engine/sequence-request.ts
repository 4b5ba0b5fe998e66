// SPDX-License-Identifier: MIT
// From a protocol-free request to what the scheduler is asked for; refuses what native would refuse.

import { randomBytes } from 'node:crypto';
import { EngineError } from './errors.ts';
import type { PreparedPrompt } from './prompts.ts';
import type { Sequence, SequenceRequest, SequenceSampling } from './scheduler/sequence.ts';
import type { GenerationRequest, SamplingOptions } from './types.ts';

const MAX_LOGPROBS = 20;

/** Numbers go to native in single precision. What would leave its range there is moved to the nearest that says the same. */
const LEAST_TOP_P = 1e-6;
const MOST_MIN_P = 1 - 2 ** -24;
/** Below this, dividing by the temperature overflows; the best token is all that is left. */
const LEAST_TEMPERATURE = 1e-5;
export const MOST_TEMPERATURE = 1e6;
const PENALTY_RANGE = [0.01, 100] as const;
const MOST_ADDED_PENALTY = 1e6;

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
  const between = (name: string, value: number, low: number, high: number): void =>
    demand(value >= low && value <= high, name, `${name} must be from ${low} to ${high}, got ${value}`);
  between('temperature', sampling.temperature, 0, MOST_TEMPERATURE);
  between('top_p', sampling.topP, 0, 1);
  between('min_p', sampling.minP, 0, 1);
  demand(
    Number.isInteger(sampling.topK) && sampling.topK >= 0,
    'top_k',
    `top_k must be 0 or a positive integer, got ${sampling.topK}`,
  );
  between('repetition_penalty', sampling.repetitionPenalty, ...PENALTY_RANGE);
  between('presence_penalty', sampling.presencePenalty, -MOST_ADDED_PENALTY, MOST_ADDED_PENALTY);
  between('frequency_penalty', sampling.frequencyPenalty, -MOST_ADDED_PENALTY, MOST_ADDED_PENALTY);
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
    temperature: numbers.temperature < LEAST_TEMPERATURE ? 0 : numbers.temperature,
    topP: Math.max(numbers.topP, LEAST_TOP_P),
    minP: Math.min(numbers.minP, MOST_MIN_P),
    topK: Math.min(numbers.topK, vocabSize),
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
