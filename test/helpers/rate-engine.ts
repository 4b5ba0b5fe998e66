// SPDX-License-Identifier: MIT
// An engine without a model that makes tokens at a given rate. Events take the way of the real engine's: a step pushes those of
// all requests into their streams in one turn of the event loop, and each reader takes its own.

import { NO_USAGE } from '../../engine/choice.ts';
import { EventStream } from '../../engine/event-stream.ts';
import type { FinishReason, GenerationEvent, GenerationRequest, ModelInfo, Usage } from '../../engine/types.ts';
import { FakeEngine } from './scripted-engine.ts';
import type { ScriptedEngine } from './scripted-engine.ts';

export interface RateOptions {
  /** Milliseconds between steps; in each step every running choice gets one token. 64 streams at 12.8 ms: 5,000 tok/s. */
  stepMs: number;
  /** Tokens of each choice; the request's maxTokens wins when smaller. */
  tokens: number;
  text?: string;
  info?: Partial<ModelInfo>;
  /** Called at the moment a token is handed out. */
  onToken?: (requestId: string, index: number, timeMs: number) => void;
}

interface Job {
  request: GenerationRequest;
  choices: readonly number[];
  stream: EventStream;
  usage: Usage;
  startedMs: number;
  total: number;
  aborted: boolean;
  /** Nobody takes what there is. */
  stalled: boolean;
}

class RateEngine extends FakeEngine {
  readonly #options: RateOptions;
  readonly #jobs = new Set<Job>();
  #timer: NodeJS.Timeout | undefined;
  #due = 0;

  constructor(options: RateOptions) {
    super(options.info);
    this.#options = options;
  }

  async *generate(request: GenerationRequest): AsyncGenerator<GenerationEvent[]> {
    this.begin(request);
    const job = this.#job(request, await this.encode(request.input));
    // Reading signal.aborted takes as long as the rest of a token.
    request.signal?.addEventListener('abort', () => (job.aborted = true), { once: true });
    try {
      yield [];
      for (let events = await job.stream.next(); events !== undefined; events = await job.stream.next()) yield events;
    } finally {
      const ended = this.#jobs.delete(job) ? 0 : request.n;
      this.leave(request, ended);
    }
  }

  #job(request: GenerationRequest, prompt: Int32Array): Job {
    const choices = Array.from({ length: request.n }, (_, choice) => choice);
    const stream = new EventStream({ onStall: () => (job.stalled = true), onRead: () => (job.stalled = false) });
    const job: Job = {
      request,
      choices,
      stream,
      usage: { ...NO_USAGE, promptTokens: prompt.length },
      startedMs: performance.now(),
      total: Math.min(this.#options.tokens, request.maxTokens ?? Infinity),
      aborted: request.signal?.aborted === true,
      stalled: false,
    };
    this.promptTokens += prompt.length;
    stream.push(choices.map((choice) => ({ kind: 'prompt', choice, tokens: prompt, cachedTokens: 0 }) as const));
    this.#jobs.add(job);
    if (this.#timer === undefined) this.#arm(performance.now());
    return job;
  }

  /** Deadlines are absolute, so that late timers do not lower the rate. */
  #arm(now: number): void {
    this.#due = Math.max(this.#due + this.#options.stepMs, now);
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      this.#step();
      if (this.#jobs.size > 0) this.#arm(performance.now());
    }, this.#due - now);
  }

  #step(): void {
    for (const job of this.#jobs) {
      if (job.aborted) this.#end(job, 'aborted');
      else if (job.usage.completionTokens === job.total) this.#end(job, 'length');
      else if (!job.stalled) this.#token(job);
    }
  }

  #token({ request, choices, stream, usage }: Job): void {
    const text = this.#options.text ?? ' token';
    this.#options.onToken?.(request.id, usage.completionTokens, performance.now());
    usage.completionTokens += 1;
    this.generatedTokens += request.n;
    const events: GenerationEvent[] = [];
    for (const choice of choices) events.push({ kind: 'tokens', choice, ids: [65] }, { kind: 'answer', choice, text });
    stream.push(events);
  }

  #end(job: Job, reason: FinishReason): void {
    const timing = { queuedMs: 0, firstTokenMs: 0, totalMs: performance.now() - job.startedMs };
    const usage = { ...job.usage };
    this.#jobs.delete(job);
    for (let ended = 0; ended < job.choices.length; ended++) this.countEnd(reason);
    job.stream.push(job.choices.map((choice) => ({ kind: 'end', choice, reason, usage, timing }) as const));
    job.stream.close();
  }
}

/** An engine that makes tokens at a fixed rate for any number of requests. */
export function rateEngine(options: RateOptions): ScriptedEngine {
  return new RateEngine(options);
}
