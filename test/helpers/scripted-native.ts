// SPDX-License-Identifier: MIT
// A native model without weights. It checks every plan as the real one does, keeps its cache per physical row, and computes
// tokens that depend on all of it (see scripted-model.ts), so that a scheduling fault shows as an error or a wrong token.

import { ROW_ALL_LOGPROBS, ROW_RESUME, ROW_SAMPLE } from '../../engine/native.ts';
import type { NativeModel, StepPlan, StepResult } from '../../engine/native.ts';
import { checkPlan } from './plan-check.ts';
import { RowView, ScriptedCache } from './scripted-cache.ts';
import { chooseToken, csaEntry, hcaEntry, mix, outputValue, rowValue } from './scripted-model.ts';
import type { Choice, Reader } from './scripted-model.ts';

export interface ScriptedNativeOptions {
  vocabSize?: number;
  mtp?: number;
  stepTokens?: number;
  contextTokens?: number;
  /** Share of drafts that are right, 0..1. */
  draftQuality?: number;
  /** Reported duration of a step. */
  micros?: (plan: StepPlan) => number;
  /** Real time a step takes; 0: the next turn of the event loop. */
  delayMs?: number;
}

export class ScriptedNative implements NativeModel {
  readonly vocabSize: number;
  readonly mtp: number;
  readonly windowBlockBytes = 2048;
  readonly contextBlockBytes = 256;
  readonly slotBytes = 64;
  readonly weightBytes = 0;
  readonly fingerprint = 'scripted';
  /** Plans that were run. */
  steps = 0;
  closed = false;
  /** Thrown by the next step, once. */
  failure: Error | undefined;
  readonly #options: Required<ScriptedNativeOptions>;
  #cache: ScriptedCache | undefined;
  #sizes = { slots: 0, windowBlocks: 0, contextBlocks: 0 };

  constructor(options: ScriptedNativeOptions = {}) {
    this.#options = {
      vocabSize: 64,
      mtp: 0,
      stepTokens: 256,
      contextTokens: 2048,
      draftQuality: 0.6,
      micros: (plan) => 1000 + 10 * plan.tokens.length,
      delayMs: 0,
      ...options,
    };
    this.vocabSize = this.#options.vocabSize;
    this.mtp = this.#options.mtp;
  }

  memory(): { freeBytes: number; totalBytes: number }[] {
    return [{ freeBytes: 1 << 30, totalBytes: 1 << 31 }];
  }

  async warmUp(): Promise<void> {}

  async allocateCache(sizes: { slots: number; windowBlocks: number; contextBlocks: number }): Promise<void> {
    this.#sizes = sizes;
    this.#cache = new ScriptedCache(sizes);
  }

  async step(plan: StepPlan): Promise<StepResult> {
    const result = this.runStep(plan);
    const { delayMs } = this.#options;
    await new Promise<void>((resolve) => (delayMs > 0 ? setTimeout(resolve, delayMs) : setImmediate(resolve)));
    return result;
  }

  async close(): Promise<void> {
    this.closed = true;
  }

  /** The step itself, at once. */
  runStep(plan: StepPlan): StepResult {
    const { failure } = this;
    this.failure = undefined;
    if (failure !== undefined) throw failure;
    const { vocabSize, mtp, stepTokens, contextTokens } = this.#options;
    checkPlan(plan, { vocabSize, mtp, stepTokens, contextTokens, ...this.#sizes });
    this.steps += 1;
    const samples = plan.temperature.length;
    const result: StepResult = {
      acceptedCount: new Int32Array(samples),
      accepted: new Int32Array(samples * (1 + mtp)).fill(-1),
      drafts: new Int32Array(samples * mtp).fill(-1),
      topWidth: Math.max(0, ...plan.logprobs),
      logprobs: new Float32Array(samples * (1 + mtp)),
      topTokens: new Int32Array(0),
      topLogprobs: new Float32Array(0),
      promptLogprobs: promptLogprobs(plan),
      promptTopTokens: new Int32Array(0),
      promptTopLogprobs: new Float32Array(0),
      logits: new Float32Array(0),
      mtpLogits: new Float32Array(0),
      micros: this.#options.micros(plan),
      gathersOverlapped: plan.slot.length <= 4 ? 1 : 0,
      gathersInline: plan.slot.length <= 4 ? 0 : 1,
      reductionsOverlapped: plan.tokens.length >= 2048 ? 2 : 0,
      reductionsInline: plan.tokens.length >= 2048 ? 1 : 3,
    };
    result.topTokens = new Int32Array(samples * (1 + mtp) * result.topWidth);
    result.topLogprobs = new Float32Array(result.topTokens.length);
    let sample = 0;
    let token = 0;
    for (let row = 0; row < plan.slot.length; row++) {
      const tokens = plan.tokens.subarray(token, token + plan.count[row]!);
      token += tokens.length;
      const samplesRow = (plan.flags[row]! & ROW_SAMPLE) !== 0;
      this.#runRow(plan, { row, sample: samplesRow ? sample++ : -1, tokens }, result);
    }
    return result;
  }

  #runRow(plan: StepPlan, at: { row: number; sample: number; tokens: Int32Array }, result: StepResult): void {
    const view = new RowView(this.#cache!, plan, at.row);
    const position = plan.position[at.row]!;
    const resumes = (plan.flags[at.row]! & ROW_RESUME) !== 0;
    if (resumes) view.resume(position);
    at.tokens.forEach((token, i) => this.#computeToken(view, position + i, token));
    const accepted = at.sample < 0 ? [] : this.#sampleRow(plan, { ...at, view }, result);
    if (this.mtp === 0) return;
    if (resumes) view.writeMtp(position, at.tokens[0]!, view.readRow(position - 1));
    const verified = at.tokens.length - plan.drafts[at.row]!;
    at.tokens.forEach((_, i) => {
      const successor = i < verified - 1 ? at.tokens[i + 1]! : (accepted[i - verified + 1] ?? plan.nextToken[at.row]!);
      view.writeMtp(position + i + 1, successor, view.readRow(position + i));
    });
    if (at.sample >= 0) this.#draft(plan, { ...at, view, accepted }, result);
  }

  #computeToken(view: RowView, position: number, token: number): void {
    view.writeRow(
      position,
      token,
      rowValue(token, position, (p) => view.readRow(p)),
    );
    const cache = this.#cache!;
    if (position % 4 === 3) {
      const entry = (position - 3) / 4;
      cache.csa.write(
        view.csaPlace(entry),
        entry,
        csaEntry(entry, (p) => view.readCsaRing(p)),
      );
    }
    if (position % 128 === 127) {
      const entry = (position - 127) / 128;
      cache.hca.write(
        view.hcaPlace(entry),
        entry,
        hcaEntry(entry, (p) => view.readHcaRing(p)),
      );
    }
  }

  #output(view: RowView, position: number): number {
    const cache = this.#cache!;
    return outputValue(position, view.readRow(position), {
      csa: (entry) => cache.csa.read(view.csaPlace(entry), entry),
      hca: (entry) => cache.hca.read(view.hcaPlace(entry), entry),
    });
  }

  /** Verifies the drafts and samples; returns the accepted tokens. */
  #sampleRow(
    plan: StepPlan,
    at: { row: number; sample: number; tokens: Int32Array; view: RowView },
    result: StepResult,
  ): number[] {
    const { row, sample, tokens, view } = at;
    const drafts = plan.drafts[row]!;
    const counts = countsOf(plan, sample);
    const accepted: number[] = [];
    for (let i = 0; i <= drafts; i++) {
      const index = tokens.length - 1 - drafts + i;
      const position = plan.position[row]! + index;
      const token = chooseToken(this.#output(view, position), position, this.#choice(plan, { sample, offset: i }, counts));
      accepted.push(token);
      if (plan.penaltyOffset[sample + 1]! > plan.penaltyOffset[sample]!) counts.set(token, (counts.get(token) ?? 0) + 1);
      if (i === drafts || token !== tokens[index + 1]) break;
    }
    result.acceptedCount[sample] = accepted.length;
    result.accepted.set(accepted, sample * (1 + this.mtp));
    accepted.forEach((token, i) => this.#addLogprobs(result, sample * (1 + this.mtp) + i, token));
    return accepted;
  }

  #addLogprobs(result: StepResult, index: number, token: number): void {
    result.logprobs[index] = -token / 64;
    for (let k = 0; k < result.topWidth; k++) {
      result.topTokens[index * result.topWidth + k] = (token + k) % this.vocabSize;
      result.topLogprobs[index * result.topWidth + k] = -(token + k) / 64;
    }
  }

  /** `offset`: drafts before the position; it has a mask of its own. */
  #choice(plan: StepPlan, { sample, offset }: { sample: number; offset: number }, counts: ReadonlyMap<number, number>): Choice {
    const banned = new Set<number>();
    for (let i = plan.biasOffset[sample]!; i < plan.biasOffset[sample + 1]!; i++) {
      if (plan.biasValues[i] === -Infinity) banned.add(plan.biasTokens[i]!);
    }
    const words = Math.ceil(this.vocabSize / 32);
    const maskRow = plan.maskRow[sample]!;
    return {
      vocabSize: this.vocabSize,
      seed: plan.seed[sample]!,
      temperature: plan.temperature[sample]!,
      counts,
      allowed: (token) =>
        !banned.has(token) &&
        (maskRow < 0 || ((plan.masks[(maskRow + offset) * words + (token >> 5)]! >>> (token & 31)) & 1) === 1),
    };
  }

  /** Drafts behind the last accepted token: the true continuation as long as the dice say so, then something else. */
  #draft(
    plan: StepPlan,
    at: { row: number; sample: number; tokens: Int32Array; view: RowView; accepted: number[] },
    result: StepResult,
  ): void {
    const { row, sample, tokens, view, accepted } = at;
    const start = plan.position[row]! + tokens.length - plan.drafts[row]! + accepted.length - 1;
    for (let p = Math.max(1, plan.position[row]! - 126); p < start; p++) view.checkMtp(p, view.tokenAt(p));
    view.checkMtp(start, accepted.at(-1)!);
    const future = new Future(this.#cache!, view);
    const counts = countsOf(plan, sample);
    let last = accepted.at(-1)!;
    let right = true;
    for (let k = 0; k < this.mtp; k++) {
      const output = future.push(start + k, last);
      const truth = chooseToken(output, start + k, this.#choice(plan, { sample, offset: 0 }, counts));
      right = right && (mix(output, 77) % 1000) / 1000 < this.#options.draftQuality;
      last = right ? truth : (truth + 1) % this.vocabSize;
      result.drafts[sample * this.mtp + k] = last;
      // Later passes store rows behind the sampled token; they are rewritten when the tokens are known.
      if (k > 0) view.writeMtp(start + k, last, 0);
    }
  }
}

/** Continues a row beyond what is computed without writing into the cache. */
class Future {
  readonly #rows = new Map<number, number>();
  readonly #csa = new Map<number, number>();
  readonly #hca = new Map<number, number>();
  readonly #cache: ScriptedCache;
  readonly #view: RowView;

  constructor(cache: ScriptedCache, view: RowView) {
    this.#cache = cache;
    this.#view = view;
  }

  push(position: number, token: number): number {
    const rows = this.#rows;
    const row: Reader = (p) => rows.get(p) ?? this.#view.readRow(p);
    rows.set(position, rowValue(token, position, row));
    const csaRing: Reader = (p) => rows.get(p) ?? this.#view.readCsaRing(p);
    const hcaRing: Reader = (p) => rows.get(p) ?? this.#view.readHcaRing(p);
    if (position % 4 === 3) this.#csa.set((position - 3) / 4, csaEntry((position - 3) / 4, csaRing));
    if (position % 128 === 127) this.#hca.set((position - 127) / 128, hcaEntry((position - 127) / 128, hcaRing));
    return outputValue(position, rows.get(position)!, {
      csa: (entry) => this.#csa.get(entry) ?? this.#cache.csa.read(this.#view.csaPlace(entry), entry),
      hca: (entry) => this.#hca.get(entry) ?? this.#cache.hca.read(this.#view.hcaPlace(entry), entry),
    });
  }
}

function countsOf(plan: StepPlan, sample: number): Map<number, number> {
  const counts = new Map<number, number>();
  for (let i = plan.penaltyOffset[sample]!; i < plan.penaltyOffset[sample + 1]!; i++) {
    counts.set(plan.penaltyTokens[i]!, plan.penaltyCounts[i]!);
  }
  return counts;
}

/** Of the following token: -(token) / 64; NaN where it is not known. */
function promptLogprobs(plan: StepPlan): Float32Array {
  const values: number[] = [];
  let token = 0;
  for (let row = 0; row < plan.slot.length; row++) {
    const count = plan.count[row]!;
    if ((plan.flags[row]! & ROW_ALL_LOGPROBS) !== 0) {
      for (let i = 0; i < count; i++) {
        const next = i + 1 < count ? plan.tokens[token + i + 1]! : plan.nextToken[row]!;
        values.push(next < 0 ? NaN : -next / 64);
      }
    }
    token += count;
  }
  return Float32Array.from(values);
}
