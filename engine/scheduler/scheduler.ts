// SPDX-License-Identifier: MIT

import type { KvCache, PrefixHit } from '../cache/kv-cache.ts';
import { blocksFor } from '../cache/layout.ts';
import type { StepPlan, StepResult } from '../native.ts';
import { commitRow } from './commit.ts';
import type { StepOutcome } from './commit.ts';
import { CostModel } from './cost-model.ts';
import { MIN_PREFILL_TOKENS, grantPrefill } from './policy.ts';
import { Sequence, byRank } from './sequence.ts';
import type { SequenceRequest } from './sequence.ts';
import { StepPlanBuilder } from './step-plan.ts';
import type { GrammarRow, StepRow } from './step-plan.ts';

export interface SchedulerLimits {
  /** Sequences that run at once. */
  slots: number;
  /** Tokens of a step; at least slots * (1 + mtp) + MIN_PREFILL_TOKENS. */
  stepTokens: number;
  /** Drafts per step. */
  mtp: number;
  vocabSize: number;
  maxModelLen: number;
  /** Target for the time of a step while answers run. */
  maxItlMs: number;
}

export interface SchedulerCounters {
  preemptions: number;
  prefixQueries: number;
  prefixHits: number;
  drafts: number;
  draftTokens: number;
  acceptedPerPosition: number[];
}

/** Window blocks that a sequence begins with: what it looks back to, what it computes, and what its drafts reach into. */
const WINDOWS_TO_START = 3;

/** Times a sequence that does not fit yet may be overtaken by later, smaller ones. */
export const MAX_BYPASSES = 16;

/**
 * Decides what every step computes. Pure state: no clock, no I/O; times come in through `commit`. One step is planned,
 * run by the caller, then committed, before the next is planned.
 *
 * Rows: all decoding sequences first, then prefill. Preemption (recompute, newest first) happens only when a decode row
 * finds no block; the first sequence in rank is never preempted, so there is always progress.
 */
export class Scheduler {
  readonly counters: SchedulerCounters;
  readonly costs = new CostModel();
  readonly #limits: SchedulerLimits;
  readonly #cache: KvCache;
  readonly #builder: StepPlanBuilder;
  readonly #freeSlots: number[];
  readonly #waiting: Sequence[] = [];
  #running: Sequence[] = [];
  /** Rows of the step being run; empty between steps. */
  #rows: StepRow[] = [];
  #cancelled = new Set<Sequence>();
  #nextId = 0;

  constructor(limits: SchedulerLimits, cache: KvCache) {
    this.#limits = limits;
    this.#cache = cache;
    this.#builder = new StepPlanBuilder(limits.mtp, limits.vocabSize);
    this.#freeSlots = Array.from({ length: limits.slots }, (_, i) => limits.slots - 1 - i);
    this.counters = {
      preemptions: 0,
      prefixQueries: 0,
      prefixHits: 0,
      drafts: 0,
      draftTokens: 0,
      acceptedPerPosition: new Array<number>(limits.mtp).fill(0),
    };
  }

  get running(): readonly Sequence[] {
    return this.#running;
  }

  get waiting(): readonly Sequence[] {
    return this.#waiting;
  }

  get freeSlots(): number {
    return this.#freeSlots.length;
  }

  /** Sequences of the step being run. */
  get inFlight(): Sequence[] {
    return this.#rows.map((row) => row.sequence);
  }

  /** Masks of the planned step that grammars have to fill before it runs. */
  get grammarRows(): readonly GrammarRow[] {
    return this.#builder.grammarRows;
  }

  /** Queues a sequence. Its prompt must be shorter than maxModelLen (or equal, when nothing is sampled). */
  add(request: SequenceRequest): Sequence {
    const sequence = new Sequence(this.#nextId++, request);
    this.#enqueue(sequence);
    return sequence;
  }

  /** Ends a sequence early; what it computed stays findable. Within a step it leaves when the step is committed. */
  cancel(sequence: Sequence): void {
    if (sequence.phase === 'finished') return;
    if (this.#rows.some((row) => row.sequence === sequence)) this.#cancelled.add(sequence);
    else this.#finish(sequence);
  }

  /** Plans the next step; undefined when there is nothing to compute. The plan's arrays are valid until the next call. */
  schedule(): StepPlan | undefined {
    if (this.#rows.length > 0) throw new Error('a step was planned while another is running');
    this.#running.sort(byRank);
    const preemptions = this.counters.preemptions;
    const decodeRows = this.#planDecode();
    if (preemptions === this.counters.preemptions) this.#admitWaiting();
    const decodeTokens = decodeRows.reduce((sum, row) => sum + row.count, 0);
    const rows = [...decodeRows, ...this.#planPrefill(decodeTokens)];
    if (rows.length === 0) return undefined;
    this.#rows = rows;
    this.#builder.begin();
    for (const row of rows) this.#builder.addRow(row);
    return this.#builder.finish();
  }

  /** Takes in the result of the planned step, which took `ms`. Cancelled sequences have no outcome. */
  commit(result: StepResult, ms: number): StepOutcome[] {
    const rows = this.#rows;
    this.#rows = [];
    const prefillTokens = rows.reduce((sum, row) => sum + (row.sequence.phase === 'prefilling' ? row.count : 0), 0);
    const decodeRows = rows.filter((row) => row.sequence.phase === 'decoding').length;
    this.costs.observe({ decodeRows, prefillTokens, ms });
    const outcomes: StepOutcome[] = [];
    let sample = 0;
    let promptToken = 0;
    for (const row of rows) {
      const { sequence } = row;
      const outcome = commitRow(row, result, { sample, promptToken, maxModelLen: this.#limits.maxModelLen });
      if (row.sample) this.#countDrafts(row, outcome.accepted);
      if (row.sample) sample += 1;
      if (row.promptLogprobs) promptToken += row.count;
      this.#cache.advance(sequence.blocks, sequence.tokens, sequence);
      const cancelled = this.#cancelled.delete(sequence);
      if (cancelled || outcome.finish !== undefined) this.#finish(sequence);
      if (!cancelled) outcomes.push(outcome);
    }
    return outcomes;
  }

  /** Ends every sequence of a step that failed; nothing it computed is trusted. Returns them. */
  fail(): Sequence[] {
    const failed = this.inFlight;
    this.#rows = [];
    this.#cancelled.clear();
    for (const sequence of failed) this.#finish(sequence);
    return failed;
  }

  #planDecode(): StepRow[] {
    const rows: StepRow[] = [];
    for (const sequence of [...this.#running]) {
      if (sequence.phase !== 'decoding' || sequence.paused) continue;
      const drafts = this.#usableDrafts(sequence);
      const count = 1 + drafts;
      while (sequence.phase === 'decoding' && !this.#cache.reserve(sequence.blocks, sequence.computed, count)) {
        this.#preempt(this.#victim());
      }
      // Preempted itself: everything newer is gone and there is still no room.
      if (sequence.phase !== 'decoding') continue;
      rows.push({ sequence, position: sequence.computed, count, drafts, sample: true, promptLogprobs: false });
    }
    return rows;
  }

  /** Drafts worth verifying: none past the last token that may be sampled, none across the end of a stop ban. */
  #usableDrafts(sequence: Sequence): number {
    const { maxTokens, minTokens } = sequence.request;
    const room = Math.min(maxTokens - sequence.generated, this.#limits.maxModelLen - sequence.tokens.length) - 1;
    const banned = minTokens - sequence.generated;
    return Math.max(0, Math.min(sequence.drafts.length, room, banned > 0 ? banned - 1 : Infinity));
  }

  #planPrefill(decodeTokens: number): StepRow[] {
    const prefilling = this.#running.filter((sequence) => sequence.phase === 'prefilling' && !sequence.paused).sort(byRank);
    let budget = this.#limits.stepTokens - decodeTokens;
    if (decodeTokens > 0) {
      const bounded = Math.max(MIN_PREFILL_TOKENS, this.costs.prefillTokensWithin(this.#limits.maxItlMs));
      budget = Math.min(budget, bounded);
    }
    const rows = this.#prefillRows(prefilling, budget);
    // Window blocks or context ran out with nothing else to run: make room for the first in rank.
    while (rows.length === 0 && decodeTokens === 0 && prefilling.length > 0) {
      const victim = this.#victim();
      if (victim === prefilling[0]) throw new Error('the cache is too small for one sequence');
      this.#preempt(victim);
      rows.push(...this.#prefillRows(prefilling.slice(0, 1), budget));
    }
    return rows;
  }

  #prefillRows(candidates: readonly Sequence[], budget: number): StepRow[] {
    const rows: StepRow[] = [];
    const decoding = this.#running.filter((sequence) => sequence.phase === 'decoding').length;
    for (const { sequence, tokens } of grantPrefill(candidates, budget)) {
      const position = sequence.computed;
      const count = Math.min(tokens, this.#cache.reach(sequence.blocks, position, spareWindows(decoding)));
      if (count === 0 || !this.#cache.reserve(sequence.blocks, position, count)) continue;
      const sample = count === sequence.remaining && sequence.request.maxTokens > 0;
      const promptLogprobs = sequence.request.promptLogprobs >= 0 && sequence.promptLogprobsDone < sequence.promptLength;
      rows.push({ sequence, position, count, drafts: 0, sample, promptLogprobs });
    }
    return rows;
  }

  /** Gives slots to waiting sequences whose whole known text fits beside what running prompts still need. */
  #admitWaiting(): void {
    const unfit: Sequence[] = [];
    for (const sequence of [...this.#waiting]) {
      if (sequence.paused || !sequence.ready) continue;
      if (this.#freeSlots.length === 0 && !this.#preemptPaused()) return;
      if (this.#startIfFits(sequence)) {
        for (const other of unfit) other.bypassed += 1;
        continue;
      }
      unfit.push(sequence);
      if (sequence.bypassed >= MAX_BYPASSES || unfit.length >= MAX_BYPASSES) return;
    }
  }

  #startIfFits(sequence: Sequence): boolean {
    do {
      const hit = this.#cache.lookup(sequence.blocks, sequence.tokens, sequence.hitLimit);
      if (this.#fits(sequence, hit)) {
        this.#start(sequence, hit);
        return true;
      }
    } while (this.#preemptPaused());
    return false;
  }

  #fits(sequence: Sequence, hit: PrefixHit): boolean {
    if (this.#running.length === 0) return true;
    // Context blocks that prompts under way have yet to take.
    let promised = 0;
    let decoding = 0;
    for (const other of this.#running) {
      if (other.phase === 'decoding') decoding += 1;
      else promised += blocksFor(other.tokens.length) - other.blocks.context.length;
    }
    // Blocks of a hit that nobody holds are among the available ones until this sequence holds them.
    const own = blocksFor(sequence.tokens.length + 1) - blocksFor(hit.tokens) + hit.idleContextBlocks;
    const { contextPool, windowPool } = this.#cache;
    // One block of each kind to spare for every answer.
    return own + promised + decoding <= contextPool.available && WINDOWS_TO_START + decoding <= windowPool.available;
  }

  #start(sequence: Sequence, hit: PrefixHit): void {
    this.#waiting.splice(this.#waiting.indexOf(sequence), 1);
    this.#cache.attach(sequence.blocks, hit);
    sequence.slot = this.#freeSlots.pop()!;
    sequence.computed = hit.tokens;
    sequence.resume = hit.tokens > 0;
    sequence.phase = 'prefilling';
    sequence.bypassed = 0;
    if (sequence.cachedTokens < 0) {
      sequence.cachedTokens = hit.tokens;
      this.counters.prefixQueries += sequence.promptLength;
      this.counters.prefixHits += hit.tokens;
    }
    this.#running.push(sequence);
  }

  /** Paused sequences go first, then the last in rank. */
  #victim(): Sequence {
    return this.#running.findLast((sequence) => sequence.paused) ?? this.#running.toSorted(byRank).at(-1)!;
  }

  #preemptPaused(): boolean {
    const paused = this.#running.findLast((sequence) => sequence.paused);
    if (paused !== undefined) this.#preempt(paused);
    return paused !== undefined;
  }

  #preempt(sequence: Sequence): void {
    this.counters.preemptions += 1;
    this.#leave(sequence);
    sequence.phase = 'waiting';
    sequence.computed = 0;
    this.#enqueue(sequence);
  }

  #finish(sequence: Sequence): void {
    if (sequence.phase === 'waiting') this.#waiting.splice(this.#waiting.indexOf(sequence), 1);
    else this.#leave(sequence);
    sequence.phase = 'finished';
  }

  /** Gives back slot and blocks. */
  #leave(sequence: Sequence): void {
    this.#running = this.#running.filter((other) => other !== sequence);
    this.#cache.release(sequence.blocks);
    this.#freeSlots.push(sequence.slot);
    sequence.slot = -1;
  }

  #enqueue(sequence: Sequence): void {
    const place = this.#waiting.findIndex((other) => byRank(sequence, other) < 0);
    this.#waiting.splice(place < 0 ? this.#waiting.length : place, 0, sequence);
  }

  #countDrafts(row: StepRow, accepted: number): void {
    if (row.drafts === 0) return;
    this.counters.drafts += 1;
    this.counters.draftTokens += row.drafts;
    for (let i = 0; i < accepted - 1; i++) this.counters.acceptedPerPosition[i]! += 1;
  }
}

/** Window blocks left alone for answers that reach their next block soon, so that they need not preempt anybody. */
function spareWindows(decoding: number): number {
  return Math.ceil(decoding / 4);
}
