// SPDX-License-Identifier: MIT

import { EngineError } from './errors.ts';
import { greedyRequest } from './greedy-request.ts';
import type { SchedulerLimits } from './scheduler/scheduler.ts';
import type { Engine, GenerationRequest } from './types.ts';

/** Short requests behind the long one: what is run a few hundred times is compiled. */
const SHORT_REQUESTS = 5;
const SHORT_PROMPT = 16;
const SHORT_ANSWER = 24;

/**
 * Runs requests on an engine that is then forgotten, so that the first real one meets warm code and memory: one whose prompt
 * fills a step, since the first use of memory takes time too, and some short ones.
 * @throws EngineError of the step that failed.
 */
export async function warmUp(engine: Engine, limits: SchedulerLimits): Promise<void> {
  const room = limits.maxModelLen;
  const most = Math.max(1, room - 2);
  const filling = Math.min(limits.stepTokens, most);
  await run(engine, request(filling, Math.min(2, room - filling), limits.vocabSize));
  const prompt = Math.min(SHORT_PROMPT, most);
  const answer = Math.min(SHORT_ANSWER, room - prompt);
  for (let i = 0; i < SHORT_REQUESTS; i++) await run(engine, request(prompt, answer, limits.vocabSize));
}

async function run(engine: Engine, asked: GenerationRequest): Promise<void> {
  for await (const batch of engine.generate(asked)) {
    for (const event of batch) {
      if (event.kind !== 'end' || event.reason === 'length') continue;
      throw event.error ?? new EngineError('INTERNAL', `a request of the warm-up ended with ${event.reason}`);
    }
  }
}

function request(length: number, maxTokens: number, vocabSize: number): GenerationRequest {
  return greedyRequest(
    'warm-up',
    Int32Array.from({ length }, (_, i) => i % vocabSize),
    maxTokens,
  );
}
