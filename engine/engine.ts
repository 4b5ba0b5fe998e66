// SPDX-License-Identifier: MIT

import { Choice, NO_USAGE } from './choice.ts';
import type { ChoiceEnd } from './choice.ts';
import { EngineError } from './errors.ts';
import { inTurns } from './event-loop.ts';
import { EventStream } from './event-stream.ts';
import { Intake } from './intake.ts';
import type { IntakeParts, ReadyRequest } from './intake.ts';
import { PromptLogprobs } from './logprobs.ts';
import { fromNative } from './native-error.ts';
import type { NativeModel, StepPlan, StepResult } from './native.ts';
import type { StepOutcome } from './scheduler/commit.ts';
import type { Sequence } from './scheduler/sequence.ts';
import { sequenceRequests } from './sequence-request.ts';
import { StatsKeeper } from './stats.ts';
import { decodeStepwise } from './text/detokenizer.ts';
import type { Tokenizer } from './text/tokenizer.ts';
import type { KvCache } from './cache/kv-cache.ts';
import type { Engine, EngineLogger, EngineStats, GenerationEvent, GenerationRequest, ModelInfo, PromptInput } from './types.ts';

export interface EngineParts extends IntakeParts {
  info: ModelInfo;
  native: NativeModel;
  cache: KvCache;
  tokenizer: Tokenizer;
  prefixCache: boolean;
  logger: EngineLogger;
}

interface ComputedStep {
  outcomes: StepOutcome[];
  result: StepResult;
}

/** A request that was accepted. */
interface Job {
  stream: EventStream;
  choices: Choice[];
}

/**
 * The step loop: schedule → native step → commit → emit, with one step in flight. The text of a step's tokens is made while
 * the next step runs; an end that only the text shows (a stop string) therefore takes effect one step later, and what that
 * step computed for the sequence is dropped.
 */
export class ServingEngine implements Engine {
  readonly info: ModelInfo;
  readonly #parts: EngineParts;
  readonly #stats: StatsKeeper;
  readonly #intake: Intake;
  readonly #choices = new Map<Sequence, { job: Job; choice: Choice }>();
  /** Choices to end at the next step border. */
  readonly #leaving = new Map<Choice, ChoiceEnd>();
  #closing = false;
  #broken: EngineError | undefined;
  #stop = false;
  #wake: (() => void) | undefined;
  #requests = 0;
  readonly #loop: Promise<void>;

  constructor(parts: EngineParts) {
    this.info = parts.info;
    this.#parts = parts;
    this.#stats = new StatsKeeper(parts.scheduler, parts.cache);
    this.#intake = new Intake(parts);
    this.#loop = this.#run().catch((cause: unknown) => this.#crash(cause));
  }

  async *generate(request: GenerationRequest): AsyncGenerator<GenerationEvent[], void, void> {
    const job = await this.#accept(request);
    const abort = (): void => this.#endAll(job, { reason: 'aborted' });
    request.signal?.addEventListener('abort', abort, { once: true });
    if (request.signal?.aborted === true) abort();
    try {
      yield [];
      for (let events = await job.stream.next(); events !== undefined; events = await job.stream.next()) yield events;
    } finally {
      request.signal?.removeEventListener('abort', abort);
      abort();
    }
  }

  async encode(input: PromptInput): Promise<Int32Array> {
    return (await this.#parts.prompts.prepare(input)).tokens;
  }

  async decode(tokens: Int32Array): Promise<string> {
    return inTurns(decodeStepwise(this.#parts.tokenizer, tokens));
  }

  tokenBytes(token: number): Uint8Array {
    return this.#parts.tokenizer.tokenBytes(token);
  }

  async render(input: PromptInput): Promise<string> {
    return input.kind === 'tokens' ? this.decode(input.tokens) : this.#parts.prompts.render(input);
  }

  stats(): EngineStats {
    return this.#stats.snapshot(this.#intake.size);
  }

  health(): { ok: boolean; reason?: string } {
    return this.#broken === undefined ? { ok: true } : { ok: false, reason: this.#broken.message };
  }

  async drain(timeoutMs: number): Promise<void> {
    this.#closing = true;
    const deadline = performance.now() + timeoutMs;
    while (this.#busy && performance.now() < deadline) await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    for (const { job } of this.#choices.values()) this.#endAll(job, { reason: 'aborted' });
    while (this.#choices.size > 0) await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }

  /** Ends all requests and the step loop; what the engine was made of stays open. */
  async stop(): Promise<void> {
    await this.drain(0);
    this.#stop = true;
    this.#wake?.();
    await this.#loop;
  }

  async close(): Promise<void> {
    await this.stop();
    await Promise.all([this.#parts.constraints.close(), this.#parts.tokenizer.close()]);
    await this.#parts.native.close();
  }

  get #busy(): boolean {
    return this.#choices.size > 0 || this.#intake.size > 0;
  }

  // ---------------------------------------------------------------- requests

  async #accept(request: GenerationRequest): Promise<Job> {
    const submittedMs = performance.now();
    this.#refuseUnlessOpen();
    const ready = await this.#intake.prepare(request);
    if (ready === undefined) return this.#abortedJob(request, submittedMs);
    try {
      this.#refuseUnlessOpen();
    } catch (error) {
      this.#parts.constraints.release(ready.matchers);
      throw error;
    }
    return this.#enqueue(request, ready, submittedMs);
  }

  #enqueue(request: GenerationRequest, { prompt, matchers }: ReadyRequest, submittedMs: number): Job {
    const { scheduler, tokenizer, limits, prefixCache } = this.#parts;
    const salt = prefixCache ? (request.cacheSalt ?? '') : `request ${this.#requests}`;
    this.#requests += 1;
    const makeRequest = sequenceRequests(request, prompt, limits, { salt, matchers });
    const context = {
      request,
      prompt,
      table: tokenizer,
      eosToken: limits.eosToken,
      submittedMs,
      ...(request.promptLogprobs < 0
        ? {}
        : { promptLogprobs: new PromptLogprobs(tokenizer, prompt.tokens, request.promptLogprobs) }),
    };
    const pause = (paused: boolean): void => {
      for (const choice of job.choices) choice.sequence.paused = paused;
      this.#wake?.();
    };
    const stream = new EventStream({ onStall: () => pause(true), onRead: () => pause(false) });
    const job: Job = { stream, choices: [] };
    for (let index = 0; index < request.n; index++) {
      const sequence = scheduler.add(makeRequest(index, job.choices[0]?.sequence));
      const choice = new Choice(index, sequence, context);
      job.choices.push(choice);
      this.#choices.set(sequence, { job, choice });
    }
    // Before the loop can begin to compute it.
    if (request.signal?.aborted === true) this.#endAll(job, { reason: 'aborted' });
    this.#wake?.();
    return job;
  }

  /** A request aborted while it was tokenised: accepted and ended, like everywhere else. */
  #abortedJob(request: GenerationRequest, submittedMs: number): Job {
    const stream = new EventStream({ onStall: () => {}, onRead: () => {} });
    const totalMs = performance.now() - submittedMs;
    for (let choice = 0; choice < request.n; choice++) {
      const timing = { queuedMs: totalMs, firstTokenMs: totalMs, totalMs };
      const end = { kind: 'end', choice, reason: 'aborted', usage: { ...NO_USAGE }, timing } as const;
      this.#stats.addEnd(end);
      stream.push([end]);
    }
    stream.close();
    return { stream, choices: [] };
  }

  #refuseUnlessOpen(): void {
    if (this.#broken !== undefined) throw this.#broken;
    if (this.#closing) throw new EngineError('CLOSED', 'the engine is shutting down');
  }

  #endAll(job: Job, end: ChoiceEnd): void {
    for (const choice of job.choices) if (!choice.ended) this.#leave(choice, end);
  }

  /** Takes a choice's sequence out; its end is told at the next step border. */
  #leave(choice: Choice, end: ChoiceEnd): void {
    if (this.#leaving.has(choice)) return;
    this.#parts.scheduler.cancel(choice.sequence);
    this.#leaving.set(choice, end);
    this.#wake?.();
  }

  // ---------------------------------------------------------------- the loop

  async #run(): Promise<void> {
    let computed: ComputedStep | undefined;
    while (!this.#stop) {
      this.#tellLeaving();
      const plan = this.#plan();
      // Native copies the plan before step() returns; the text of the last step is made while this one runs.
      const step = plan === undefined ? undefined : this.#startStep(plan);
      if (computed !== undefined) this.#emit(computed.outcomes, computed.result);
      computed = undefined;
      if (step === undefined) {
        if (this.#leaving.size === 0) await this.#idle();
        continue;
      }
      const result = await step;
      if (result instanceof EngineError) this.#fail(result);
      else computed = this.#commit(result);
    }
  }

  #plan(): StepPlan | undefined {
    if (this.#broken !== undefined) return undefined;
    try {
      return this.#parts.scheduler.schedule();
    } catch (cause) {
      this.#fail(fromNative(cause));
      return undefined;
    }
  }

  async #startStep(plan: StepPlan): Promise<StepResult | EngineError> {
    const { native, scheduler } = this.#parts;
    const nowMs = performance.now();
    try {
      const step = scheduler.grammarRows.length === 0 ? native.step(plan) : this.#constrainedStep(plan);
      for (const sequence of scheduler.inFlight) {
        const entry = this.#choices.get(sequence);
        if (entry === undefined || entry.choice.started) continue;
        entry.job.stream.push(entry.choice.start(nowMs));
        this.#stats.addStart(entry.choice.usage);
      }
      return await step;
    } catch (cause) {
      return fromNative(cause);
    }
  }

  async #constrainedStep(plan: StepPlan): Promise<StepResult> {
    const { native, scheduler, constraints } = this.#parts;
    const failed = await constraints.fill(plan, scheduler.grammarRows);
    for (const { choice } of failed.size > 0 ? this.#choices.values() : []) {
      const { matcher } = choice.sequence.request;
      if (matcher === undefined || !failed.has(matcher) || choice.ended) continue;
      this.#leave(choice, {
        reason: 'error',
        error: new EngineError('INTERNAL', 'the grammar of the output cannot be followed any further'),
      });
    }
    return native.step(plan);
  }

  #commit(result: StepResult): ComputedStep | undefined {
    try {
      const outcomes = this.#parts.scheduler.commit(result, result.micros / 1000);
      this.#stats.addStep(result, outcomes);
      return { outcomes, result };
    } catch (cause) {
      this.#fail(fromNative(cause));
      return undefined;
    }
  }

  #emit(outcomes: readonly StepOutcome[], result: StepResult): void {
    const nowMs = performance.now();
    for (const outcome of outcomes) {
      const entry = this.#choices.get(outcome.sequence);
      if (entry === undefined) continue;
      const { job, choice } = entry;
      if (choice.ended || this.#leaving.has(choice)) continue;
      try {
        const { events, end } = choice.advance(outcome, result, nowMs);
        job.stream.push(events);
        for (const event of events) if (event.kind === 'tokens') this.#stats.addTokens(event.ids.length);
        if (end === undefined) continue;
        // What only the text showed still has its sequence running.
        if (outcome.sequence.phase === 'finished') this.#tellEnd(job, choice, end);
        else this.#leave(choice, end);
      } catch (cause) {
        const error = new EngineError('INTERNAL', 'the output could not be read', {}, cause);
        this.#parts.logger.error({ err: cause }, 'reading the output of a choice failed');
        this.#leave(choice, { reason: 'error', error });
      }
    }
  }

  #tellLeaving(): void {
    for (const [choice, end] of this.#leaving) {
      const entry = this.#choices.get(choice.sequence);
      if (entry !== undefined) this.#tellEnd(entry.job, choice, end);
    }
    this.#leaving.clear();
  }

  #tellEnd(job: Job, choice: Choice, end: ChoiceEnd): void {
    const events = choice.finish(end, performance.now());
    this.#choices.delete(choice.sequence);
    const { matcher } = choice.sequence.request;
    if (matcher !== undefined) this.#parts.constraints.release([matcher]);
    for (const event of events) this.#stats.addEnd(event);
    job.stream.push(events);
    if (job.choices.every((other) => other.ended)) job.stream.close();
  }

  /** A step failed: everything in it ends with the error. Unless the plan itself was refused, the model is lost. */
  #fail(error: EngineError): void {
    this.#parts.logger.error({ err: error, code: error.code }, 'an engine step failed');
    const failed = new Set(this.#parts.scheduler.fail());
    if (error.code !== 'INVALID_PLAN') this.#broken = error;
    for (const [sequence, { choice }] of this.#choices) {
      if (this.#broken !== undefined || failed.has(sequence)) this.#leave(choice, { reason: 'error', error });
    }
  }

  /** The loop itself failed, which no step may bring about: nobody is left waiting. */
  #crash(cause: unknown): void {
    this.#parts.logger.error({ err: cause }, 'the step loop failed');
    this.#broken = new EngineError('INTERNAL', 'the step loop failed', {}, cause);
    for (const { job, choice } of [...this.#choices.values()]) {
      if (!choice.ended) this.#tellEnd(job, choice, { reason: 'error', error: this.#broken });
    }
  }

  async #idle(): Promise<void> {
    if (this.#stop) return;
    await new Promise<void>((resolve) => (this.#wake = resolve));
    this.#wake = undefined;
  }
}

const POLL_MS = 5;
