// SPDX-License-Identifier: MIT

/** The end of the text so far that may belong to a tag: white space, and what may be the tag's bracket. */
export class HeldTail {
  space = '';
  bracket: '' | '<' | '</' = '';

  /** Everything held, which is held no longer. */
  take(): string {
    const text = this.space + this.bracket;
    this.space = this.bracket = '';
    return text;
  }

  /** Completes a held `<` to `</`. @returns the rest of the text */
  extend(text: string): string {
    if (this.bracket !== '<' || !text.startsWith('/')) return text;
    this.bracket = '</';
    return text.slice(1);
  }

  /**
   * Holds the end of `text` back. Nothing but space may be held when it is called.
   * @returns what need not be held, with the space that was held before it; '' when all of it is held
   */
  hold(text: string, rule: TailRule): string {
    const bracket = rule.closing && text.endsWith('</') ? '</' : text.endsWith('<') ? '<' : '';
    const end = text.length - bracket.length;
    let body = end;
    while (body > 0 && rule.space.includes(text.charAt(body - 1))) body--;
    const released = body > 0 ? this.space + text.slice(0, body) : '';
    this.space = (body > 0 ? '' : this.space) + text.slice(body, end);
    this.bracket = bracket;
    return released;
  }
}

export interface TailRule {
  /** Characters that may stand before a tag and belong to it. */
  space: string;
  /** A closing tag may come. */
  closing: boolean;
}

/** In reasoning and answer: newlines and an opening tag. */
export const TEXT_TAIL: TailRule = { space: '\n', closing: false };
/** Between the tags of a block. */
export const GAP_TAIL: TailRule = { space: ' \t\r\n', closing: true };
/** In a value, where white space belongs to the value. */
export const VALUE_TAIL: TailRule = { space: '', closing: true };
