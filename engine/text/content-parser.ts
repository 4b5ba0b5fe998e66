// SPDX-License-Identifier: MIT

import type { JsonText } from '../types.ts';
import { BOS, DSML, EOS, PAD, THINK_CLOSE, THINK_OPEN } from './chat-constants.ts';
import { EventList, type ContentEvent } from './content-events.ts';
import { readTag, tagOpening, tagSource, type PendingTag, type Tag } from './dsml-tag.ts';
import { GAP_TAIL, HeldTail, TEXT_TAIL, VALUE_TAIL } from './held-tail.ts';
import type { PromptStart } from './prompt.ts';
import type { Segment } from './segment.ts';
import { ToolCallWriter } from './tool-call-writer.ts';

export interface ParserOptions {
  start: PromptStart;
  /** False: tool markup is answer text. Default true. */
  toolCalls?: boolean;
  /** `function` objects; they guide the types of arguments. */
  tools?: readonly JsonText[];
  /** False: the completion is over behind its first call. Default true. */
  parallel?: boolean;
}

export interface ParserEnd {
  events: ContentEvent[];
  /** Calls that were finished; only with one of them the finish reason is tool_calls. */
  finishedCalls: number;
  /** The model stopped without closing its reasoning: what was sent as reasoning is meant as the answer. */
  reasoningIsAnswer: boolean;
}

/**
 * Streaming parser of one completion: reasoning, `</think>`, answer, then perhaps a block of tool calls. Only control
 * tokens are markup; text that spells a literal is text. The texts of its events do not depend on how the text segments are
 * split.
 *
 * - Newlines around `</think>`, at the beginning of the reasoning and of the answer, and before tool markup are dropped.
 * - With start 'tool-calls' call `force` with the markup that the prompt ends in before anything else.
 * - A call is announced when its opening tag is complete. Markup that is broken before that comes back as text, white
 *   space included; broken markup inside a block with calls comes back as answer text, and the call goes on.
 * - Closing tags may be missing: a new call, the end of the block or the end of the completion closes what is open.
 * - Cut off by a limit, a half-written opening is dropped and an open call is ended as valid JSON but not counted.
 */
export class ContentParser {
  private readonly events = new EventList();
  private readonly toolCalls: boolean;
  private readonly parallel: boolean;
  private readonly calls: ToolCallWriter;
  private readonly held = new HeldTail();
  private state: 'text' | 'block' | 'call' | 'value' | 'plain' | 'done' = 'text';
  private channel: 'reasoning' | 'answer';
  /** Nothing of the channel has been emitted yet: newlines are dropped. */
  private leading = true;
  private tag: PendingTag | undefined;
  /** Source of a block in which no call has begun, to give back if none does. */
  private opening: string | undefined;
  /** Text has come between the tags of a block: white space in it counts. */
  private strayText = false;

  constructor(options: ParserOptions) {
    this.toolCalls = options.toolCalls ?? true;
    this.parallel = options.parallel ?? true;
    this.calls = new ToolCallWriter(this.events, options.tools ?? []);
    this.channel = options.start === 'reasoning' ? 'reasoning' : 'answer';
    if (options.start === 'plain') this.state = 'plain';
    if (options.start === 'continued') this.leading = false;
  }

  /** True until the reasoning is closed. */
  get reasoning(): boolean {
    return this.channel === 'reasoning' && this.state === 'text';
  }

  /** True once nothing that follows can matter: a single call was asked for and has ended. */
  get done(): boolean {
    return this.state === 'done';
  }

  push(segments: readonly Segment[]): ContentEvent[] {
    this.read(segments);
    return this.events.take();
  }

  /** @param complete false when a limit or an abort cut the completion off */
  finish(complete: boolean): ParserEnd {
    if (this.tag !== undefined) this.finishTag(this.tag, complete);
    if (this.state === 'block' && this.opening !== undefined && complete) this.giveBack('');
    if (this.state === 'text') this.emit(this.held.take());
    if (this.state === 'value') this.calls.value(this.held.take());
    else if (this.held.bracket !== '' && complete) this.stray(this.held.take());
    const reasoningIsAnswer = complete && this.reasoning;
    if (this.state === 'call' || this.state === 'value') this.endCall(complete && this.state === 'call');
    this.state = 'done';
    return { events: this.events.take(), finishedCalls: this.calls.finished, reasoningIsAnswer };
  }

  /** Markup that the model was made to write: like `push`, but never given back as text. */
  force(markup: readonly Segment[]): ContentEvent[] {
    this.read(markup);
    if (this.opening !== undefined) this.opening = '';
    return this.events.take();
  }

  private read(segments: readonly Segment[]): void {
    for (const { kind, text } of segments) {
      if (kind === 'control') this.control(text);
      else if (text !== '') this.text(text);
    }
  }

  private text(text: string): void {
    if (this.tag !== undefined) {
      this.tag.text += text;
      this.continueTag(this.tag);
      return;
    }
    switch (this.state) {
      case 'text':
        return this.freeText(text);
      case 'block':
      case 'call':
        return this.gapText(text);
      case 'value':
        return this.valueText(text);
      case 'plain':
        return this.events.add({ kind: 'answer', text });
      case 'done':
    }
  }

  private control(literal: string): void {
    if (this.tag !== undefined) this.rejectTag(this.tag);
    if (literal === DSML && this.toolCalls && this.opensTag()) {
      this.tag = { lead: this.held.space, closing: this.held.bracket === '</', text: '' };
      this.held.take();
      return;
    }
    switch (this.state) {
      case 'text':
        return this.freeControl(literal);
      case 'block':
      case 'call':
        return this.gapControl(literal);
      case 'value':
        return this.calls.value(this.held.take() + literal);
      case 'plain':
        if (!isSilent(literal)) this.events.add({ kind: 'answer', text: literal });
        return;
      case 'done':
    }
  }

  private opensTag(): boolean {
    return this.held.bracket === '<' || (this.held.bracket === '</' && this.state !== 'text');
  }

  // ---------------------------------------------------------------- reasoning and answer

  private freeText(text: string): void {
    if (this.held.bracket !== '') this.emit(this.held.take());
    this.emit(this.held.hold(text, TEXT_TAIL));
  }

  private freeControl(literal: string): void {
    if (literal === THINK_CLOSE) {
      if (this.channel === 'answer') return;
      if (this.held.bracket !== '') this.emit(this.held.take());
      this.held.take();
      this.enter('answer');
    } else if (literal === THINK_OPEN && this.leading && this.held.bracket === '') {
      this.held.take();
      this.enter('reasoning');
    } else if (!isSilent(literal)) this.emit(this.held.take() + literal);
  }

  private enter(channel: 'reasoning' | 'answer'): void {
    this.channel = channel;
    this.leading = true;
  }

  private emit(text: string): void {
    const shown = this.leading ? text.replace(/^\n+/, '') : text;
    if (shown !== '') this.leading = false;
    this.events.add({ kind: this.channel, text: shown });
  }

  // ---------------------------------------------------------------- between the tags of a block

  private gapText(text: string): void {
    const rest = this.held.extend(text);
    if (rest === '') return;
    if (this.held.bracket !== '' && this.stray(this.held.take())) return this.text(rest);
    const source = this.held.hold(rest, GAP_TAIL);
    if (source !== '') this.stray(source);
  }

  private gapControl(literal: string): void {
    if (literal === THINK_OPEN || literal === THINK_CLOSE || isSilent(literal)) return;
    this.stray(this.held.take() + literal);
  }

  /**
   * Text where only tags belong. In a block without a call it shows that the block is none.
   * @returns true when the block has been given back
   */
  private stray(source: string): boolean {
    if (this.state === 'block' && this.opening !== undefined) {
      this.giveBack(source + this.held.take());
      return true;
    }
    this.enter('answer');
    this.leading = false;
    this.events.add({ kind: 'answer', text: this.strayText ? source : source.trimStart() });
    this.strayText = true;
    return false;
  }

  /** Leaves the block; its source and what came behind it is text. */
  private giveBack(behind: string): void {
    const source = (this.opening ?? '') + (behind === '' ? this.held.take() : '');
    this.opening = undefined;
    this.state = 'text';
    this.emit(source);
    if (behind !== '') this.freeText(behind);
  }

  // ---------------------------------------------------------------- tags

  private continueTag(tag: PendingTag): void {
    const read = readTag(tag);
    if (read === 'partial') return;
    if (read === 'bad' || !this.acceptTag(read, tag)) return this.rejectTag(tag);
    const behind = tag.text.slice(read.length);
    if (behind !== '') this.text(behind);
  }

  /** The brackets come back as text of the state they stood in, and what follows them is read again. */
  private rejectTag(tag: PendingTag): void {
    this.tag = undefined;
    const opening = tagOpening(tag);
    if (this.state === 'value') this.calls.value(opening);
    else if (this.state === 'text') this.emit(tag.lead + opening);
    else this.stray(tag.lead + opening);
    if (tag.text !== '') this.text(tag.text);
  }

  /** @returns false when the tag makes no sense here */
  private acceptTag(tag: Tag, pending: PendingTag): boolean {
    if (pending.closing) return this.acceptClosing(tag);
    const name = tag.attributes.get('name');
    if (tag.name === 'invoke' && name !== undefined && this.state !== 'value') {
      this.tag = undefined;
      this.beginCall(name);
      return true;
    }
    if (tag.name === 'parameter' && name !== undefined && this.state === 'call') {
      this.tag = undefined;
      this.state = 'value';
      this.calls.beginParameter(name, tag.attributes.get('string'));
      return true;
    }
    if (tag.name !== 'block' || this.state !== 'text') return false;
    this.tag = undefined;
    this.state = 'block';
    this.opening = tagSource({ ...pending, text: pending.text.slice(0, tag.length) });
    this.strayText = false;
    return true;
  }

  private acceptClosing(tag: Tag): boolean {
    if (this.state === 'text' || (this.opening !== undefined && tag.name !== 'block')) return false;
    this.tag = undefined;
    if (this.state === 'value') {
      this.calls.endParameter();
      this.state = 'call';
    }
    if (tag.name === 'parameter') return true;
    if (this.state === 'call') this.endCall(true);
    if (tag.name === 'block' && !this.done) this.endBlock();
    return true;
  }

  private finishTag(tag: PendingTag, complete: boolean): void {
    this.tag = undefined;
    if (this.state === 'value') {
      if (tag.closing) {
        this.calls.endParameter();
        this.state = 'call';
      } else this.calls.value(tagSource(tag));
    } else if (complete && this.state === 'text') this.emit(tagSource(tag));
    else if (complete) this.stray(tagSource(tag));
  }

  // ---------------------------------------------------------------- calls

  private beginCall(name: string): void {
    if (this.state === 'call') this.endCall(true);
    if (this.done) return;
    this.opening = undefined;
    this.strayText = false;
    this.state = 'call';
    this.channel = 'answer';
    this.calls.begin(name);
  }

  private endCall(finished: boolean): void {
    this.calls.end(finished);
    this.strayText = false;
    this.state = this.parallel ? 'block' : 'done';
  }

  private endBlock(): void {
    this.opening = undefined;
    this.held.take();
    this.state = 'text';
    // What comes behind the block is a new line of the same channel.
    this.leading = true;
  }

  private valueText(text: string): void {
    const rest = this.held.extend(text);
    if (rest === '') return;
    const before = this.held.take();
    this.calls.value(before + this.held.hold(rest, VALUE_TAIL));
  }
}

/** Tokens that stand for no text at all. */
function isSilent(literal: string): boolean {
  return literal === BOS || literal === EOS || literal === PAD;
}
