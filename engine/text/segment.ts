// SPDX-License-Identifier: MIT

import { CONTROL_LITERALS } from './chat-constants.ts';

/**
 * A stretch of a prompt or of a completion. `control` is exactly one control literal and stands for one added token;
 * `text` is ordinary text, in which control literals are only characters: what a user writes can never begin a turn.
 */
export interface Segment {
  kind: 'control' | 'text';
  text: string;
}

/** Collects segments; adjacent texts are joined, because a split between them would change the token borders. */
export class SegmentBuilder {
  private readonly segments: Segment[] = [];
  private pending: string[] = [];

  text(text: string): this {
    if (text !== '') this.pending.push(text);
    return this;
  }

  control(literal: string): this {
    this.flush();
    this.segments.push({ kind: 'control', text: literal });
    return this;
  }

  /** Trusted template text: control literals inside it are control tokens. */
  markup(text: string): this {
    let segments = markups.get(text);
    if (segments === undefined) markups.set(text, (segments = TEMPLATE_SPLITTER.split(text)));
    return this.append(segments);
  }

  append(segments: readonly Segment[]): this {
    for (const { kind, text } of segments) {
      if (kind === 'control') this.control(text);
      else this.text(text);
    }
    return this;
  }

  build(): Segment[] {
    this.flush();
    return this.segments;
  }

  private flush(): void {
    if (this.pending.length === 0) return;
    this.segments.push({ kind: 'text', text: this.pending.join('') });
    this.pending = [];
  }
}

/** Finds control literals in text: leftmost, then longest, as the tokenizer matches its added tokens. */
export class ControlSplitter {
  private readonly pattern: RegExp | undefined;

  constructor(literals: Iterable<string>) {
    const alternatives = [...literals]
      .filter((literal) => literal !== '')
      .sort((a, b) => b.length - a.length)
      .map((literal) => literal.replace(/[\\^$.*+?()[\]{}|]/g, '\\$&'));
    this.pattern = alternatives.length === 0 ? undefined : new RegExp(alternatives.join('|'), 'g');
  }

  split(text: string): Segment[] {
    if (this.pattern === undefined) return text === '' ? [] : [{ kind: 'text', text }];
    const segments: Segment[] = [];
    let end = 0;
    for (const match of text.matchAll(this.pattern)) {
      if (match.index > end) segments.push({ kind: 'text', text: text.slice(end, match.index) });
      segments.push({ kind: 'control', text: match[0] });
      end = match.index + match[0].length;
    }
    if (end < text.length) segments.push({ kind: 'text', text: text.slice(end) });
    return segments;
  }
}

/** Splits trusted markup (templates, completions given as one string) at the literals of the chat format. */
export const TEMPLATE_SPLITTER = new ControlSplitter(CONTROL_LITERALS);

/** By template text, of which there are some dozens; conversations with tools repeat them thousands of times. */
const markups = new Map<string, readonly Segment[]>();

export function segmentsText(segments: readonly Segment[]): string {
  return segments.map((segment) => segment.text).join('');
}
