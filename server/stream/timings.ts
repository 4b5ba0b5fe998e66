// SPDX-License-Identifier: MIT
// Times and counts of an answer, in llama.cpp's field names. Pure.

import type { Timing, Usage } from '../../engine/index.ts';

export interface WireTimings {
  queue_ms: number;
  /** Prompt tokens found in the prefix cache, and computed. */
  cache_n: number;
  prompt_n: number;
  prompt_ms: number;
  prompt_per_second: number;
  predicted_n: number;
  predicted_ms: number;
  predicted_per_second: number;
  /** Tokens that the draft block proposed, and those of them that were kept. */
  draft_n: number;
  draft_n_accepted: number;
}

/** Timings of an answer from those of its choices, which are computed side by side: counts add up, times do not. */
export class TimingsTotal {
  #queuedMs = Infinity;
  #firstTokenMs = 0;
  #totalMs = 0;
  readonly #prompt = { computed: 0, cached: 0 };
  #predicted = 0;
  #drafted = 0;
  #accepted = 0;

  /** Adds choice `choice` of a prompt. The first choice of each tells about the prompt; several prompts begin at the first. */
  add(choice: number, usage: Usage, timing: Timing): void {
    if (choice === 0) {
      this.#prompt.computed += usage.promptTokens - usage.cachedTokens;
      this.#prompt.cached += usage.cachedTokens;
      this.#queuedMs = Math.min(this.#queuedMs, timing.queuedMs);
      this.#firstTokenMs = Math.max(this.#firstTokenMs, timing.firstTokenMs);
    }
    this.#totalMs = Math.max(this.#totalMs, timing.totalMs);
    this.#predicted += usage.completionTokens;
    this.#drafted += usage.draftedTokens;
    this.#accepted += usage.acceptedTokens;
  }

  wire(): WireTimings {
    const queuedMs = Math.min(this.#queuedMs, this.#firstTokenMs);
    const promptMs = this.#firstTokenMs - queuedMs;
    const predictedMs = this.#totalMs - this.#firstTokenMs;
    return {
      queue_ms: queuedMs,
      cache_n: this.#prompt.cached,
      prompt_n: this.#prompt.computed,
      prompt_ms: promptMs,
      prompt_per_second: perSecond(this.#prompt.computed, promptMs),
      predicted_n: this.#predicted,
      predicted_ms: predictedMs,
      predicted_per_second: perSecond(this.#predicted, predictedMs),
      draft_n: this.#drafted,
      draft_n_accepted: this.#accepted,
    };
  }
}

/** JSON has no infinity: what took no time has no rate. */
function perSecond(count: number, ms: number): number {
  return ms > 0 ? (count * 1000) / ms : 0;
}
