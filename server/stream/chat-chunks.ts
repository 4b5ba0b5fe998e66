// SPDX-License-Identifier: MIT
// Engine events → chat.completion.chunk objects. Pure: no clock, no socket.
//
// What clients need, and break without: the role once and first; id, type and name of a tool call once; choices in
// order of their index; reasoning_content present in every text delta; exactly one finish chunk with an empty delta;
// usage only when asked for, last and with empty choices.

import type { GenerationEvent, TokenLogprob } from '../../engine/index.ts';
import { TextTemplate } from './text-template.ts';
import { TimingsTotal } from './timings.ts';
import type { WireTimings } from './timings.ts';
import { chatLogprobs, finishReason, UsageTotal, wireProgress } from './wire.ts';
import type { AnswerHeader, WireLogprobs, WireProgress, WireUsage } from './wire.ts';

export type ReasoningField = 'reasoning_content' | 'reasoning' | 'both';

export interface ChatChunkOptions {
  n: number;
  logprobs: boolean;
  includeUsage: boolean;
  continuousUsage: boolean;
  reasoningField: ReasoningField;
  /** False leaves the thinking text out of the answer. */
  includeReasoning: boolean;
  /** Times and draft counts behind each finish reason, of all choices that have ended. */
  timings: boolean;
  /** How far the prompt is computed, as it goes on; the clock is the caller's. */
  progress?: { elapsedMs: () => number };
}

export interface ChatChunk {
  id: string;
  object: 'chat.completion.chunk';
  created: number;
  model: string;
  system_fingerprint: string;
  choices: {
    index: number;
    delta: Record<string, unknown>;
    logprobs: WireLogprobs | null;
    finish_reason: string | null;
    stop_reason?: string | number | null;
  }[];
  usage?: WireUsage | null;
  timings?: WireTimings;
  prompt_progress?: WireProgress;
}

/** Names of the field as a text delta carries them: the one with text, or null where there is none. */
export function reasoningDelta(field: ReasoningField, text: string | null): Record<string, string | null> {
  if (field === 'both') return { reasoning_content: text, reasoning: text };
  return { [field]: text };
}

/** The openai client refuses more than 65,536 argument pieces; long arguments go out in larger ones. */
const smallPieces = 1024;
const pieceLength = 256;

type TextKind = 'reasoning' | 'answer';

interface ChoiceState {
  templates: Partial<Record<TextKind, TextTemplate>>;
  logprobs: TokenLogprob[];
  /** Thinking sent so far; it is sent again as the answer when it turns out to have been meant as that. */
  reasoning: string;
  tokens: number;
  pieces: number;
  heldArguments: { index: number; text: string };
}

export class ChatChunks {
  readonly #header: AnswerHeader;
  readonly #options: ChatChunkOptions;
  readonly #choices: ChoiceState[];
  readonly #usage = new UsageTotal();
  readonly #timings = new TimingsTotal();
  #opened = false;

  constructor(header: AnswerHeader, options: ChatChunkOptions) {
    this.#header = header;
    this.#options = options;
    this.#choices = Array.from({ length: options.n }, () => ({
      templates: {},
      logprobs: [],
      reasoning: '',
      tokens: 0,
      pieces: 0,
      heldArguments: { index: 0, text: '' },
    }));
  }

  /** Chunks of a batch of events, some as JSON. 'error' and 'aborted' ends are the caller's to report. */
  from(events: readonly GenerationEvent[]): (ChatChunk | string)[] {
    const all: (ChatChunk | string)[] = [];
    for (const event of events) {
      const chunks = this.#fromEvent(event);
      if (chunks.length > 0 && !this.#opened) all.push(...this.#open());
      all.push(...chunks);
    }
    return all;
  }

  /** The usage chunk behind the last choice's end; none unless asked for. */
  closing(): ChatChunk[] {
    return this.#options.includeUsage ? [{ ...this.#frame(), choices: [], usage: this.#usage.wire() }] : [];
  }

  #open(): ChatChunk[] {
    this.#opened = true;
    const delta = { role: 'assistant', content: '', ...reasoningDelta(this.#options.reasoningField, null) };
    return this.#choices.map((_, index) => this.#chunk(index, delta, null));
  }

  #fromEvent(event: GenerationEvent): (ChatChunk | string)[] {
    const choice = this.#choices[event.choice]!;
    switch (event.kind) {
      case 'prompt':
        if (event.choice === 0) this.#usage.addPrompt(event.tokens.length, event.cachedTokens);
        return [];
      case 'progress':
        return this.#progress(event);
      case 'tokens':
        choice.tokens += event.ids.length;
        if (event.logprobs !== undefined) choice.logprobs.push(...event.logprobs);
        return [];
      case 'reasoning':
        choice.reasoning += event.text;
        if (!this.#options.includeReasoning) return [];
        return [this.#text(event.choice, 'reasoning', event.text)];
      case 'answer':
        return [this.#text(event.choice, 'answer', event.text)];
      case 'tool-call': {
        const call = { index: event.index, id: event.id, type: 'function', function: { name: event.name, arguments: '' } };
        choice.pieces = 0;
        return [this.#delta(event.choice, { tool_calls: [call] })];
      }
      case 'tool-arguments':
        return this.#arguments(event.choice, event.index, event.text);
      case 'tool-end':
        return this.#heldArguments(event.choice);
      case 'end':
        return this.#end(event);
    }
  }

  /** All choices share one prompt; the first tells. */
  #progress(event: GenerationEvent & { kind: 'progress' }): ChatChunk[] {
    const { progress } = this.#options;
    if (progress === undefined || event.choice !== 0) return [];
    return [{ ...this.#chunk(0, {}, null), prompt_progress: wireProgress(event, progress.elapsedMs()) }];
  }

  #arguments(choice: number, index: number, text: string): ChatChunk[] {
    const state = this.#choices[choice]!;
    const held = state.heldArguments;
    state.heldArguments = { index, text: held.text + text };
    const enough = state.pieces < smallPieces ? 1 : pieceLength;
    return state.heldArguments.text.length >= enough ? this.#heldArguments(choice) : [];
  }

  #heldArguments(choice: number): ChatChunk[] {
    const state = this.#choices[choice]!;
    const { index, text } = state.heldArguments;
    if (text === '') return [];
    state.heldArguments = { index, text: '' };
    state.pieces += 1;
    return [this.#delta(choice, { tool_calls: [{ index, function: { arguments: text } }] })];
  }

  #end(event: GenerationEvent & { kind: 'end' }): (ChatChunk | string)[] {
    const state = this.#choices[event.choice]!;
    const held: (ChatChunk | string)[] = this.#heldArguments(event.choice);
    state.tokens = 0;
    this.#usage.addCompletion(event.usage);
    this.#timings.add(event.choice, event.usage, event.timing);
    if (event.reason === 'error' || event.reason === 'aborted') return held;
    if (event.reasoningIsAnswer === true) held.push(this.#text(event.choice, 'answer', state.reasoning));
    const chunk = this.#chunk(event.choice, {}, this.#takeLogprobs(event.choice));
    const choice = chunk.choices[0]!;
    choice.finish_reason = finishReason(event.reason);
    choice.stop_reason = event.stop ?? null;
    if (this.#options.timings) chunk.timings = this.#timings.wire();
    return [...held, chunk];
  }

  /** From a template unless each chunk carries counts or log-probabilities of its own. */
  #text(choice: number, kind: TextKind, text: string): ChatChunk | string {
    const { reasoningField, logprobs, continuousUsage } = this.#options;
    const delta = (shown: string): Record<string, unknown> =>
      kind === 'answer'
        ? { content: shown, ...reasoningDelta(reasoningField, null) }
        : { ...reasoningDelta(reasoningField, shown), content: null };
    if (logprobs || continuousUsage) return this.#delta(choice, delta(text));
    const { templates } = this.#choices[choice]!;
    templates[kind] ??= new TextTemplate((shown) => this.#chunk(choice, delta(shown), null));
    return templates[kind].json(text);
  }

  #delta(choice: number, delta: Record<string, unknown>): ChatChunk {
    return this.#chunk(choice, delta, this.#takeLogprobs(choice));
  }

  /** Log-probabilities of the tokens sampled since the last chunk of this choice. */
  #takeLogprobs(choice: number): WireLogprobs | null {
    const state = this.#choices[choice]!;
    if (!this.#options.logprobs || state.logprobs.length === 0) return null;
    const entries = state.logprobs;
    state.logprobs = [];
    return chatLogprobs(entries);
  }

  #frame(): Omit<ChatChunk, 'choices'> {
    const { id, created, model, fingerprint } = this.#header;
    return { id, object: 'chat.completion.chunk', created, model, system_fingerprint: fingerprint };
  }

  #chunk(index: number, delta: Record<string, unknown>, logprobs: WireLogprobs | null): ChatChunk {
    const { includeUsage, continuousUsage } = this.#options;
    const chunk: ChatChunk = { ...this.#frame(), choices: [{ index, delta, logprobs, finish_reason: null }] };
    if (continuousUsage) chunk.usage = this.#usage.wire(this.#choices.reduce((sum, choice) => sum + choice.tokens, 0));
    else if (includeUsage) chunk.usage = null;
    return chunk;
  }
}
