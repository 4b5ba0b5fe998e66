// SPDX-License-Identifier: MIT

import type { Constraints } from './constraints.ts';
import { estimateTokens } from './prompts.ts';
import type { PreparedPrompt, Prompts } from './prompts.ts';
import { admit, checkPromptLength } from './scheduler/admission.ts';
import type { QueueLimits, QueueState } from './scheduler/admission.ts';
import type { Scheduler } from './scheduler/scheduler.ts';
import { checkRequest, completionRoom } from './sequence-request.ts';
import type { ModelLimits } from './sequence-request.ts';
import type { GenerationRequest } from './types.ts';

export interface IntakeParts {
  scheduler: Scheduler;
  prompts: Prompts;
  limits: ModelLimits;
  queue: QueueLimits;
  constraints: Constraints;
}

export interface ReadyRequest {
  prompt: PreparedPrompt;
  /** A grammar matcher for each choice; empty without a grammar. */
  matchers: readonly number[];
}

/** What happens to a request before the scheduler sees it: checks, admission, rendering, tokenising. */
export class Intake {
  readonly #parts: IntakeParts;
  /** Requests being tokenised, with a guess of their tokens. */
  readonly #preparing = new Set<{ tokens: number }>();

  constructor(parts: IntakeParts) {
    this.#parts = parts;
  }

  /** Requests being prepared. */
  get size(): number {
    return this.#preparing.size;
  }

  /**
   * Prompt and grammar of a request; undefined when its signal aborted it meanwhile.
   * @throws EngineError INVALID_REQUEST, QUEUE_FULL (before anything is tokenised) or CONTEXT_LENGTH_EXCEEDED.
   */
  async prepare(request: GenerationRequest): Promise<ReadyRequest | undefined> {
    const { prompts, limits, queue, constraints } = this.#parts;
    checkRequest(request, limits);
    const entry = { tokens: estimateTokens(request.input) };
    admit(entry.tokens, this.#queueState(), queue);
    this.#preparing.add(entry);
    try {
      const prompt = await prompts.prepare(request.input, request.signal);
      checkPromptLength({
        promptTokens: prompt.tokens.length,
        maxTokens: request.maxTokens,
        maxModelLen: limits.maxModelLen,
        param: request.input.kind === 'chat' ? 'messages' : 'prompt',
      });
      return { prompt, matchers: await constraints.open(request, prompt, completionRoom(request, prompt, limits)) };
    } catch (error) {
      if (request.signal?.aborted === true) return undefined;
      throw error;
    } finally {
      this.#preparing.delete(entry);
    }
  }

  #queueState(): QueueState {
    const { scheduler } = this.#parts;
    let requests = this.#preparing.size;
    let tokens = 0;
    for (const entry of this.#preparing) tokens += entry.tokens;
    for (const sequence of scheduler.waiting) {
      // Further choices of a request share its prompt.
      if (sequence.request.leader !== undefined) continue;
      requests += 1;
      tokens += sequence.tokens.length;
    }
    return { requests, tokens, freeSlots: scheduler.freeSlots, prefillTokenMs: scheduler.costs.prefillMs(1) };
  }
}
