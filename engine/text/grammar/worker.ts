// SPDX-License-Identifier: MIT
// Thread that compiles grammars and holds their matchers: WebAssembly cannot hand either to another thread.

import { parentPort, workerData, type MessagePort } from 'node:worker_threads';
import { alphabetText } from '../byte-alphabet.ts';
import { UnreadableGrammar } from './ebnf-reader.ts';
import { Guide, TokenCosts } from './guide.ts';
import { MatcherState } from './matcher-state.ts';
import type { OpenOptions, StepMasks, StepRow, WorkerRequest, WorkerSetup } from './protocol.ts';
import { answerRequests, FatalError } from '../request-worker.ts';
import { sourceKey, type GrammarSource } from './specs.ts';
import { tokenTable, Vocabulary, type TokenTable } from './token-costs.ts';
import { loadXGrammar, type CompiledGrammar, type GrammarCompiler, type XGrammar } from './xgrammar.ts';

/** Stands for the DSML token: one byte that no JSON text and no tool argument contains. */
const ESCAPE = 0x1b;
/** Tokens that a new grammar is tried with. */
const TRIAL_TOKENS = 24;
/** Masks take about a millisecond, the first ones at a place of a large grammar some tens of it. */
const USUAL_MASK_MS = 100;
/** A completion may take this much longer in all: others wait for its masks. */
const MAX_SLOW_MS = 1500;

interface Compiled {
  grammar: CompiledGrammar;
  /** Absent when the grammar cannot be followed; then xgrammar alone says what fits. */
  guide: Guide | undefined;
}

class GrammarWorker {
  private readonly setup: WorkerSetup;
  private readonly tokens: TokenTable;
  private costs: TokenCosts | undefined;
  private readonly library: XGrammar;
  private readonly compiler: Promise<GrammarCompiler>;
  private readonly compiled = new Map<string, Compiled>();
  private readonly matchers = new Map<number, { state: MatcherState; slowness: Slowness }>();

  constructor(setup: WorkerSetup) {
    this.setup = setup;
    this.tokens = visibleTokens(setup);
    this.library = loadXGrammar();
    this.compiler = this.createCompiler();
  }

  async handle(request: WorkerRequest): Promise<StepMasks | undefined> {
    switch (request.kind) {
      case 'start':
        await this.compiler;
        this.costs ??= this.tokenCosts();
        return undefined;
      case 'compile':
        return this.tryOut(request.source);
      case 'open':
        return this.open(request);
      case 'step':
        return this.step(request.rows);
      case 'release':
        this.matchers.get(request.matcher)?.state.dispose();
        this.matchers.delete(request.matcher);
        return undefined;
    }
  }

  private async step(rows: readonly StepRow[]): Promise<StepMasks> {
    const words = Math.ceil(this.setup.vocabSize / 32);
    const total = rows.reduce((sum, row) => sum + 1 + row.drafts.length, 0);
    const masks = new Uint32Array(total * words);
    const failed: number[] = [];
    let offset = 0;
    for (const row of rows) {
      const end = offset + (1 + row.drafts.length) * words;
      if (!(await this.fill(row, masks.subarray(offset, end)))) {
        failed.push(row.matcher);
        masks.fill(0xffffffff, offset, end);
      }
      offset = end;
    }
    return { masks, failed };
  }

  /** @returns false when the completion does not fit its grammar, or the grammar takes too much of everybody's time */
  private async fill(row: StepRow, masks: Uint32Array): Promise<boolean> {
    const matcher = this.matchers.get(row.matcher);
    if (matcher === undefined) return false;
    const start = performance.now();
    const fits = matcher.state.advance(row.accepted) && (await matcher.state.fill(masks, row.drafts));
    return fits && !matcher.slowness.exceeded(performance.now() - start);
  }

  private async open({ matcher, source, options }: Extract<WorkerRequest, { kind: 'open' }>): Promise<undefined> {
    this.matchers.set(matcher, { state: await this.matcherOf(source, options), slowness: new Slowness() });
  }

  private async matcherOf(source: GrammarSource, options: OpenOptions): Promise<MatcherState> {
    const { grammar, guide } = await this.compile(source);
    this.costs ??= this.tokenCosts();
    return new MatcherState(await this.library.GrammarMatcher.createGrammarMatcher(grammar), this.setup, {
      ...options,
      hidden: source.markup ? undefined : this.setup.dsmlToken,
      guidance: guide && { guide, costs: this.costs },
    });
  }

  /** Compiles a grammar and writes some random tokens under it: what can be read in very many ways has slow masks. */
  private async tryOut(source: GrammarSource): Promise<undefined> {
    const state = await this.matcherOf(source, {});
    const { vocabSize, stopToken } = this.setup;
    const mask = new Uint32Array(Math.ceil(vocabSize / 32));
    const slowness = new Slowness();
    try {
      for (let i = 0; i < TRIAL_TOKENS; i++) {
        const start = performance.now();
        const possible = await state.fill(mask, []);
        if (i === 0 && !possible) throw new Error('the grammar allows nothing');
        if (slowness.exceeded(performance.now() - start)) throw new Error('finding out what fits takes too long');
        const token = someToken(mask, { from: (i * 7919) % vocabSize, vocabSize, stopToken });
        if (token === undefined || !state.advance([token])) return;
      }
    } finally {
      state.dispose();
    }
  }

  private tokenCosts(): TokenCosts {
    return new TokenCosts(new Vocabulary(this.tokens), this.setup.vocabSize, this.setup.stopToken);
  }

  /** Least recently used grammars go first; matchers keep theirs alive. */
  private async compile(source: GrammarSource): Promise<Compiled> {
    const key = sourceKey(source);
    const known = this.compiled.get(key);
    const compiled = known ?? { guide: guideOf(source), grammar: await (await this.compiler).compileGrammar(source.ebnf) };
    this.compiled.delete(key);
    this.compiled.set(key, compiled);
    const [oldest] = this.compiled;
    if (this.compiled.size > this.setup.cacheEntries && oldest !== undefined) {
      oldest[1].grammar.dispose();
      this.compiled.delete(oldest[0]);
    }
    return compiled;
  }

  private async createCompiler(): Promise<GrammarCompiler> {
    const { vocabSize, stopToken } = this.setup;
    const { bytes, offsets } = this.tokens;
    const vocabulary = Array.from({ length: offsets.length - 1 }, (_, token) =>
      alphabetText(bytes.subarray(offsets[token], offsets[token + 1])),
    );
    const info = await this.library.TokenizerInfo.createTokenizerInfo(vocabulary, 'byte_level', false, vocabSize, [stopToken]);
    return this.library.GrammarCompiler.createGrammarCompiler(info, false);
  }
}

/** Adds up the time of masks beyond what one may take. */
class Slowness {
  private ms = 0;

  exceeded(maskMs: number): boolean {
    this.ms += Math.max(0, maskMs - USUAL_MASK_MS);
    return this.ms > MAX_SLOW_MS;
  }
}

/** The first token that a mask allows, looked for from one on; not the stop token. */
function someToken(
  mask: Uint32Array,
  { from, vocabSize, stopToken }: { from: number; vocabSize: number; stopToken: number },
): number | undefined {
  for (let i = 0; i < vocabSize; i++) {
    const token = (from + i) % vocabSize;
    if (token !== stopToken && (((mask[token >> 5] as number) >>> (token & 31)) & 1) === 1) return token;
  }
  return undefined;
}

/** The tokens as grammars see them. */
function visibleTokens({ bytes, offsets, dsmlToken }: WorkerSetup): TokenTable {
  const tokens = Array.from({ length: offsets.length - 1 }, (_, token) => {
    if (token === dsmlToken) return Uint8Array.of(ESCAPE);
    const own = bytes.subarray(offsets[token], offsets[token + 1]);
    return own.includes(ESCAPE) ? new Uint8Array() : own;
  });
  return tokenTable(tokens);
}

/** @throws UnreadableGrammar when counts have to be checked and cannot be */
function guideOf(source: GrammarSource): Guide | undefined {
  try {
    return new Guide(source);
  } catch (error) {
    if (error instanceof UnreadableGrammar && source.exact === undefined) return undefined;
    throw error;
  }
}

/** xgrammar writes why it aborts to the console; the first such line is the reason. */
function captureReason(): () => string | undefined {
  let reason: string | undefined;
  const note = (...parts: unknown[]): void => {
    const fatal = /Check failed: .*?: (.*)|\[FATAL\] [^ ]+ (.*)/.exec(parts.map(String).join(' '));
    reason ??= fatal?.[1] ?? fatal?.[2];
  };
  Object.assign(console, { log: note, warn: note, error: note });
  return () => reason;
}

const tooComplex = 'the compiler gave up on it; nest it less deeply or make it smaller';

function serve(port: MessagePort): void {
  const reason = captureReason();
  const worker = new GrammarWorker(workerData as WorkerSetup);
  let queue: Promise<unknown> = Promise.resolve();
  answerRequests<WorkerRequest, StepMasks | undefined>(port, (request) => {
    const handled = queue.then(() => worker.handle(request));
    queue = handled.catch(() => undefined);
    return handled.then(
      (answer) => ({ answer, transfer: answer === undefined ? [] : [answer.masks.buffer as ArrayBuffer] }),
      (error: Error) => {
        // What WebAssembly says of its own stack and memory helps nobody to mend a grammar.
        throw ['RuntimeError', 'RangeError'].includes(error.name) ? new FatalError(reason() ?? tooComplex) : error;
      },
    );
  });
}

if (parentPort !== null) serve(parentPort);
