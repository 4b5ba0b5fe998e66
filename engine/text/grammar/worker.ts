// SPDX-License-Identifier: MIT
// Thread that compiles grammars and holds their matchers: WebAssembly cannot hand either to another thread.

import { parentPort, workerData, type MessagePort } from 'node:worker_threads';
import { alphabetText } from '../byte-alphabet.ts';
import { UnreadableGrammar } from './ebnf-reader.ts';
import { Guide, TokenCosts } from './guide.ts';
import { MatcherState } from './matcher-state.ts';
import type { StepMasks, StepRow, WorkerRequest, WorkerSetup } from './protocol.ts';
import { answerRequests, FatalError } from '../request-worker.ts';
import { sourceKey, type GrammarSource } from './specs.ts';
import { tokenTable, Vocabulary, type TokenTable } from './token-costs.ts';
import { loadXGrammar, type CompiledGrammar, type GrammarCompiler, type XGrammar } from './xgrammar.ts';

/** Stands for the DSML token: one byte that no JSON text and no tool argument contains. */
const ESCAPE = 0x1b;

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
  private readonly matchers = new Map<number, MatcherState>();

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
        return undefined;
      case 'compile': {
        const { grammar } = await this.compile(request.source);
        const matcher = await this.library.GrammarMatcher.createGrammarMatcher(grammar);
        const start = await matcher.getNextTokenBitmask();
        matcher.dispose();
        if (start.every((word) => word === 0)) throw new Error('the grammar allows nothing');
        return undefined;
      }
      case 'open':
        return this.open(request);
      case 'step':
        return this.step(request.rows);
      case 'release':
        this.matchers.get(request.matcher)?.dispose();
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
      const state = this.matchers.get(row.matcher);
      const fits =
        state !== undefined && state.advance(row.accepted) && (await state.fill(masks.subarray(offset, end), row.drafts));
      if (!fits) {
        failed.push(row.matcher);
        masks.fill(0xffffffff, offset, end);
      }
      offset = end;
    }
    return { masks, failed };
  }

  private async open({ matcher: id, source, options }: Extract<WorkerRequest, { kind: 'open' }>): Promise<undefined> {
    const { grammar, guide } = await this.compile(source);
    const matcher = await this.library.GrammarMatcher.createGrammarMatcher(grammar);
    const { vocabSize, stopToken, dsmlToken } = this.setup;
    this.costs ??= new TokenCosts(new Vocabulary(this.tokens), vocabSize, stopToken);
    const hidden = source.markup ? undefined : dsmlToken;
    const guidance = guide && { guide, costs: this.costs };
    this.matchers.set(id, new MatcherState(matcher, this.setup, { ...options, hidden, guidance }));
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
        throw error.name === 'RuntimeError' ? new FatalError(reason() ?? error.message) : error;
      },
    );
  });
}

if (parentPort !== null) serve(parentPort);
