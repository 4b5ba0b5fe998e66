// SPDX-License-Identifier: MIT

/** Weight of the newest measurement in the running means. */
const NEWEST = 0.25;

/**
 * Milliseconds of a step as (time of the decode rows) + (prefill tokens) × (time of one), both learnt from measured steps.
 * The price of a prefill token grows with the context it attends to, so only recent steps count.
 */
export class CostModel {
  /** Mean time of steps with decode rows only; 0 until one was seen. */
  #decodeMs = 0;
  #prefillTokenMs = 0;

  /** Takes in a measured step. */
  observe(step: { decodeRows: number; prefillTokens: number; ms: number }): void {
    if (step.prefillTokens === 0) {
      this.#decodeMs = mean(this.#decodeMs, step.ms);
      return;
    }
    // Without a measured decode time the whole step is charged to the prefill tokens; the budget that follows then steers
    // the step time itself to the target.
    const extra = Math.max(step.ms - this.#decodeMs, step.ms * 0.05);
    this.#prefillTokenMs = mean(this.#prefillTokenMs, extra / step.prefillTokens);
  }

  /** Prefill tokens that keep a step with decode rows within `targetMs`; Infinity while nothing is known. */
  prefillTokensWithin(targetMs: number): number {
    if (this.#prefillTokenMs === 0) return Infinity;
    return Math.max(0, Math.floor((targetMs - this.#decodeMs) / this.#prefillTokenMs));
  }

  /** Time that `tokens` prefill tokens take; 0 while nothing is known. */
  prefillMs(tokens: number): number {
    return tokens * this.#prefillTokenMs;
  }
}

function mean(known: number, newest: number): number {
  return known === 0 ? newest : known + NEWEST * (newest - known);
}
