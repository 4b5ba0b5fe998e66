// SPDX-License-Identifier: MIT
// Engine events → events of a streamed response (OpenAI Responses), and the response itself. Pure.
//
// Every item is announced, filled and finished before the next begins; Codex keeps only what output_item.done carries.
// Reasoning goes out as reasoning_text. What is sent without a stream is the same response without its events.

import type { GenerationEvent, TokenLogprob } from '../../engine/index.ts';
import type { HttpError } from '../errors.ts';
import { AnswerLogprobs } from './answer-logprobs.ts';
import { chatLogprobs } from './wire.ts';
import type { WireLogprobs } from './wire.ts';

export interface ResponseHeader {
  /** Without prefix. */
  id: string;
  /** What the ids of the items are made from; not to be guessed where items are remembered. */
  itemKey: string;
  /** Unix seconds. */
  created: number;
  model: string;
  /** Fields of the request that the response repeats. */
  echo: Record<string, unknown>;
  /** Reasoning items carry what is needed to send them back without keeping their content. */
  packReasoning: boolean;
  /** Token that ends a completion. */
  endToken: number;
  /** A function as the client names it, from the name that the model writes. */
  toolName: (name: string) => { name: string; namespace?: string };
  /** Told of every item that is complete. */
  onItem?: (item: OutputItem) => void;
}

type Status = 'in_progress' | 'completed' | 'incomplete';

export type OutputItem =
  | { type: 'reasoning'; id: string; status: Status; summary: []; content: object[]; encrypted_content?: string }
  | { type: 'message'; id: string; status: Status; role: 'assistant'; content: object[] }
  | { type: 'function_call'; id: string; status: Status; call_id: string; name: string; namespace?: string; arguments: string };

type Logprobs = WireLogprobs['content'];

interface OpenItem {
  item: OutputItem;
  text: string;
  /** Of the tokens of a message; empty when none are asked for. */
  logprobs: Logprobs;
}

const packMark = 'reasoning.';

/** The text of a reasoning item as clients send it back that drop its content. Encoded, not encrypted. */
export function packReasoning(text: string): string {
  return packMark + Buffer.from(text).toString('base64url');
}

/** Undefined for what another server has made. */
export function unpackReasoning(packed: string): string | undefined {
  return packed.startsWith(packMark) ? Buffer.from(packed.slice(packMark.length), 'base64url').toString() : undefined;
}

const outputText = (text: string, logprobs: Logprobs): object => ({ type: 'output_text', text, annotations: [], logprobs });
const reasoningText = (text: string): object => ({ type: 'reasoning_text', text });

/** The item with its text or arguments so far. */
function filled({ item, text, logprobs }: OpenItem): OutputItem {
  if (item.type === 'function_call') return { ...item, arguments: text };
  return { ...item, content: [item.type === 'message' ? outputText(text, logprobs) : reasoningText(text)] };
}

export class ResponseEvents {
  readonly #header: ResponseHeader;
  readonly #output: OutputItem[] = [];
  #open: OpenItem | undefined;
  readonly #logprobs: AnswerLogprobs;
  #sequence = 0;
  #started = false;
  #cut = false;
  #finished = false;
  #reasoning = '';
  #usage: Record<string, unknown> | null = null;
  #cachedTokens = 0;

  constructor(header: ResponseHeader) {
    this.#header = header;
    this.#logprobs = new AnswerLogprobs(header.endToken);
  }

  from(_prompt: number, events: readonly GenerationEvent[]): object[] {
    return [...this.#start(), ...events.flatMap((event) => this.#fromEvent(event))];
  }

  closing(): object[] {
    return [this.#lifecycle(this.#cut ? 'response.incomplete' : 'response.completed')];
  }

  /** Says again that the response is in progress: agents that watch for events do not see comments. */
  ping(): object[] {
    return this.#started ? [this.#lifecycle('response.in_progress')] : this.#start();
  }

  failure(error: HttpError): object[] {
    const start = this.#start();
    const code = error.status === 500 ? 'server_error' : error.code;
    const response = { ...this.response(), status: 'failed', error: { code, message: error.message } };
    return [...start, this.#event('response.failed', { response })];
  }

  response(): Record<string, unknown> {
    const { id, created, model, echo } = this.#header;
    return {
      id: `resp_${id}`,
      object: 'response',
      created_at: created,
      status: this.#finished ? (this.#cut ? 'incomplete' : 'completed') : 'in_progress',
      error: null,
      incomplete_details: this.#cut ? { reason: 'max_output_tokens' } : null,
      model,
      output: this.#output.map((item) => (item === this.#open?.item ? filled(this.#open) : item)),
      usage: this.#usage,
      ...echo,
    };
  }

  #start(): object[] {
    if (this.#started) return [];
    this.#started = true;
    return [this.#lifecycle('response.created'), this.#lifecycle('response.in_progress')];
  }

  #fromEvent(event: GenerationEvent): object[] {
    switch (event.kind) {
      case 'prompt':
        this.#cachedTokens = event.cachedTokens;
        return [];
      case 'reasoning':
        this.#reasoning += event.text;
        this.#logprobs.skipThinking();
        return this.#text('reasoning', event.text);
      case 'answer':
        return this.#text('message', event.text, this.#logprobs.take());
      case 'tool-call':
        this.#logprobs.skip();
        return [...this.#close('completed'), ...this.#openCall(event.id, event.name)];
      case 'tool-arguments':
        return this.#delta('response.function_call_arguments.delta', event.text);
      case 'tool-end':
        this.#logprobs.skip();
        return this.#close('completed');
      case 'end':
        return this.#end(event);
      case 'tokens':
        this.#logprobs.add(event.logprobs ?? []);
        return [];
      case 'progress':
        return [];
    }
  }

  #text(type: 'reasoning' | 'message', text: string, logprobs: readonly TokenLogprob[] = []): object[] {
    const opening = this.#open?.item.type === type ? [] : [...this.#close('completed'), ...this.#openText(type)];
    const name = type === 'reasoning' ? 'response.reasoning_text.delta' : 'response.output_text.delta';
    return [...opening, ...this.#delta(name, text, chatLogprobs(logprobs).content)];
  }

  #openText(type: 'reasoning' | 'message'): object[] {
    const item: OutputItem =
      type === 'reasoning'
        ? { type, id: this.#itemId('rs'), status: 'in_progress', summary: [], content: [] }
        : { type, id: this.#itemId('msg'), status: 'in_progress', role: 'assistant', content: [] };
    const part = type === 'reasoning' ? reasoningText('') : outputText('', []);
    return [...this.#begin(item), this.#itemEvent('response.content_part.added', { content_index: 0, part })];
  }

  #openCall(callId: string, name: string): object[] {
    const id = this.#itemId('fc');
    const names = this.#header.toolName(name);
    return this.#begin({ type: 'function_call', id, status: 'in_progress', call_id: callId, ...names, arguments: '' });
  }

  #itemId(prefix: string): string {
    return `${prefix}_${this.#header.itemKey}_${this.#output.length}`;
  }

  #begin(item: OutputItem): object[] {
    this.#output.push(item);
    this.#open = { item, text: '', logprobs: [] };
    return [this.#event('response.output_item.added', { output_index: this.#output.length - 1, item })];
  }

  #delta(name: string, delta: string, logprobs: Logprobs = []): object[] {
    const open = this.#open;
    if (open === undefined) return [];
    open.text += delta;
    open.logprobs.push(...logprobs);
    if (open.item.type === 'function_call') return [this.#itemEvent(name, { delta })];
    return [this.#itemEvent(name, { content_index: 0, delta, ...(open.item.type === 'message' && { logprobs }) })];
  }

  /** Finishes the open item, if there is one. */
  #close(status: Status): object[] {
    const open = this.#open;
    if (open === undefined) return [];
    const item = { ...filled(open), status };
    if (item.type === 'function_call' && item.arguments === '') item.arguments = '{}';
    if (item.type === 'reasoning' && this.#header.packReasoning) item.encrypted_content = packReasoning(open.text);
    const done = this.#contentDone(item, open);
    this.#output[this.#output.length - 1] = item;
    this.#open = undefined;
    if (status === 'completed') this.#header.onItem?.(item);
    return [...done, this.#event('response.output_item.done', { output_index: this.#output.length - 1, item })];
  }

  #contentDone(item: OutputItem, { text, logprobs }: OpenItem): object[] {
    if (item.type === 'function_call') {
      return [this.#itemEvent('response.function_call_arguments.done', { name: item.name, arguments: item.arguments })];
    }
    const [name, more] =
      item.type === 'message' ? ['response.output_text.done', { logprobs }] : ['response.reasoning_text.done', {}];
    return [
      this.#itemEvent(name, { content_index: 0, text, ...more }),
      this.#itemEvent('response.content_part.done', { content_index: 0, part: item.content[0] }),
    ];
  }

  #end({ reason, usage, reasoningIsAnswer }: GenerationEvent & { kind: 'end' }): object[] {
    if (reason === 'error' || reason === 'aborted') return [];
    const answer = reasoningIsAnswer === true ? this.#text('message', this.#reasoning, this.#logprobs.takeThinking()) : [];
    this.#cut = reason === 'length';
    const closed = this.#close(this.#cut ? 'incomplete' : 'completed');
    this.#finished = true;
    this.#usage = {
      input_tokens: usage.promptTokens,
      input_tokens_details: { cached_tokens: this.#cachedTokens },
      output_tokens: usage.completionTokens,
      output_tokens_details: { reasoning_tokens: usage.reasoningTokens },
      total_tokens: usage.promptTokens + usage.completionTokens,
    };
    return [...answer, ...closed];
  }

  #lifecycle(type: string): object {
    return this.#event(type, { response: this.response() });
  }

  /** An event about the open item. */
  #itemEvent(type: string, fields: object): object {
    return this.#event(type, { item_id: this.#open?.item.id, output_index: this.#output.length - 1, ...fields });
  }

  #event(type: string, fields: object): object {
    return { type, sequence_number: this.#sequence++, ...fields };
  }
}
