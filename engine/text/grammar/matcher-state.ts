// SPDX-License-Identifier: MIT

import type { OpenOptions } from './protocol.ts';
import type { GrammarMatcher } from './xgrammar.ts';

interface Vocabulary {
  vocabSize: number;
  stopToken: number;
}

/**
 * One matcher and where it stands in its completion. Before the trigger token, and over the tokens to skip behind it,
 * everything is allowed and nothing is matched.
 */
export class MatcherState {
  private readonly matcher: GrammarMatcher;
  private readonly words: number;
  private readonly stopToken: number;
  private readonly trigger: number | undefined;
  /** A token that this grammar never allows. */
  private readonly hidden: number | undefined;
  private readonly skip: number;
  /** Tokens still to skip; undefined before the trigger. */
  private waiting: number | undefined;

  constructor(matcher: GrammarMatcher, vocabulary: Vocabulary, options: OpenOptions & { hidden?: number | undefined }) {
    this.matcher = matcher;
    this.words = Math.ceil(vocabulary.vocabSize / 32);
    this.stopToken = vocabulary.stopToken;
    this.trigger = options.trigger;
    this.hidden = options.hidden;
    this.skip = options.skip ?? 0;
    this.waiting = this.trigger === undefined ? this.skip : undefined;
  }

  /** @returns false when a token does not fit the grammar */
  advance(tokens: readonly number[]): boolean {
    return tokens.every((token) => this.pass(token) || this.matcher.isTerminated() || this.matcher.acceptToken(token));
  }

  /**
   * Masks for the next token and for the one behind each draft; behind a draft that does not fit everything is allowed,
   * as it cannot be accepted.
   * @param rows [1 + drafts, words]
   * @returns false when the grammar allows no token at all
   */
  async fill(rows: Uint32Array, drafts: readonly number[]): Promise<boolean> {
    const { waiting } = this;
    let matched = 0;
    let possible = true;
    for (let i = 0; i <= drafts.length; i++) {
      const row = rows.subarray(i * this.words, (i + 1) * this.words);
      if (!(await this.mask(row))) {
        // Only the first row can be reached for certain.
        possible = i > 0;
        rows.fill(0xffffffff, i * this.words);
        break;
      }
      const draft = drafts[i];
      if (draft === undefined) break;
      if (this.pass(draft)) continue;
      if (!isSet(row, draft) || this.matcher.isTerminated() || !this.matcher.acceptToken(draft)) {
        rows.fill(0xffffffff, (i + 1) * this.words);
        break;
      }
      matched++;
    }
    if (matched > 0) this.matcher.rollBack(matched);
    this.waiting = waiting;
    return possible;
  }

  dispose(): void {
    this.matcher.dispose();
  }

  /** Takes a token that the grammar does not cover. */
  private pass(token: number): boolean {
    if (this.waiting === undefined) {
      if (token === this.trigger) this.waiting = this.skip;
      return true;
    }
    if (this.waiting === 0) return false;
    this.waiting--;
    return true;
  }

  private async mask(row: Uint32Array): Promise<boolean> {
    if (this.waiting !== 0) {
      row.fill(0xffffffff);
      return true;
    }
    if (this.matcher.isTerminated()) {
      row.fill(0);
      setBit(row, this.stopToken);
      return true;
    }
    row.set(new Uint32Array((await this.matcher.getNextTokenBitmask()).buffer));
    if (this.hidden !== undefined) clearBit(row, this.hidden);
    return row.some((word) => word !== 0);
  }
}

function isSet(row: Uint32Array, token: number): boolean {
  return (((row[token >> 5] ?? 0) >>> (token & 31)) & 1) === 1;
}

function setBit(row: Uint32Array, token: number): void {
  row[token >> 5] = (row[token >> 5] ?? 0) | (1 << (token & 31));
}

function clearBit(row: Uint32Array, token: number): void {
  row[token >> 5] = (row[token >> 5] ?? 0) & ~(1 << (token & 31));
}
