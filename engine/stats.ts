// SPDX-License-Identifier: MIT

import type { KvCache } from './cache/kv-cache.ts';
import type { StepResult } from './native.ts';
import type { StepOutcome } from './scheduler/commit.ts';
import type { Scheduler } from './scheduler/scheduler.ts';
import type { EngineStats, FinishReason, GenerationEvent, Usage } from './types.ts';

/** Upper bounds of the counts in `stepTokens`; the last count has none. They are vLLM's for its iterations. */
const STEP_TOKEN_BOUNDS = [1, 8, ...Array.from({ length: 11 }, (_, power) => 16 * 2 ** power)];

/** The counters of an engine; gauges are read off scheduler and cache. */
export class StatsKeeper {
  readonly #scheduler: Scheduler;
  readonly #cache: KvCache;
  readonly #finished: Record<FinishReason, number> = { stop: 0, length: 0, tool_calls: 0, aborted: 0, error: 0 };
  readonly #stepTokenCounts = new Array<number>(STEP_TOKEN_BOUNDS.length + 1).fill(0);
  #stepTokenSum = 0;
  #steps = 0;
  #gathersOverlapped = 0;
  #gathersInline = 0;
  #reductionsOverlapped = 0;
  #reductionsInline = 0;
  #promptTokens = 0;
  #cachedPromptTokens = 0;
  #generatedTokens = 0;

  constructor(scheduler: Scheduler, cache: KvCache) {
    this.#scheduler = scheduler;
    this.#cache = cache;
  }

  addStep(result: StepResult, outcomes: readonly StepOutcome[]): void {
    this.#steps += 1;
    const tokens = outcomes.reduce((sum, outcome) => sum + promptTokens(outcome) + outcome.tokens.length, 0);
    const bound = STEP_TOKEN_BOUNDS.findIndex((most) => tokens <= most);
    this.#stepTokenCounts[bound < 0 ? STEP_TOKEN_BOUNDS.length : bound]! += 1;
    this.#stepTokenSum += tokens;
    this.#gathersOverlapped += result.gathersOverlapped;
    this.#gathersInline += result.gathersInline;
    this.#reductionsOverlapped += result.reductionsOverlapped;
    this.#reductionsInline += result.reductionsInline;
  }

  addStart(usage: Readonly<Usage>): void {
    this.#promptTokens += usage.promptTokens;
    this.#cachedPromptTokens += usage.cachedTokens;
  }

  addTokens(count: number): void {
    this.#generatedTokens += count;
  }

  addEnd(event: GenerationEvent): void {
    if (event.kind === 'end') this.#finished[event.reason] += 1;
  }

  /** `preparing`: requests that are not yet with the scheduler. */
  snapshot(preparing: number): EngineStats {
    const { counters, running, waiting, freeSlots } = this.#scheduler;
    const { contextPool, windowPool } = this.#cache;
    const held = (pool: { available: number; size: number }): number => 1 - pool.available / pool.size;
    return {
      running: running.length,
      waiting: waiting.length + preparing,
      preparing,
      kvUsage: Math.max(held(contextPool), held(windowPool)),
      promptTokens: this.#promptTokens,
      cachedPromptTokens: this.#cachedPromptTokens,
      generatedTokens: this.#generatedTokens,
      preemptions: counters.preemptions,
      prefixQueries: counters.prefixQueries,
      prefixHits: counters.prefixHits,
      drafts: counters.drafts,
      draftTokens: counters.draftTokens,
      acceptedTokens: counters.acceptedPerPosition.reduce((sum, count) => sum + count, 0),
      acceptedPerPosition: [...counters.acceptedPerPosition],
      steps: this.#steps,
      stepTokens: { bounds: STEP_TOKEN_BOUNDS, counts: [...this.#stepTokenCounts], sum: this.#stepTokenSum },
      gathersOverlapped: this.#gathersOverlapped,
      gathersInline: this.#gathersInline,
      reductionsOverlapped: this.#reductionsOverlapped,
      reductionsInline: this.#reductionsInline,
      finished: { ...this.#finished },
      freeContextBlocks: contextPool.available,
      freeWindowBlocks: windowPool.available,
      freeSlots,
    };
  }
}

/** Tokens of its prompt that a step computed for a sequence. */
function promptTokens({ sequence, position, count }: StepOutcome): number {
  return Math.max(0, Math.min(position + count, sequence.request.prompt.length) - position);
}
