// SPDX-License-Identifier: MIT
// Engine events of a text completion → pieces of its choices, and those → chunks or one text_completion. Pure.

import { TextDecoder } from 'node:util';
import type { FinishReason, GenerationEvent, TokenLogprob } from '../../engine/index.ts';
import { TimingsTotal } from './timings.ts';
import { finiteLogprob, finishReason, UsageTotal, wireProgress } from './wire.ts';
import type { AnswerHeader, WireProgress, WireUsage } from './wire.ts';

export interface CompletionOptions {
  n: number;
  /** Text of each prompt, when it is to be repeated in front of the answer. */
  echo?: readonly string[];
  logprobs: boolean;
  includeUsage: boolean;
  continuousUsage: boolean;
  /** Times and draft counts behind each finish reason, of all choices that have ended. */
  timings: boolean;
  /** How far the prompts are computed, as it goes on; the clock is the caller's. */
  progress?: { elapsedMs: () => number };
  tokenBytes: (token: number) => Uint8Array;
}

/** The older form of log-probabilities: parallel arrays. `text_offset` counts characters (code points) from the text's start. */
export interface LegacyLogprobs {
  tokens: string[];
  token_logprobs: (number | null)[];
  top_logprobs: (Record<string, number> | null)[];
  text_offset: number[];
}

interface Piece {
  index: number;
  text: string;
  logprobs: LegacyLogprobs | null;
  reason?: FinishReason;
  stop?: string | number;
  progress?: WireProgress;
}

interface ChoiceState {
  logprobs: LegacyLogprobs;
  /** Characters of the tokens so far that are complete. */
  offset: number;
  decoder: TextDecoder;
  tokens: number;
}

type TokenText = Pick<TokenLogprob, 'text' | 'bytes'>;

const noLogprobs = (): LegacyLogprobs => ({ tokens: [], token_logprobs: [], top_logprobs: [], text_offset: [] });

/** Follows the choices of all prompts; choice c of prompt p has the index p·n + c. */
class CompletionPieces {
  readonly #options: CompletionOptions;
  readonly #choices = new Map<number, ChoiceState>();
  readonly usage = new UsageTotal();
  readonly timings = new TimingsTotal();

  constructor(options: CompletionOptions) {
    this.#options = options;
  }

  /** Tokens of choices that have not ended. */
  runningTokens(): number {
    return [...this.#choices.values()].reduce((sum, choice) => sum + choice.tokens, 0);
  }

  from(prompt: number, event: GenerationEvent): Piece[] {
    const index = prompt * this.#options.n + event.choice;
    const choice = this.#choice(index);
    switch (event.kind) {
      case 'prompt':
        if (event.choice === 0) this.usage.addPrompt(event.tokens.length, event.cachedTokens);
        return this.#echo(prompt, index, event);
      case 'tokens':
        choice.tokens += event.ids.length;
        if (event.logprobs !== undefined) for (const entry of event.logprobs) addToken(choice, entry);
        return [];
      case 'reasoning':
      case 'answer':
        return [{ index, text: event.text, logprobs: this.#takeLogprobs(index) }];
      case 'end': {
        choice.tokens = 0;
        this.usage.addCompletion(event.usage);
        this.timings.add(event.choice, event.usage, event.timing);
        const stop = event.stop === undefined ? {} : { stop: event.stop };
        return [{ index, text: '', logprobs: this.#takeLogprobs(index), reason: event.reason, ...stop }];
      }
      case 'progress': {
        const { progress } = this.#options;
        if (progress === undefined || event.choice !== 0) return [];
        return [{ index, text: '', logprobs: null, progress: wireProgress(event, progress.elapsedMs()) }];
      }
      default:
        return [];
    }
  }

  #echo(prompt: number, index: number, event: GenerationEvent & { kind: 'prompt' }): Piece[] {
    const text = this.#options.echo?.[prompt];
    if (text === undefined) return [];
    const choice = this.#choice(index);
    const entries = event.logprobs ?? [];
    // The first token has nothing before it that could predict it.
    const unknown = this.#options.logprobs ? event.tokens.subarray(0, event.tokens.length - entries.length) : [];
    for (const token of unknown) addUnknownToken(choice, this.#tokenOf(token));
    for (const entry of entries) {
      if (Number.isNaN(entry.logprob)) addUnknownToken(choice, entry);
      else addToken(choice, entry);
    }
    return [{ index, text, logprobs: this.#takeLogprobs(index) }];
  }

  #tokenOf(token: number): TokenText {
    const bytes = this.#options.tokenBytes(token);
    return { text: Buffer.from(bytes).toString('utf8'), bytes };
  }

  #choice(index: number): ChoiceState {
    let choice = this.#choices.get(index);
    if (choice === undefined) {
      choice = { logprobs: noLogprobs(), offset: 0, decoder: new TextDecoder('utf-8', { ignoreBOM: true }), tokens: 0 };
      this.#choices.set(index, choice);
    }
    return choice;
  }

  #takeLogprobs(index: number): LegacyLogprobs | null {
    const choice = this.#choice(index);
    if (!this.#options.logprobs) return null;
    const taken = choice.logprobs;
    choice.logprobs = noLogprobs();
    return taken;
  }
}

function addToken(choice: ChoiceState, entry: TokenLogprob): void {
  // The sampled token is always among its alternatives.
  const top = [...entry.top, entry].map(({ text, logprob }) => [text, finiteLogprob(logprob)] as const);
  choice.logprobs.token_logprobs.push(finiteLogprob(entry.logprob));
  choice.logprobs.top_logprobs.push(Object.fromEntries(top));
  addText(choice, entry);
}

function addUnknownToken(choice: ChoiceState, token: TokenText): void {
  choice.logprobs.token_logprobs.push(null);
  choice.logprobs.top_logprobs.push(null);
  addText(choice, token);
}

/** Tokens may part a character: all of its parts stand where it stands. */
function addText(choice: ChoiceState, { text, bytes }: TokenText): void {
  choice.logprobs.tokens.push(text);
  choice.logprobs.text_offset.push(choice.offset);
  choice.offset += [...choice.decoder.decode(bytes, { stream: true })].length;
}

function frame({ id, created, model, fingerprint }: AnswerHeader): Record<string, unknown> {
  return { id, object: 'text_completion', created, model, system_fingerprint: fingerprint };
}

/** Chunks of a streamed completion. */
export class CompletionChunks {
  readonly #header: AnswerHeader;
  readonly #options: CompletionOptions;
  readonly #pieces: CompletionPieces;

  constructor(header: AnswerHeader, options: CompletionOptions) {
    this.#header = header;
    this.#options = options;
    this.#pieces = new CompletionPieces(options);
  }

  from(prompt: number, events: readonly GenerationEvent[]): object[] {
    return events
      .flatMap((event) => this.#pieces.from(prompt, event))
      .filter(({ reason }) => reason !== 'error' && reason !== 'aborted')
      .map(({ index, text, logprobs, reason, stop, progress }) => {
        const end = { finish_reason: reason === undefined ? null : finishReason(reason), stop_reason: stop ?? null };
        return {
          ...frame(this.#header),
          choices: [{ index, text, logprobs, ...end }],
          ...this.#usage(),
          ...(reason !== undefined && this.#options.timings && { timings: this.#pieces.timings.wire() }),
          ...(progress !== undefined && { prompt_progress: progress }),
        };
      });
  }

  closing(): object[] {
    if (!this.#options.includeUsage) return [];
    return [{ ...frame(this.#header), choices: [], usage: this.#pieces.usage.wire() }];
  }

  #usage(): { usage?: WireUsage | null } {
    if (this.#options.continuousUsage) return { usage: this.#pieces.usage.wire(this.#pieces.runningTokens()) };
    return this.#options.includeUsage ? { usage: null } : {};
  }
}

/** The whole completion as one object. */
export class CompletionAnswer {
  readonly #header: AnswerHeader;
  readonly #timings: boolean;
  readonly #pieces: CompletionPieces;
  readonly #choices = new Map<number, Piece>();

  constructor(header: AnswerHeader, options: CompletionOptions) {
    this.#header = header;
    this.#timings = options.timings;
    this.#pieces = new CompletionPieces(options);
  }

  add(prompt: number, event: GenerationEvent): void {
    for (const piece of this.#pieces.from(prompt, event)) {
      const whole = this.#choices.get(piece.index);
      if (whole === undefined) this.#choices.set(piece.index, piece);
      else append(whole, piece);
    }
  }

  body(): Record<string, unknown> {
    const choices = [...this.#choices.values()].sort((a, b) => a.index - b.index);
    return {
      ...frame(this.#header),
      choices: choices.map(({ index, text, logprobs, reason, stop }) => {
        return { index, text, logprobs, finish_reason: finishReason(reason ?? 'stop'), stop_reason: stop ?? null };
      }),
      usage: this.#pieces.usage.wire(),
      ...(this.#timings && { timings: this.#pieces.timings.wire() }),
    };
  }
}

/** Adds a later piece of a choice to what there is of it. */
function append(whole: Piece, next: Piece): void {
  whole.text += next.text;
  if (next.reason !== undefined) whole.reason = next.reason;
  if (next.stop !== undefined) whole.stop = next.stop;
  if (whole.logprobs === null || next.logprobs === null) return;
  whole.logprobs.tokens.push(...next.logprobs.tokens);
  whole.logprobs.token_logprobs.push(...next.logprobs.token_logprobs);
  whole.logprobs.top_logprobs.push(...next.logprobs.top_logprobs);
  whole.logprobs.text_offset.push(...next.logprobs.text_offset);
}
