// SPDX-License-Identifier: MIT

import type { StepPlan } from './native.ts';
import type { PreparedPrompt } from './prompts.ts';
import type { GrammarRow } from './scheduler/step-plan.ts';
import type { GrammarService } from './text/grammar/service.ts';
import type { GenerationRequest } from './types.ts';

type Grammars = Pick<GrammarService, 'compile' | 'open' | 'step' | 'release' | 'close'>;

/** Grammars of running requests: a matcher for each choice, and its masks in every step plan. */
export class Constraints {
  readonly #service: Grammars;
  readonly #words: number;
  readonly #thinkCloseToken: number;

  constructor(service: Grammars, vocabSize: number, thinkCloseToken: number) {
    this.#service = service;
    this.#words = Math.ceil(vocabSize / 32);
    this.#thinkCloseToken = thinkCloseToken;
  }

  /**
   * A matcher for each choice, that begins behind the reasoning and the markup that is put behind it; none without a grammar.
   * @param maxTokens tokens that each choice may sample; its matcher leads it to an end before they run out
   * @throws EngineError INVALID_REQUEST for a grammar that cannot be used, QUEUE_FULL when too many wait for the compiler.
   */
  async open(request: GenerationRequest, prompt: PreparedPrompt, maxTokens: number): Promise<number[]> {
    const asked = grammarOf(request, prompt);
    if (asked === undefined) return [];
    const grammar = await this.#service.compile(asked.spec, asked.param, request.signal);
    const behindReasoning = { trigger: this.#thinkCloseToken, skip: prompt.forcedTokens?.length ?? 0 };
    const options = { maxTokens, ...(prompt.parser.start === 'reasoning' ? behindReasoning : {}) };
    const opening = Array.from({ length: request.n }, () => this.#service.open(grammar, options));
    try {
      return await Promise.all(opening);
    } catch (error) {
      const opened = await Promise.allSettled(opening);
      this.release(opened.flatMap((matcher) => (matcher.status === 'fulfilled' ? [matcher.value] : [])));
      throw error;
    }
  }

  /** Fills the masks of a plan; returns the matchers whose completion cannot go on. */
  async fill(plan: StepPlan, rows: readonly GrammarRow[]): Promise<ReadonlySet<number>> {
    const { masks, failed } = await this.#service.step(rows);
    let from = 0;
    for (const { drafts, maskRow } of rows) {
      const end = from + (1 + drafts.length) * this.#words;
      plan.masks.set(masks.subarray(from, end), maskRow * this.#words);
      from = end;
    }
    return new Set(failed);
  }

  release(matchers: readonly number[]): void {
    for (const matcher of matchers) this.#service.release(matcher);
  }

  close(): Promise<void> {
    return this.#service.close();
  }
}

/** A forced call comes before the answer's grammar; calls that the model is free to make stand beside it. */
export function grammarOf(
  { grammar }: Pick<GenerationRequest, 'grammar'>,
  { toolGrammar, parser, forced }: Pick<PreparedPrompt, 'toolGrammar' | 'parser' | 'forced'>,
): GenerationRequest['grammar'] {
  const calls = toolGrammar === undefined ? undefined : { spec: toolGrammar, param: 'tools' };
  if (grammar === undefined || forced !== undefined) return calls;
  const { tools = [], toolCalls = false, parallel = true } = parser;
  const answer = grammar.spec;
  if (!toolCalls || tools.length === 0 || answer.kind === 'ebnf' || answer.kind === 'tool-calls') return grammar;
  const free = { kind: 'tool-calls', tools: tools.map((tool) => ({ tool, strict: false })), start: 'text', parallel } as const;
  return { spec: { ...(toolGrammar ?? free), answer }, param: grammar.param };
}
