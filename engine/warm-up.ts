// SPDX-License-Identifier: MIT

import { KvCache } from './cache/kv-cache.ts';
import type { CachePlan } from './cache/layout.ts';
import { EngineError } from './errors.ts';
import type { NativeModel } from './native.ts';
import { Scheduler } from './scheduler/scheduler.ts';
import type { SchedulerLimits } from './scheduler/scheduler.ts';
import type { SequenceRequest } from './scheduler/sequence.ts';

/**
 * Prepares every decode step, then runs a prefill and decode steps with blocks that are then forgotten, so that the first
 * request meets warm code only.
 */
export async function warmUp(native: NativeModel, limits: SchedulerLimits, plan: CachePlan): Promise<void> {
  await native.warmUp();
  const scheduler = new Scheduler(limits, new KvCache({ ...plan, mtp: native.mtp }));
  // As long as a step takes: the first use of memory costs time too.
  const length = Math.min(limits.stepTokens, limits.maxModelLen - 2);
  const sequence = scheduler.add(warmUpRequest(length, native.vocabSize));
  while (sequence.phase !== 'finished') {
    const step = scheduler.schedule();
    if (step === undefined) throw new EngineError('INTERNAL', 'the warm-up sequence cannot run');
    const result = await native.step(step);
    scheduler.commit(result, result.micros / 1000);
  }
}

function warmUpRequest(length: number, vocabSize: number): SequenceRequest {
  return {
    prompt: Int32Array.from({ length }, (_, i) => i % vocabSize),
    maxTokens: 2,
    minTokens: 0,
    stopTokens: new Set(),
    sampling: {
      temperature: 0,
      topP: 1,
      topK: 0,
      minP: 0,
      repetitionPenalty: 1,
      presencePenalty: 0,
      frequencyPenalty: 0,
      seed: 0n,
      bias: { tokens: new Int32Array(0), values: new Float32Array(0) },
    },
    logprobs: -1,
    promptLogprobs: -1,
    priority: 0,
    salt: '',
  };
}
