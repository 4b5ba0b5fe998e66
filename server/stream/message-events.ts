// SPDX-License-Identifier: MIT
// Engine events → Anthropic message events, or one message. Pure.
//
// Blocks have contiguous indices and never overlap: thinking (closed by an empty signature), text, tool_use with its
// input as JSON pieces. `input_tokens` counts what was computed; what the prefix cache gave is apart from it.

import type { FinishReason, GenerationEvent } from '../../engine/index.ts';

export interface MessageHeader {
  id: string;
  model: string;
}

type Part = 'thinking' | 'text' | 'tool_use';

interface Usage {
  input_tokens: number;
  cache_creation_input_tokens: number;
  cache_read_input_tokens: number;
  output_tokens: number;
}

const stopReasons: Record<FinishReason, string> = {
  stop: 'end_turn',
  length: 'max_tokens',
  tool_calls: 'tool_use',
  aborted: 'end_turn',
  error: 'end_turn',
};

function stopReason(event: GenerationEvent & { kind: 'end' }): { stop_reason: string; stop_sequence: string | null } {
  if (typeof event.stop === 'string') return { stop_reason: 'stop_sequence', stop_sequence: event.stop };
  return { stop_reason: stopReasons[event.reason], stop_sequence: null };
}

function promptUsage(event: GenerationEvent & { kind: 'prompt' }): Usage {
  return {
    input_tokens: event.tokens.length - event.cachedTokens,
    cache_creation_input_tokens: 0,
    cache_read_input_tokens: event.cachedTokens,
    output_tokens: 0,
  };
}

/** Events of a streamed message; each object's `type` is its event name. */
export class MessageEvents {
  readonly #header: MessageHeader;
  #usage: Usage = { input_tokens: 0, cache_creation_input_tokens: 0, cache_read_input_tokens: 0, output_tokens: 0 };
  #started = false;
  #index = -1;
  #open: Part | undefined;
  /** Thinking sent so far; it is sent again as text when it turns out to have been meant as the answer. */
  #thinking = '';

  constructor(header: MessageHeader) {
    this.#header = header;
  }

  from(_prompt: number, events: readonly GenerationEvent[]): object[] {
    return events.flatMap((event) => this.#fromEvent(event));
  }

  closing(): object[] {
    return [{ type: 'message_stop' }];
  }

  #fromEvent(event: GenerationEvent): object[] {
    switch (event.kind) {
      case 'prompt':
        this.#usage = promptUsage(event);
        return this.#start();
      case 'reasoning':
        this.#thinking += event.text;
        return this.#delta(
          'thinking',
          { type: 'thinking', thinking: '', signature: '' },
          { type: 'thinking_delta', thinking: event.text },
        );
      case 'answer':
        return this.#text(event.text);
      case 'tool-call':
        return [...this.#close(), this.#begin('tool_use', { type: 'tool_use', id: event.id, name: event.name, input: {} })];
      case 'tool-arguments':
        return [
          { type: 'content_block_delta', index: this.#index, delta: { type: 'input_json_delta', partial_json: event.text } },
        ];
      case 'tool-end':
        return this.#close();
      case 'end':
        return this.#end(event);
      case 'progress':
      case 'tokens':
        return [];
    }
  }

  #start(): object[] {
    if (this.#started) return [];
    this.#started = true;
    const { id, model } = this.#header;
    const message = { id, type: 'message', role: 'assistant', model, content: [], stop_reason: null, stop_sequence: null };
    return [{ type: 'message_start', message: { ...message, usage: this.#usage } }];
  }

  #text(text: string): object[] {
    return this.#delta('text', { type: 'text', text: '' }, { type: 'text_delta', text });
  }

  #delta(part: Part, block: object, delta: object): object[] {
    const opening = this.#open === part ? [] : [...this.#close(), this.#begin(part, block)];
    return [...opening, { type: 'content_block_delta', index: this.#index, delta }];
  }

  #begin(part: Part, block: object): object {
    this.#open = part;
    this.#index += 1;
    return { type: 'content_block_start', index: this.#index, content_block: block };
  }

  #close(): object[] {
    const part = this.#open;
    this.#open = undefined;
    if (part === undefined) return [];
    const stop = { type: 'content_block_stop', index: this.#index };
    if (part !== 'thinking') return [stop];
    return [{ type: 'content_block_delta', index: this.#index, delta: { type: 'signature_delta', signature: '' } }, stop];
  }

  #end(event: GenerationEvent & { kind: 'end' }): object[] {
    this.#usage = { ...this.#usage, output_tokens: event.usage.completionTokens };
    if (event.reason === 'error' || event.reason === 'aborted') return [];
    const answer = event.reasoningIsAnswer === true ? this.#text(this.#thinking) : [];
    const last = { type: 'message_delta', delta: stopReason(event), usage: this.#usage };
    return [...this.#start(), ...answer, ...this.#close(), last];
  }
}

type ContentBlock =
  | { type: 'thinking'; thinking: string; signature: string }
  | { type: 'text'; text: string }
  | { type: 'tool_use'; id: string; name: string; input: unknown };

/** The whole message as one object. */
export class MessageAnswer {
  readonly #header: MessageHeader;
  readonly #content: ContentBlock[] = [];
  #arguments = '';
  #usage: Usage = { input_tokens: 0, cache_creation_input_tokens: 0, cache_read_input_tokens: 0, output_tokens: 0 };
  #stop: { stop_reason: string; stop_sequence: string | null } = { stop_reason: 'end_turn', stop_sequence: null };

  constructor(header: MessageHeader) {
    this.#header = header;
  }

  add(_prompt: number, event: GenerationEvent): void {
    const last = this.#content.at(-1);
    switch (event.kind) {
      case 'prompt':
        this.#usage = promptUsage(event);
        return;
      case 'reasoning':
        if (last?.type === 'thinking') last.thinking += event.text;
        else this.#content.push({ type: 'thinking', thinking: event.text, signature: '' });
        return;
      case 'answer':
        if (last?.type === 'text') last.text += event.text;
        else this.#content.push({ type: 'text', text: event.text });
        return;
      case 'tool-call':
        this.#arguments = '';
        this.#content.push({ type: 'tool_use', id: event.id, name: event.name, input: {} });
        return;
      case 'tool-arguments':
        this.#arguments += event.text;
        return;
      case 'tool-end':
        if (last?.type === 'tool_use') last.input = JSON.parse(this.#arguments || '{}');
        return;
      case 'end':
        this.#usage = { ...this.#usage, output_tokens: event.usage.completionTokens };
        this.#stop = stopReason(event);
        if (event.reasoningIsAnswer === true && last?.type === 'thinking') {
          this.#content[this.#content.length - 1] = { type: 'text', text: last.thinking };
        }
        return;
      case 'progress':
      case 'tokens':
        return;
    }
  }

  body(): Record<string, unknown> {
    const { id, model } = this.#header;
    return { id, type: 'message', role: 'assistant', model, content: this.#content, ...this.#stop, usage: this.#usage };
  }
}
