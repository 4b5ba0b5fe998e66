// SPDX-License-Identifier: MIT
// Narrows the masks of a grammar: to what its counts allow, which xgrammar does not check, and to tokens after which the
// completion can still come to its end before its tokens run out.

import { Network } from './network.ts';
import { readEbnf } from './ebnf-reader.ts';
import { Recogniser, type State } from './recogniser.ts';
import { NO_WAY, type Vocabulary } from './token-costs.ts';
import type { GrammarSource } from './specs.ts';

/** Tokens kept in reserve on the way to the end: the shortest way in bytes need not stay the shortest in tokens. */
const RESERVE = 2;
/** The end is near where its way and some tokens that make it longer would use up what is left. */
const NEAR = 16;

/** Follows completions of one grammar. */
export class Guide {
  /** xgrammar's masks alone allow more than the grammar. */
  readonly needed: boolean;
  /** States tell apart all that xgrammar does; a grammar of a client's own may be followed more roughly. */
  readonly faithful: boolean;
  readonly recogniser: Recogniser;
  private readonly near: number;

  /** @throws UnreadableGrammar when the grammar cannot be followed */
  constructor(source: GrammarSource) {
    const network = new Network(readEbnf(source.exact ?? source.ebnf, { byteClasses: source.own }));
    this.recogniser = new Recogniser(network);
    this.needed = source.exact !== undefined;
    this.faithful = source.own;
    this.near = NEAR + 2 * network.largestRise;
  }

  get start(): State {
    return this.recogniser.start;
  }

  /** Takes the tokens out of a mask that exceed a count. */
  keepCounts(row: Uint32Array, state: State, costs: TokenCosts): void {
    if (!this.needed) return;
    const fits = costs.fitting(this.recogniser, state);
    for (let i = 0; i < row.length; i++) row[i] = (row[i] as number) & (fits[i] as number);
  }

  /**
   * Takes the tokens out of a mask after which the end would be too far.
   * @param left tokens that may still be sampled, this one and the end token included
   */
  keepEnd(row: Uint32Array, state: State, { costs, left }: { costs: TokenCosts; left: number }): void {
    // Free text may be cut wherever it could end. No way is longer than its bytes.
    if ((state.complete && this.start.complete) || left > state.least + 1 + this.near) return;
    const way = costs.toEnd(this.recogniser, state);
    // Where it is too late, nothing helps.
    if (way + 1 > left || left > way + 1 + this.near) return;
    const behind = costs.behindAll(this.recogniser, state);
    for (const most of [left - 2 - RESERVE, left - 2]) {
      const kept = shortWays(row, behind, most);
      const word = costs.stopToken >> 5;
      kept[word] = (kept[word] as number) | ((row[word] as number) & (1 << (costs.stopToken & 31)));
      if (kept.every((word) => word === 0)) continue;
      row.set(kept);
      return;
    }
  }
}

/** Tokens of a mask with at most so many tokens to the end behind them. */
function shortWays(row: Uint32Array, behind: Uint16Array, most: number): Uint32Array {
  const kept = new Uint32Array(row.length);
  for (let word = 0; word < row.length; word++) {
    for (let bits = row[word] as number; bits !== 0; bits &= bits - 1) {
      const bit = 31 - Math.clz32(bits & -bits);
      if ((behind[word * 32 + bit] as number) <= most) kept[word] = (kept[word] as number) | (1 << bit);
    }
  }
  return kept;
}

/** States whose costs are remembered: completions stay in the same one while they write a string. */
const KEPT_COSTS = 32;
/** States whose masks are. */
const KEPT_MASKS = 256;

/** What the tokens of a vocabulary lead to from states of grammars. */
export class TokenCosts {
  readonly stopToken: number;
  private readonly vocabulary: Vocabulary;
  private readonly words: number;
  private readonly ways = new WeakMap<State, number>();
  /** What may follow at a state, as xgrammar and the counts have it. */
  readonly masks = new RecentStates<Uint32Array>(KEPT_MASKS);
  private readonly costs = new RecentStates<Uint16Array>(KEPT_COSTS);

  constructor(vocabulary: Vocabulary, vocabSize: number, stopToken: number) {
    this.vocabulary = vocabulary;
    this.words = Math.ceil(vocabSize / 32);
    this.stopToken = stopToken;
  }

  /** The state behind a token; null when it does not fit. */
  behind(recogniser: Recogniser, state: State, token: number): State | null {
    const bytes = token < this.vocabulary.size ? this.vocabulary.token(token) : new Uint8Array();
    return bytes.length === 0 ? null : recogniser.run(state, bytes);
  }

  /** Tokens of a short way to the end. */
  toEnd(recogniser: Recogniser, state: State): number {
    let way = this.ways.get(state);
    if (way === undefined) {
      const bytes = recogniser.shortestEnd(state);
      way = bytes === undefined ? NO_WAY : this.vocabulary.tokenCount(bytes);
      this.ways.set(state, way);
    }
    return way;
  }

  /** Mask of the tokens that fit, the end token included. */
  fitting(recogniser: Recogniser, state: State): Uint32Array {
    const mask = this.vocabulary.fitting(recogniser, state, this.words);
    const word = this.stopToken >> 5;
    if (state.complete) mask[word] = (mask[word] as number) | (1 << (this.stopToken & 31));
    return mask;
  }

  /** Tokens to the end behind each token; NO_WAY of those that do not fit. */
  behindAll(recogniser: Recogniser, state: State): Uint16Array {
    const known = this.costs.find(state);
    if (known !== undefined) return known;
    const behind = new Uint16Array(this.words * 32).fill(NO_WAY);
    this.vocabulary.follow(recogniser, state, (token, end) => (behind[token] = this.toEnd(recogniser, end)));
    this.costs.keep(state, behind);
    return behind;
  }
}

/** Values of the states that were asked for last. */
class RecentStates<T> {
  private readonly size: number;
  private readonly kept = new Map<State, T>();

  constructor(size: number) {
    this.size = size;
  }

  find(state: State): T | undefined {
    const value = this.kept.get(state);
    if (value !== undefined) this.keep(state, value);
    return value;
  }

  keep(state: State, value: T): void {
    this.kept.delete(state);
    this.kept.set(state, value);
    const [oldest] = this.kept.keys();
    if (this.kept.size > this.size && oldest !== undefined) this.kept.delete(oldest);
  }
}
