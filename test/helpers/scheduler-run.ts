// SPDX-License-Identifier: MIT
// Drives a Scheduler over the scripted model, step by step, and says what every sequence should have given alone.

import { KvCache } from '../../engine/cache/kv-cache.ts';
import { GREEDY } from '../../engine/greedy-request.ts';
import { Scheduler } from '../../engine/scheduler/scheduler.ts';
import type { SchedulerLimits } from '../../engine/scheduler/scheduler.ts';
import type { Sequence, SequenceRequest, SequenceSampling } from '../../engine/scheduler/sequence.ts';
import type { StepOutcome } from '../../engine/scheduler/commit.ts';
import { ReferenceModel } from './scripted-model.ts';
import { ScriptedNative } from './scripted-native.ts';

export const EOS = 1;

export interface RunSizes extends SchedulerLimits {
  windowBlocks: number;
  contextBlocks: number;
  draftQuality?: number;
}

export const SMALL: RunSizes = {
  slots: 4,
  stepTokens: 128,
  mtp: 2,
  vocabSize: 64,
  maxModelLen: 1024,
  maxItlMs: 1000,
  windowBlocks: 24,
  contextBlocks: 40,
};

/** Greedy, with what the scheduler wants besides. */
export const GREEDY_SEQUENCE: SequenceSampling = {
  ...GREEDY,
  seed: 7n,
  bias: { tokens: new Int32Array(0), values: new Float32Array(0) },
};

export function sequenceRequest(prompt: ArrayLike<number>, changes: Partial<SequenceRequest> = {}): SequenceRequest {
  return {
    prompt: Int32Array.from(prompt),
    maxTokens: 16,
    minTokens: 0,
    stopTokens: new Set([EOS]),
    sampling: GREEDY_SEQUENCE,
    logprobs: -1,
    promptLogprobs: -1,
    priority: 0,
    salt: '',
    ...changes,
  };
}

/** `length` tokens that are the same for the same family. */
export function promptOf(family: number, length: number): number[] {
  return Array.from({ length }, (_, i) => 2 + ((family * 31 + i * i * 7 + i * (family + 3)) % 60));
}

export class SchedulerRun {
  readonly cache: KvCache;
  readonly scheduler: Scheduler;
  readonly native: ScriptedNative;
  readonly tokens = new Map<Sequence, number[]>();
  readonly promptLogprobs = new Map<Sequence, Map<number, number>>();
  readonly ends = new Map<Sequence, StepOutcome['finish'][]>();
  steps = 0;

  constructor(sizes: RunSizes) {
    this.cache = new KvCache(sizes);
    this.scheduler = new Scheduler(sizes, this.cache);
    this.native = new ScriptedNative({
      mtp: sizes.mtp,
      stepTokens: sizes.stepTokens,
      contextTokens: sizes.maxModelLen,
      draftQuality: sizes.draftQuality ?? 0.6,
    });
    void this.native.allocateCache(sizes);
  }

  add(request: SequenceRequest): Sequence {
    const sequence = this.scheduler.add(request);
    this.tokens.set(sequence, []);
    this.promptLogprobs.set(sequence, new Map());
    this.ends.set(sequence, []);
    return sequence;
  }

  /** One step; false when there was nothing to do. `during` runs while the step is in flight. */
  step(during: () => void = () => {}): boolean {
    const plan = this.scheduler.schedule();
    if (plan === undefined) return false;
    const result = this.native.runStep(plan);
    this.steps += 1;
    during();
    for (const outcome of this.scheduler.commit(result, result.micros / 1000)) {
      this.tokens.get(outcome.sequence)!.push(...outcome.tokens);
      if (outcome.finish !== undefined) this.ends.get(outcome.sequence)!.push(outcome.finish);
      if (outcome.promptToken < 0) continue;
      for (let i = 0; i < outcome.count; i++) {
        const known = this.promptLogprobs.get(outcome.sequence)!;
        known.set(outcome.position + i, result.promptLogprobs[outcome.promptToken + i]!);
      }
    }
    return true;
  }

  runAll(mostSteps = 10_000): void {
    while (this.step()) if (this.steps > mostSteps) throw new Error(`still running after ${mostSteps} steps`);
  }

  /** Everything is given back. */
  get idle(): boolean {
    const { contextPool, windowPool } = this.cache;
    return (
      contextPool.available === contextPool.size &&
      windowPool.available === windowPool.size &&
      this.scheduler.running.length === 0 &&
      this.scheduler.waiting.length === 0
    );
  }
}

/** Tokens of a request that runs alone, without cache, drafts or chunks. */
export function alone(request: SequenceRequest, maxModelLen: number): number[] {
  const { sampling, prompt, maxTokens, minTokens, stopTokens } = request;
  const model = new ReferenceModel();
  for (const token of prompt) model.push(token);
  const penalised = sampling.repetitionPenalty !== 1 || sampling.presencePenalty !== 0 || sampling.frequencyPenalty !== 0;
  const counts = new Map<number, number>(penalised ? [...prompt].map((token) => [token, 0]) : []);
  const output: number[] = [];
  while (output.length < maxTokens && prompt.length + output.length < maxModelLen) {
    const { mask, bias } = sampling;
    const banned = new Set(output.length < minTokens ? stopTokens : []);
    bias.tokens.forEach((token, i) => bias.values[i] === -Infinity && banned.add(token));
    const token = model.next({
      vocabSize: 64,
      seed: sampling.seed,
      temperature: sampling.temperature,
      counts,
      allowed: (candidate) =>
        !banned.has(candidate) && (mask === undefined || ((mask[candidate >> 5]! >>> (candidate & 31)) & 1) === 1),
    });
    output.push(token);
    if (penalised) counts.set(token, (counts.get(token) ?? 0) + 1);
    if (stopTokens.has(token)) break;
    model.push(token);
  }
  return output;
}
