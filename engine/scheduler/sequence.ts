// SPDX-License-Identifier: MIT

import { BlockTable } from '../cache/kv-cache.ts';
import type { TokenHistory } from '../cache/kv-cache.ts';
import { PenaltyCounts } from './penalty-counts.ts';

export type SequencePhase = 'waiting' | 'prefilling' | 'decoding' | 'finished';

/** What a sequence is asked to do; fixed for its life. */
export interface SequenceRequest {
  prompt: Int32Array;
  /** Tokens to sample at most; 0 computes the prompt only. */
  maxTokens: number;
  minTokens: number;
  /** Sampling one of these ends the sequence. */
  stopTokens: ReadonlySet<number>;
  sampling: SequenceSampling;
  /** -1: none; 0..20 alternatives. */
  logprobs: number;
  promptLogprobs: number;
  /** Lower runs first. */
  priority: number;
  salt: string;
  /** Grammar matcher that masks every position it samples; the caller fills the masks of each plan. */
  matcher?: number;
  /** When `after` is sampled for the first time, `tokens` follow it as if they had been sampled. */
  forced?: { after: number; tokens: Int32Array };
  /** Another choice of the same request, whose prompt blocks this one shares once they are computed. */
  leader?: Sequence;
}

export interface SequenceSampling {
  temperature: number;
  topP: number;
  topK: number;
  minP: number;
  repetitionPenalty: number;
  presencePenalty: number;
  frequencyPenalty: number;
  seed: bigint;
  bias: { tokens: Int32Array; values: Float32Array };
  /** Bit set = token allowed; ceil(vocabulary / 32) words. */
  mask?: Uint32Array;
}

/** Tokens of a sequence, growing at the end. */
class Tokens implements TokenHistory {
  #values: Int32Array;
  length: number;

  constructor(prompt: Int32Array) {
    this.#values = prompt.slice();
    this.length = prompt.length;
  }

  at(index: number): number {
    return this.#values[index]!;
  }

  slice(begin: number, end: number): Int32Array {
    return this.#values.subarray(begin, end);
  }

  push(token: number): void {
    if (this.length === this.#values.length) {
      const grown = new Int32Array(Math.max(64, this.length * 2));
      grown.set(this.#values);
      this.#values = grown;
    }
    this.#values[this.length++] = token;
  }
}

/**
 * One choice of a request on its way: waiting → prefilling → decoding → finished; preemption leads back to waiting. All
 * tokens before `computed` have their rows in the cache; while decoding the last token is the only one that has not.
 */
export class Sequence {
  /** Order of arrival. */
  readonly id: number;
  readonly request: SequenceRequest;
  readonly tokens: Tokens;
  readonly blocks: BlockTable;
  /** Present when a penalty is on. */
  readonly penalties: PenaltyCounts | undefined;
  phase: SequencePhase = 'waiting';
  slot = -1;
  computed = 0;
  /** The next row restarts the compressors from the window block before it. */
  resume = false;
  /** Drafts of the last step, to verify in the next. */
  drafts: number[] = [];
  /** Tokens taken from the prefix cache when the sequence first ran. */
  cachedTokens = -1;
  /** Prompt positions whose following token's log-probability is known. */
  promptLogprobsDone = 0;
  /** The forced tokens are in. */
  forcedDone = false;
  /** The reader does not keep up: no further steps until it does. */
  paused = false;
  /** Tokens that the grammar matcher knows. */
  matched: number;
  /** Times a later sequence was admitted in front of this one for want of room. */
  bypassed = 0;

  constructor(id: number, request: SequenceRequest) {
    this.id = id;
    this.request = request;
    this.tokens = new Tokens(request.prompt);
    this.blocks = new BlockTable(request.salt);
    this.matched = request.prompt.length;
    const { repetitionPenalty, presencePenalty, frequencyPenalty } = request.sampling;
    const penalised = repetitionPenalty !== 1 || presencePenalty !== 0 || frequencyPenalty !== 0;
    this.penalties = penalised ? new PenaltyCounts(request.prompt) : undefined;
  }

  get promptLength(): number {
    return this.request.prompt.length;
  }

  get generated(): number {
    return this.tokens.length - this.promptLength;
  }

  /** Known tokens not yet computed. */
  get remaining(): number {
    return this.tokens.length - this.computed;
  }

  push(token: number): void {
    this.tokens.push(token);
    this.penalties?.addOutput(token);
  }

  /** Tokens that a prefix hit may cover: at least the last token, and every wanted prompt log-probability, is computed. */
  get hitLimit(): number {
    const limit = this.tokens.length - 1;
    return this.request.promptLogprobs < 0 ? limit : Math.min(limit, this.promptLogprobsDone);
  }

  /** False while the leader still computes the prompt blocks this one will share. */
  get ready(): boolean {
    const { leader } = this.request;
    return leader === undefined || leader.phase === 'decoding' || leader.phase === 'finished' || leader.generated > 0;
  }
}

/** Waiting and running sequences are served in this order: priority, then arrival. */
export function byRank(a: Sequence, b: Sequence): number {
  return a.request.priority - b.request.priority || a.id - b.id;
}
