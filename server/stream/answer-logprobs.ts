// SPDX-License-Identifier: MIT

import type { TokenLogprob } from '../../engine/index.ts';

const thinkClose = '</think>';

/**
 * Finds the log-probabilities of an answer's own tokens among all that were sampled. Tokens come before the text they lead
 * to, and one step may hold the end of the thinking and the first words of the answer.
 */
export class AnswerLogprobs {
  readonly #endToken: number;
  #pending: TokenLogprob[] = [];
  #thinking: TokenLogprob[] = [];

  /** @param endToken ends a completion and has no text */
  constructor(endToken: number) {
    this.#endToken = endToken;
  }

  add(entries: readonly TokenLogprob[]): void {
    for (const entry of entries) if (entry.token !== this.#endToken) this.#pending.push(entry);
  }

  /** Text of the thinking came: what led to it is no part of the answer, unless it turns out to have been meant as that. */
  skipThinking(): void {
    const close = this.#pending.findIndex(({ text }) => text === thinkClose);
    this.#thinking.push(...this.#pending.splice(0, close < 0 ? this.#pending.length : close));
  }

  /** Tokens that a tool call is written with. */
  skip(): void {
    this.#pending = [];
  }

  /** Text of the answer came: what led to it. */
  take(): TokenLogprob[] {
    const close = this.#pending.findIndex(({ text }) => text === thinkClose);
    return this.#pending.splice(0).slice(close + 1);
  }

  takeThinking(): TokenLogprob[] {
    return this.#thinking.splice(0);
  }
}
