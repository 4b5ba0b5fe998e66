// SPDX-License-Identifier: MIT

import { EngineError } from '../../errors.ts';
import { DSML } from '../chat-constants.ts';
import type { Tokenizer } from '../tokenizer.ts';
import { RequestWorker, WorkerTimeout } from '../request-worker.ts';
import type { OpenOptions, StepMasks, StepRow, WorkerRequest, WorkerSetup } from './protocol.ts';
import { tokenTable } from './token-costs.ts';
import { grammarSource, sourceKey, type GrammarSource, type GrammarSpec } from './specs.ts';

export interface GrammarOptions {
  tokenizer: Pick<Tokenizer, 'vocabSize' | 'eosToken' | 'tokenBytes' | 'isControl' | 'controlId'>;
  /** Rows of the model's logits; masks have as many bits. */
  vocabSize: number;
  /** A grammar that takes longer to compile is refused. Default 3000. */
  timeLimitMs?: number;
  /** Grammars kept compiled, and refusals remembered. Default 64. */
  cacheEntries?: number;
  /** Grammars that may wait for the compiler. Default 32. */
  maxQueued?: number;
}

/** Masks that take longer are given up with the thread, and all matchers with it: the steps of all others wait for them. */
const STEP_LIMIT_MS = 15_000;

type GrammarThread = RequestWorker<WorkerRequest, StepMasks | undefined>;

/** A grammar known to compile. */
export interface Grammar {
  readonly source: GrammarSource;
}

/**
 * Compiles grammars and steps their matchers, outside of the event loop. Two threads: one tries every new grammar and
 * may be killed by it; the other only ever sees grammars that passed, so no request can harm the matchers of another.
 */
export class GrammarService {
  private readonly setup: WorkerSetup;
  private readonly timeLimitMs: number;
  private readonly maxQueued: number;
  private readonly verdicts: VerdictCache;
  private trial: GrammarThread | undefined;
  private host: GrammarThread | undefined;
  private queue: Promise<unknown> = Promise.resolve();
  private queued = 0;
  private nextMatcher = 0;

  constructor(options: GrammarOptions) {
    const cacheEntries = options.cacheEntries ?? 64;
    this.setup = workerSetup(options, cacheEntries);
    this.timeLimitMs = options.timeLimitMs ?? 3000;
    this.maxQueued = options.maxQueued ?? 32;
    this.verdicts = new VerdictCache(cacheEntries);
  }

  /**
   * @param param request field that the specification came from, for errors
   * @throws EngineError INVALID_REQUEST with the reason; QUEUE_FULL when too many grammars wait for the compiler
   */
  async compile(spec: GrammarSpec, param: string, signal?: AbortSignal): Promise<Grammar> {
    const source = grammarSource(spec, param);
    // Both threads prepare the vocabulary at the same time.
    this.hostThread();
    const key = sourceKey(source);
    let verdict = this.verdicts.get(key);
    if (verdict === undefined) {
      if (this.queued >= this.maxQueued) throw new EngineError('QUEUE_FULL', 'too many grammars wait to be compiled', { param });
      verdict = this.enqueue(source);
      this.verdicts.set(key, verdict);
    }
    const refusal = await verdict;
    signal?.throwIfAborted();
    if (refusal !== undefined) throw new EngineError('INVALID_REQUEST', `cannot use this grammar: ${refusal}`, { param });
    return { source };
  }

  /**
   * A matcher at the beginning of a completion; give it back with `release`.
   * @throws EngineError INTERNAL when the grammar thread is lost
   */
  async open(grammar: Grammar, options: OpenOptions = {}): Promise<number> {
    const matcher = this.nextMatcher++;
    try {
      await this.hostThread().request({ kind: 'open', matcher, source: grammar.source, options });
    } catch (cause) {
      throw new EngineError('INTERNAL', `cannot open a grammar: ${(cause as Error).message}`, {}, cause);
    }
    return matcher;
  }

  /**
   * Advances matchers by their accepted tokens and fills their masks, in the order of `rows`: one for the next token and
   * one behind each draft. A matcher in `failed` has been given tokens its grammar forbids, or is lost; its masks allow
   * everything and its completion must end with an error.
   */
  async step(rows: readonly StepRow[]): Promise<StepMasks> {
    try {
      const result = await this.hostThread().request({ kind: 'step', rows }, { timeLimitMs: STEP_LIMIT_MS });
      if (result !== undefined) return result;
    } catch {
      // A thread that is lost is replaced when it is needed next; one that goes on has the matchers of others.
    }
    const words = Math.ceil(this.setup.vocabSize / 32);
    const total = rows.reduce((sum, row) => sum + 1 + row.drafts.length, 0);
    return { masks: new Uint32Array(total * words).fill(0xffffffff), failed: rows.map(({ matcher }) => matcher) };
  }

  release(matcher: number): void {
    this.host?.request({ kind: 'release', matcher }).catch(() => undefined);
  }

  async close(): Promise<void> {
    await Promise.all([this.trial?.terminate(), this.host?.terminate()]);
  }

  /** Grammars are tried one after the other, whoever asked for them. */
  private enqueue(source: GrammarSource): Promise<string | undefined> {
    this.queued++;
    const verdict = this.queue.then(() => this.tryCompile(source)).finally(() => this.queued--);
    this.queue = verdict.catch(() => undefined);
    return verdict;
  }

  /** @returns why the grammar is refused; undefined when it compiles */
  private async tryCompile(source: GrammarSource): Promise<string | undefined> {
    if (!this.trial?.alive) this.trial = startThread(this.setup);
    try {
      await this.trial.request({ kind: 'start' });
    } catch (cause) {
      throw new EngineError('INTERNAL', `cannot start the grammar compiler: ${(cause as Error).message}`, {}, cause);
    }
    try {
      await this.trial.request({ kind: 'compile', source }, { timeLimitMs: this.timeLimitMs });
      return undefined;
    } catch (error) {
      return error instanceof WorkerTimeout ? `compiling takes longer than ${this.timeLimitMs} ms` : (error as Error).message;
    }
  }

  private hostThread(): GrammarThread {
    if (this.host?.alive) return this.host;
    this.host = startThread(this.setup);
    this.host.request({ kind: 'start' }).catch(() => undefined);
    return this.host;
  }
}

/** Least recently used verdicts go first. A verdict that could not be reached is not kept. */
class VerdictCache {
  private readonly verdicts = new Map<string, Promise<string | undefined>>();
  private readonly entries: number;

  constructor(entries: number) {
    this.entries = entries;
  }

  get(key: string): Promise<string | undefined> | undefined {
    const verdict = this.verdicts.get(key);
    if (verdict === undefined) return undefined;
    this.verdicts.delete(key);
    this.verdicts.set(key, verdict);
    return verdict;
  }

  set(key: string, verdict: Promise<string | undefined>): void {
    this.verdicts.set(key, verdict);
    verdict.catch(() => this.verdicts.delete(key));
    const [oldest] = this.verdicts.keys();
    if (this.verdicts.size > this.entries && oldest !== undefined) this.verdicts.delete(oldest);
  }
}

function startThread(setup: WorkerSetup): GrammarThread {
  return new RequestWorker(new URL('./worker.js', import.meta.url), setup);
}

function workerSetup({ tokenizer, vocabSize }: GrammarOptions, cacheEntries: number): WorkerSetup {
  const dsmlToken = tokenizer.controlId(DSML);
  const tokens = Array.from({ length: tokenizer.vocabSize }, (_, id) =>
    tokenizer.isControl(id) ? new Uint8Array() : tokenizer.tokenBytes(id),
  );
  return { ...tokenTable(tokens), vocabSize, stopToken: tokenizer.eosToken, dsmlToken, cacheEntries };
}
