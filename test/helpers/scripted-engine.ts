// SPDX-License-Identifier: MIT
// An engine without a model that plays a script for every choice, for tests of the server.

import { NO_USAGE } from '../../engine/choice.ts';
import { EngineError } from '../../engine/errors.ts';
import type {
  Engine,
  EngineStats,
  FinishReason,
  GenerationEvent,
  GenerationRequest,
  ModelInfo,
  PromptInput,
  TokenLogprob,
  Usage,
} from '../../engine/types.ts';

export type ScriptStep =
  | { kind: 'reasoning' | 'answer'; text: string; logprobs?: TokenLogprob[] }
  | { kind: 'tool'; name: string; id: string; pieces: string[] }
  | { kind: 'progress'; computedTokens: number }
  | { kind: 'delay'; ms: number }
  /** Ends the choice with reason 'error'. */
  | { kind: 'fail'; error: EngineError }
  | { kind: 'end'; reason: FinishReason; stop?: string | number; reasoningIsAnswer?: true };

export const reasoning = (text: string, logprobs?: TokenLogprob[]): ScriptStep =>
  logprobs === undefined ? { kind: 'reasoning', text } : { kind: 'reasoning', text, logprobs };
export const answer = (text: string, logprobs?: TokenLogprob[]): ScriptStep =>
  logprobs === undefined ? { kind: 'answer', text } : { kind: 'answer', text, logprobs };
export const tool = (name: string, pieces: string[], id = `call_${name}`): ScriptStep => ({ kind: 'tool', name, id, pieces });
export const progress = (computedTokens: number): ScriptStep => ({ kind: 'progress', computedTokens });
export const delay = (ms: number): ScriptStep => ({ kind: 'delay', ms });
export const fail = (error: EngineError): ScriptStep => ({ kind: 'fail', error });
export const end = (reason: FinishReason, stop?: string | number): ScriptStep =>
  stop === undefined ? { kind: 'end', reason } : { kind: 'end', reason, stop };

/** The model ends without closing its reasoning. */
export const endInReasoning: ScriptStep = { kind: 'end', reason: 'stop', reasoningIsAnswer: true };

/** A script, or a function that writes one for a choice of a request. */
export type Script = ScriptStep[] | ((request: GenerationRequest, choice: number) => ScriptStep[]);

export interface ScriptedOptions {
  info?: Partial<ModelInfo>;
  cachedTokens?: number;
  promptLogprobs?: TokenLogprob[];
  /** Thrown in place of the first batch. */
  refuse?: EngineError;
  /** Wait before the request is accepted. */
  acceptMs?: number;
}

export interface ScriptedEngine extends Engine {
  /** Every request that came in, in order. */
  readonly requests: GenerationRequest[];
  /** Choices that ended because of their signal or because the reader left. */
  readonly aborted: number;
  /** Requests whose events are being read. */
  readonly active: number;
  /** Makes health() red. */
  breakDown(reason: string): void;
}

const DEFAULT_INFO: ModelInfo = {
  id: 'scripted',
  path: '/nowhere',
  created: 1_700_000_000,
  vocabSize: 256,
  maxModelLen: 8192,
  bosToken: 0,
  eosToken: 1,
  encoderRevision: 'preview',
  layers: { swa: 2, csa: 2, hca: 2 },
  mtp: 0,
  device: 'cpu',
  ranks: 1,
  numerics: 'exact',
  rowFormat: 'f32',
  generationDefaults: { temperature: 0.7, topP: 0.95 },
  fingerprint: 'fp_scripted',
  cache: { blockTokens: 128, contextBlocks: 64, windowBlocks: 32, slots: 8 },
};

/** What engines without a model share: identity, a byte-per-token tokenizer, counters, draining. */
export abstract class FakeEngine implements ScriptedEngine {
  readonly info: ModelInfo;
  readonly requests: GenerationRequest[] = [];
  aborted = 0;
  active = 0;
  protected promptTokens = 0;
  protected generatedTokens = 0;
  protected readonly finished: Record<FinishReason, number> = { stop: 0, length: 0, tool_calls: 0, aborted: 0, error: 0 };
  #broken: string | undefined;
  #closed = false;

  constructor(info: Partial<ModelInfo> = {}) {
    this.info = { ...DEFAULT_INFO, ...info };
  }

  abstract generate(request: GenerationRequest): AsyncGenerator<GenerationEvent[]>;

  /** Counts a request that has come in. @throws EngineError CLOSED */
  protected begin(request: GenerationRequest): void {
    this.requests.push(request);
    if (this.#closed) throw new EngineError('CLOSED', 'the engine is closed');
    this.active += 1;
  }

  /** Counts a choice that has ended. */
  protected countEnd(reason: FinishReason): void {
    this.finished[reason] += 1;
    if (reason === 'aborted') this.aborted += 1;
  }

  /** Counts a request that nobody reads any more; choices without an end count as aborted. */
  protected leave(request: GenerationRequest, ended: number): void {
    this.active -= 1;
    const missing = ended === 0 && this.#closed ? 0 : request.n - ended;
    this.finished.aborted += missing;
    this.aborted += missing;
  }

  async render(input: PromptInput): Promise<string> {
    if (input.kind === 'text') return input.text;
    if (input.kind === 'fim') return `<fim>${input.prefix}<hole>${input.suffix}<end>`;
    if (input.kind === 'tokens') return Buffer.from(input.tokens).toString();
    return input.messages.map((message) => `<${message.role}>${textOf(message.content)}`).join('') + '<assistant>';
  }

  async encode(input: PromptInput): Promise<Int32Array> {
    return input.kind === 'tokens' ? input.tokens : Int32Array.from(Buffer.from(await this.render(input)));
  }

  async decode(tokens: Int32Array): Promise<string> {
    return Buffer.from(tokens).toString();
  }

  tokenBytes(token: number): Uint8Array {
    return Uint8Array.of(token & 0xff);
  }

  stats(): EngineStats {
    return {
      running: this.active,
      waiting: 0,
      preparing: 0,
      kvUsage: 0,
      promptTokens: this.promptTokens,
      cachedPromptTokens: 0,
      generatedTokens: this.generatedTokens,
      preemptions: 0,
      prefixQueries: 0,
      prefixHits: 0,
      drafts: 0,
      draftTokens: 0,
      acceptedTokens: 0,
      acceptedPerPosition: [],
      steps: this.generatedTokens,
      stepTokens: { bounds: [1, 8], counts: [this.generatedTokens, 0, 0], sum: this.generatedTokens },
      gathersOverlapped: 0,
      gathersInline: 0,
      reductionsOverlapped: 0,
      reductionsInline: 0,
      finished: { ...this.finished },
      freeContextBlocks: this.info.cache.contextBlocks,
      freeWindowBlocks: this.info.cache.windowBlocks,
      freeSlots: this.info.cache.slots - this.active,
    };
  }

  health(): { ok: boolean; reason?: string } {
    return this.#broken === undefined ? { ok: true } : { ok: false, reason: this.#broken };
  }

  breakDown(reason: string): void {
    this.#broken = reason;
  }

  async drain(timeoutMs: number): Promise<void> {
    this.#closed = true;
    const deadline = performance.now() + timeoutMs;
    while (this.active > 0 && performance.now() < deadline) await sleep(5);
  }

  async close(): Promise<void> {
    this.#closed = true;
  }
}

class ScriptPlayer extends FakeEngine {
  readonly #script: Script;
  readonly #options: ScriptedOptions;

  constructor(script: Script, options: ScriptedOptions) {
    super(options.info);
    this.#script = script;
    this.#options = options;
  }

  async *generate(request: GenerationRequest): AsyncGenerator<GenerationEvent[]> {
    this.begin(request);
    let ended = 0;
    try {
      for await (const batch of this.#play(request)) {
        for (const event of batch) {
          if (event.kind !== 'end') continue;
          ended += 1;
          this.countEnd(event.reason);
        }
        yield batch;
      }
    } finally {
      this.leave(request, ended);
    }
  }

  async *#play(request: GenerationRequest): AsyncGenerator<GenerationEvent[]> {
    if (this.#options.acceptMs !== undefined) await sleep(this.#options.acceptMs, request.signal);
    if (this.#options.refuse !== undefined) throw this.#options.refuse;
    yield [];
    const tokens = await this.encode(request.input);
    this.promptTokens += tokens.length;
    const choices = Array.from({ length: request.n }, (_, choice) => this.#playChoice(request, choice, tokens));
    // Choices take turns, one batch each, so that a reader sees them mixed as from a real engine.
    let live = choices;
    while (live.length > 0) {
      const still: typeof live = [];
      for (const choice of live) {
        const next = await choice.next();
        if (next.done === true) continue;
        yield next.value;
        still.push(choice);
      }
      live = still;
    }
  }

  async *#playChoice(request: GenerationRequest, choice: number, tokens: Int32Array): AsyncGenerator<GenerationEvent[]> {
    const started = performance.now();
    const cachedTokens = this.#options.cachedTokens ?? 0;
    const usage: Usage = { ...NO_USAGE, promptTokens: tokens.length, cachedTokens };
    const steps = typeof this.#script === 'function' ? this.#script(request, choice) : this.#script;
    const logprobs = request.promptLogprobs >= 0 ? this.#options.promptLogprobs : undefined;
    yield [{ kind: 'prompt', choice, tokens, cachedTokens, ...(logprobs === undefined ? {} : { logprobs }) }];
    const finish = (reason: FinishReason, extra: { stop?: string | number; error?: EngineError } = {}): GenerationEvent[] => {
      const totalMs = performance.now() - started;
      return [{ kind: 'end', choice, reason, usage, timing: { queuedMs: 0, firstTokenMs: 0, totalMs }, ...extra }];
    };
    let toolIndex = 0;
    for (const step of steps) {
      if (step.kind === 'delay') await sleep(step.ms, request.signal);
      if (request.signal?.aborted === true) return yield finish('aborted');
      if (step.kind === 'fail') return yield finish('error', { error: step.error });
      if (step.kind === 'end') {
        const { reason, stop, reasoningIsAnswer } = step;
        return yield finish(reason, { ...(stop !== undefined && { stop }), ...(reasoningIsAnswer && { reasoningIsAnswer }) });
      }
      for (const batch of eventsOf(step, { choice, toolIndex, usage })) {
        if (batch.length > 0) yield batch;
        this.generatedTokens += 1;
      }
      if (step.kind === 'tool') toolIndex += 1;
    }
    yield finish(toolIndex > 0 ? 'tool_calls' : 'stop');
  }
}

/** Batches of one step; counts one completion token for every batch. */
function* eventsOf(step: ScriptStep, at: { choice: number; toolIndex: number; usage: Usage }): Generator<GenerationEvent[]> {
  const { choice, toolIndex: index, usage } = at;
  const sampled = (logprobs?: TokenLogprob[]): GenerationEvent => {
    usage.completionTokens += logprobs?.length ?? 1;
    const ids = logprobs?.map((entry) => entry.token) ?? [65];
    return { kind: 'tokens', choice, ids, ...(logprobs === undefined ? {} : { logprobs }) };
  };
  if (step.kind === 'reasoning' || step.kind === 'answer') {
    const tokens = sampled(step.logprobs);
    if (step.kind === 'reasoning') usage.reasoningTokens += step.logprobs?.length ?? 1;
    yield [tokens, { kind: step.kind, choice, text: step.text }];
  } else if (step.kind === 'tool') {
    yield [sampled(), { kind: 'tool-call', choice, index, id: step.id, name: step.name }];
    for (const text of step.pieces) yield [sampled(), { kind: 'tool-arguments', choice, index, text }];
    yield [sampled(), { kind: 'tool-end', choice, index }];
  } else if (step.kind === 'progress') {
    const { promptTokens, cachedTokens } = usage;
    yield [{ kind: 'progress', choice, computedTokens: step.computedTokens, cachedTokens, promptTokens }];
  }
}

/** An engine that plays `script` for every choice of every request. The default end is 'stop', or 'tool_calls' after a call. */
export function scriptedEngine(script: Script, options: ScriptedOptions = {}): ScriptedEngine {
  return new ScriptPlayer(script, options);
}

function textOf(content: string | readonly { type: string }[]): string {
  return typeof content === 'string' ? content : content.map((part) => ('text' in part ? String(part.text) : '')).join('');
}

/** Resolves after `ms`, or at once when `signal` aborts. */
function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal?.aborted === true) return resolve();
    const timer = setTimeout(done, ms);
    signal?.addEventListener('abort', done, { once: true });
    function done(): void {
      clearTimeout(timer);
      signal?.removeEventListener('abort', done);
      resolve();
    }
  });
}
