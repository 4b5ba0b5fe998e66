// SPDX-License-Identifier: MIT

import { ChoiceText } from './choice-text.ts';
import { EngineError } from './errors.ts';
import { sampledLogprobs } from './logprobs.ts';
import type { PromptLogprobs } from './logprobs.ts';
import type { StepResult } from './native.ts';
import type { PreparedPrompt } from './prompts.ts';
import type { StepOutcome } from './scheduler/commit.ts';
import type { Sequence } from './scheduler/sequence.ts';
import type { Tokenizer } from './text/tokenizer.ts';
import type { FinishReason, GenerationEvent, GenerationRequest, TokenLogprob, Usage } from './types.ts';

export const NO_USAGE: Readonly<Usage> = {
  promptTokens: 0,
  cachedTokens: 0,
  completionTokens: 0,
  reasoningTokens: 0,
  draftedTokens: 0,
  acceptedTokens: 0,
};

export interface ChoiceContext {
  request: GenerationRequest;
  prompt: PreparedPrompt;
  table: Pick<Tokenizer, 'tokenBytes' | 'isControl'>;
  eosToken: number;
  submittedMs: number;
  /** Log-probabilities of the prompt, computed with choice 0, told by all. */
  promptLogprobs?: PromptLogprobs;
}

export interface ChoiceEnd {
  reason: FinishReason;
  stop?: string | number;
  error?: EngineError;
}

/** One choice of a request: turns what its sequence computed into events, and counts. */
export class Choice {
  readonly index: number;
  readonly sequence: Sequence;
  ended = false;
  readonly #context: ChoiceContext;
  readonly #text: ChoiceText;
  readonly #usage: Usage;
  #promptTold = false;
  #startedMs = NaN;
  #firstTokenMs = NaN;

  constructor(index: number, sequence: Sequence, context: ChoiceContext) {
    this.index = index;
    this.sequence = sequence;
    this.#context = context;
    const { prompt, request, table } = context;
    this.#text = new ChoiceText({
      choice: index,
      table,
      parser: prompt.parser,
      stop: request.stop,
      ...(prompt.forced === undefined ? {} : { forced: prompt.forced }),
      ...(prompt.replay === undefined ? {} : { replay: prompt.replay }),
    });
    this.#usage = { ...NO_USAGE, promptTokens: prompt.tokens.length };
  }

  get usage(): Readonly<Usage> {
    return this.#usage;
  }

  /** The sequence is in a step for the first time. */
  get started(): boolean {
    return !Number.isNaN(this.#startedMs);
  }

  start(nowMs: number): GenerationEvent[] {
    this.#startedMs = nowMs;
    this.#usage.cachedTokens = this.sequence.cachedTokens;
    return this.#context.promptLogprobs === undefined ? this.#tellPrompt() : [];
  }

  /** Events of a step. When they include an end of the text's own, `end` says how; the caller finishes the choice. */
  advance(outcome: StepOutcome, result: StepResult, nowMs: number): { events: GenerationEvent[]; end?: ChoiceEnd } {
    const { request, promptLogprobs } = this.#context;
    const events: GenerationEvent[] = [];
    if (outcome.promptToken >= 0) promptLogprobs?.add(result, { ...outcome, place: outcome.promptToken });
    if (!this.#promptTold && promptLogprobs?.complete === true) events.push(...this.#tellPrompt());
    if (request.progress === true && promptLogprobs === undefined && this.#usage.completionTokens === 0) {
      events.push(this.#progress(outcome));
    }
    if (outcome.tokens.length === 0) return this.#ended(events, outcome.finish);
    if (Number.isNaN(this.#firstTokenMs)) this.#firstTokenMs = nowMs;
    const { kept, texts } = this.#pushTokens(outcome);
    this.#usage.draftedTokens += outcome.drafts;
    this.#usage.acceptedTokens += Math.min(kept.length, outcome.accepted - 1);
    events.push(this.#sampled(kept, outcome, result), ...texts);
    const { end } = this.#text;
    if (end !== undefined) return { events, end };
    if (outcome.forced) events.push(...this.#text.force());
    return this.#ended(events, outcome.finish);
  }

  /** The last events, `end` behind them. */
  finish(asked: ChoiceEnd, nowMs: number): GenerationEvent[] {
    this.ended = true;
    const { last, reason, stop, error } = this.#finishText(asked);
    const stopped = this.#text.end;
    const { submittedMs } = this.#context;
    const sinceMs = (timeMs: number): number => Math.max(0, (Number.isNaN(timeMs) ? nowMs : timeMs) - submittedMs);
    const stopShown = stopped?.reason === 'stop' ? stopped.stop : stop;
    const end: GenerationEvent = {
      kind: 'end',
      choice: this.index,
      reason: reason === 'stop' && last.toolCalls ? 'tool_calls' : reason,
      usage: { ...this.#usage },
      timing: { queuedMs: sinceMs(this.#startedMs), firstTokenMs: sinceMs(this.#firstTokenMs), totalMs: sinceMs(nowMs) },
      ...(stopShown === undefined ? {} : { stop: stopShown }),
      ...(last.reasoningIsAnswer ? { reasoningIsAnswer: true } : {}),
      ...(error === undefined ? {} : { error }),
    };
    return [...last.events, end];
  }

  /** An end is told whatever happens: a fault of the text becomes the error it ends with. */
  #finishText(end: ChoiceEnd): ChoiceEnd & { last: ReturnType<ChoiceText['finish']> } {
    try {
      return { ...end, last: this.#text.finish(end.reason === 'stop' || end.reason === 'tool_calls') };
    } catch (cause) {
      const error = end.error ?? new EngineError('INTERNAL', 'the output could not be read', {}, cause);
      return { reason: 'error', error, last: { events: [], toolCalls: false, reasoningIsAnswer: false } };
    }
  }

  /** EOS ends a choice without being named; other stop tokens are. */
  #ended(events: GenerationEvent[], finish: StepOutcome['finish']): { events: GenerationEvent[]; end?: ChoiceEnd } {
    if (finish === undefined) return { events };
    const named = finish.stop !== undefined && finish.stop !== this.#context.eosToken;
    return { events, end: { reason: finish.reason, ...(named ? { stop: finish.stop! } : {}) } };
  }

  /** Tokens up to an end found in the text, with the events they lead to. */
  #pushTokens({ tokens, finish }: StepOutcome): { kept: number[]; texts: GenerationEvent[] } {
    const kept: number[] = [];
    const texts: GenerationEvent[] = [];
    const { includeInOutput } = this.#context.request.stop;
    for (const [i, token] of tokens.entries()) {
      kept.push(token);
      const stops = finish?.stop !== undefined && i === tokens.length - 1;
      const silent = stops && (token === this.#context.eosToken || !includeInOutput);
      texts.push(...this.#text.push(token, silent));
      if (this.#text.end !== undefined) break;
    }
    this.#usage.completionTokens += kept.length;
    this.#usage.reasoningTokens = this.#text.reasoningTokens;
    return { kept, texts };
  }

  #sampled(ids: number[], outcome: StepOutcome, result: StepResult): GenerationEvent {
    const { table, request } = this.#context;
    if (request.logprobs < 0) return { kind: 'tokens', choice: this.index, ids };
    const row = { sample: outcome.sample, tokens: ids, width: request.logprobs };
    const logprobs: TokenLogprob[] = sampledLogprobs(table, result, row);
    return { kind: 'tokens', choice: this.index, ids, logprobs };
  }

  #tellPrompt(): GenerationEvent[] {
    this.#promptTold = true;
    const { prompt, promptLogprobs } = this.#context;
    const { cachedTokens } = this.#usage;
    return [
      {
        kind: 'prompt',
        choice: this.index,
        tokens: prompt.tokens,
        cachedTokens,
        ...(promptLogprobs === undefined ? {} : { logprobs: promptLogprobs.entries }),
      },
    ];
  }

  #progress(outcome: StepOutcome): GenerationEvent {
    const { promptTokens, cachedTokens } = this.#usage;
    const computedTokens = Math.min(promptTokens, outcome.position + outcome.count);
    return { kind: 'progress', choice: this.index, computedTokens, cachedTokens, promptTokens };
  }
}
