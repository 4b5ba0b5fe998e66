// SPDX-License-Identifier: MIT

import { randomBytes } from 'node:crypto';
import type { ContentEvent } from './text/content-events.ts';
import { ContentParser } from './text/content-parser.ts';
import type { ParserOptions } from './text/content-parser.ts';
import { Detokenizer } from './text/detokenizer.ts';
import type { Segment } from './text/segment.ts';
import { StopMatcher } from './text/stop-strings.ts';
import type { Tokenizer } from './text/tokenizer.ts';
import { TurnRecorder } from './text/turn-replay.ts';
import type { TurnReplay } from './text/turn-replay.ts';
import type { GenerationEvent, StopOptions } from './types.ts';

type TokenTable = Pick<Tokenizer, 'tokenBytes' | 'isControl'>;

export interface ChoiceTextOptions {
  choice: number;
  table: TokenTable;
  parser: ParserOptions;
  /** Markup of a tool call the model is made to write. */
  forced?: readonly Segment[];
  stop: StopOptions;
  /** Keeps a completed turn with tool calls. */
  replay?: TurnReplay;
}

/** Why the text itself ends a choice. */
export type TextEnd = { reason: 'stop'; stop: string } | { reason: 'tool_calls' };

/** Sampled tokens of one choice → events: bytes to text, text to content, stop strings in the answer. */
export class ChoiceText {
  /** Tokens up to the end of the reasoning. */
  reasoningTokens = 0;
  /** Tokens taken in. */
  tokens = 0;
  end: TextEnd | undefined;
  readonly #options: ChoiceTextOptions;
  readonly #detokenizer: Detokenizer;
  readonly #parser: ContentParser;
  readonly #stops: StopMatcher;
  /** What the prompt's forced markup has announced already (a call of a named tool). */
  #announced: ContentEvent[] = [];
  readonly #recorder: TurnRecorder | undefined;

  constructor(options: ChoiceTextOptions) {
    this.#options = options;
    this.#detokenizer = new Detokenizer(options.table);
    this.#parser = new ContentParser(options.parser);
    this.#stops = new StopMatcher(options.stop.strings, options.stop.includeInOutput);
    const records = options.replay !== undefined && options.parser.toolCalls !== false;
    this.#recorder = records ? new TurnRecorder(options.parser.start === 'reasoning') : undefined;
    if (options.parser.start === 'tool-calls') this.#announced = this.#forced();
  }

  /** Takes the next token; `silent`: it is a stop token whose text is not shown. Nothing may follow once `end` is set. */
  push(token: number, silent: boolean): GenerationEvent[] {
    this.tokens += 1;
    if (this.#parser.reasoning) this.reasoningTokens += 1;
    if (silent) return [];
    const events = this.#shown([...this.#announced.splice(0), ...this.#parsed(this.#detokenizer.push(token))]);
    if (this.end === undefined && this.#parser.done) this.end = { reason: 'tool_calls' };
    return events;
  }

  /** The forced tool call stands behind the last token now. */
  force(): GenerationEvent[] {
    return this.#shown(this.#forced());
  }

  /** What was held back, once no more tokens come. `complete`: the model ended by itself. */
  finish(complete: boolean): { events: GenerationEvent[]; toolCalls: boolean; reasoningIsAnswer: boolean } {
    if (this.end?.reason === 'stop') return { events: [], toolCalls: false, reasoningIsAnswer: false };
    // A turn that was cut behind its first call is not what the model would have written.
    const whole = complete && !this.#parser.done;
    const events = this.#shown([...this.#announced.splice(0), ...this.#parsed(this.#detokenizer.flush())]);
    const last = this.#parser.finish(complete);
    events.push(...this.#shown(last.events));
    events.push(...this.#releaseHeld());
    if (whole && last.finishedCalls > 0 && this.#recorder !== undefined) this.#options.replay?.record(this.#recorder.turn());
    return { events, toolCalls: last.finishedCalls > 0, reasoningIsAnswer: last.reasoningIsAnswer };
  }

  #parsed(segments: readonly Segment[]): ContentEvent[] {
    this.#recorder?.read(segments);
    return this.#parser.push(segments);
  }

  #forced(): ContentEvent[] {
    const forced = this.#options.forced ?? [];
    this.#recorder?.read(forced);
    return this.#parser.force(forced);
  }

  /** Content as events, answers through the stop matcher. */
  #shown(content: readonly ContentEvent[]): GenerationEvent[] {
    const events: GenerationEvent[] = [];
    for (const event of content) {
      if (this.end !== undefined) break;
      const shown = event.kind === 'answer' ? undefined : this.#withChoice(event);
      this.#recorder?.add(event, shown?.kind === 'tool-call' ? shown.id : undefined);
      if (event.kind === 'answer') events.push(...this.#answer(event.text));
      if (shown !== undefined) events.push(...this.#releaseHeld(), shown);
    }
    return events;
  }

  #answer(text: string): GenerationEvent[] {
    // Below the least number of tokens stop strings are not looked for.
    if (this.tokens < this.#options.stop.minTokens) return this.#answerEvent(text);
    const match = this.#stops.push(text);
    if (match.stop !== undefined) this.end = { reason: 'stop', stop: match.stop };
    return this.#answerEvent(match.text);
  }

  #releaseHeld(): GenerationEvent[] {
    return this.end === undefined ? this.#answerEvent(this.#stops.flush()) : [];
  }

  #answerEvent(text: string): GenerationEvent[] {
    return text === '' ? [] : [{ kind: 'answer', choice: this.#options.choice, text }];
  }

  #withChoice(event: Exclude<ContentEvent, { kind: 'answer' }>): GenerationEvent {
    const { choice } = this.#options;
    if (event.kind === 'tool-call') return { ...event, choice, id: `call_${randomBytes(12).toString('hex')}` };
    return { ...event, choice };
  }
}
