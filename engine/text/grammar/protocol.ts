// SPDX-License-Identifier: MIT
// Messages between the grammar service and its workers.

import type { GrammarSource } from './specs.ts';

export interface WorkerSetup {
  /** Bytes of all tokens, [offsets[i], offsets[i + 1]) of token i; empty for control tokens. */
  bytes: Uint8Array;
  offsets: Uint32Array;
  vocabSize: number;
  stopToken: number;
  dsmlToken: number;
  /** Compiled grammars kept. */
  cacheEntries: number;
}

export interface OpenOptions {
  /** Token behind which the grammar begins; absent: at once. */
  trigger?: number;
  /** Tokens behind the trigger that the grammar does not cover (forced markup). */
  skip?: number;
  /** Tokens that may be sampled in all; the completion is led to its end before. Absent: no limit. */
  maxTokens?: number;
}

/** Tokens of one matcher in one step. */
export interface StepRow {
  matcher: number;
  /** Accepted since the last step. */
  accepted: readonly number[];
  /** To be verified: they get a mask each, and leave no trace. */
  drafts: readonly number[];
}

export type WorkerRequest =
  /** Answered once the vocabulary is prepared. */
  | { kind: 'start' }
  | { kind: 'compile'; source: GrammarSource }
  | { kind: 'open'; matcher: number; source: GrammarSource; options: OpenOptions }
  | { kind: 'step'; rows: readonly StepRow[] }
  | { kind: 'release'; matcher: number };

/** Result of a step: [sum of 1 + drafts, ceil(vocabSize / 32)], and the matchers whose tokens did not fit. */
export interface StepMasks {
  masks: Uint32Array;
  failed: number[];
}
