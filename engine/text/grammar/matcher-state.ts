// SPDX-License-Identifier: MIT

import type { Guide, TokenCosts } from './guide.ts';
import type { OpenOptions } from './protocol.ts';
import type { State } from './recogniser.ts';
import type { GrammarMatcher } from './xgrammar.ts';

interface Vocabulary {
  vocabSize: number;
  stopToken: number;
}

/** The grammar as its masks are narrowed by it. */
interface Guidance {
  guide: Guide;
  costs: TokenCosts;
}

/**
 * One matcher and where it stands in its completion. Before the trigger token everything but the end is allowed and nothing
 * is matched, and so it is over the tokens to skip behind it.
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
  private readonly guidance: Guidance | undefined;
  /** Where the completion is in the guide's grammar; undefined when it is not followed. */
  private place: State | undefined;
  /** Tokens that may still be sampled. */
  private left: number;

  constructor(
    matcher: GrammarMatcher,
    vocabulary: Vocabulary,
    options: OpenOptions & { hidden?: number | undefined; guidance?: Guidance | undefined },
  ) {
    this.matcher = matcher;
    this.words = Math.ceil(vocabulary.vocabSize / 32);
    this.stopToken = vocabulary.stopToken;
    this.trigger = options.trigger;
    this.hidden = options.hidden;
    this.skip = options.skip ?? 0;
    this.waiting = this.trigger === undefined ? this.skip : undefined;
    this.guidance = options.guidance;
    this.place = options.guidance?.guide.start;
    this.left = options.maxTokens ?? Infinity;
  }

  /** @returns false when a token does not fit the grammar */
  advance(tokens: readonly number[]): boolean {
    return tokens.every((token) => {
      this.left--;
      return this.pass(token) || this.matcher.isTerminated() || (this.matcher.acceptToken(token) && this.follow(token));
    });
  }

  /**
   * Masks for the next token and for the one behind each draft; behind a draft that does not fit everything is allowed,
   * as it cannot be accepted.
   * @param rows [1 + drafts, words]
   * @returns false when the grammar allows no token at all
   */
  async fill(rows: Uint32Array, drafts: readonly number[]): Promise<boolean> {
    const { waiting, place, left } = this;
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
      this.left--;
      if (this.pass(draft)) continue;
      if (!isSet(row, draft) || this.matcher.isTerminated() || !this.matcher.acceptToken(draft)) {
        rows.fill(0xffffffff, (i + 1) * this.words);
        break;
      }
      matched++;
      this.follow(draft);
    }
    if (matched > 0) this.matcher.rollBack(matched);
    Object.assign(this, { waiting, place, left });
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

  /** @returns false when a token fits xgrammar's grammar, but not the counts that only the guide knows */
  private follow(token: number): boolean {
    if (this.guidance === undefined || this.place === undefined || token === this.stopToken) return true;
    const { guide, costs } = this.guidance;
    this.place = costs.behind(guide.recogniser, this.place, token) ?? undefined;
    return this.place !== undefined || !guide.needed;
  }

  private async mask(row: Uint32Array): Promise<boolean> {
    if (this.waiting !== 0) {
      row.fill(0xffffffff);
      // An end in the reasoning would leave no answer at all.
      if (this.waiting === undefined && this.place?.complete !== true) clearBit(row, this.stopToken);
      return true;
    }
    if (this.matcher.isTerminated()) {
      row.fill(0);
      setBit(row, this.stopToken);
      return true;
    }
    row.set(await this.allowed());
    const { guidance, place, left } = this;
    if (guidance !== undefined && place !== undefined) guidance.guide.keepEnd(row, place, { costs: guidance.costs, left });
    return row.some((word) => word !== 0);
  }

  /** The tokens that may follow, as long as there is room. The same for all completions at the same place of a grammar. */
  private async allowed(): Promise<Uint32Array> {
    const { guidance, place } = this;
    const known = place === undefined ? undefined : guidance?.costs.masks.find(place);
    if (known !== undefined) return known;
    const mask = new Uint32Array((await this.matcher.getNextTokenBitmask()).buffer);
    if (this.hidden !== undefined) clearBit(mask, this.hidden);
    if (guidance === undefined || place === undefined) return mask;
    guidance.guide.keepCounts(mask, place, guidance.costs);
    if (guidance.guide.faithful) guidance.costs.masks.keep(place, mask);
    return mask;
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
