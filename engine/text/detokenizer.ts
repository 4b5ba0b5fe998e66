// SPDX-License-Identifier: MIT

import { TextDecoder } from 'node:util';
import type { Segment } from './segment.ts';
import type { Tokenizer } from './tokenizer.ts';

/** Used for complete byte strings only. */
const DISPLAY = newDecoder();

type TokenTable = Pick<Tokenizer, 'tokenBytes' | 'isControl'>;

/**
 * Text of one growing sequence of tokens. Whole code points only: bytes of an unfinished one wait for the next token.
 * A control token is a segment of its own, so that text which merely spells its literal stays text.
 */
export class Detokenizer {
  private readonly table: TokenTable;
  private decoder = newDecoder();

  constructor(table: TokenTable) {
    this.table = table;
  }

  push(id: number): Segment[] {
    const bytes = this.table.tokenBytes(id);
    if (this.table.isControl(id)) return [...this.flush(), { kind: 'control', text: DISPLAY.decode(bytes) }];
    return textSegment(this.decoder.decode(bytes, { stream: true }));
  }

  /** Bytes that never became a code point come out as U+FFFD. */
  flush(): Segment[] {
    return textSegment(this.decoder.decode());
  }
}

/** Text of a whole sequence; control tokens as their literals. */
export function decodeTokens(table: TokenTable, ids: Iterable<number>): string {
  const detokenizer = new Detokenizer(table);
  const pieces: string[] = [];
  for (const id of ids) for (const { text } of detokenizer.push(id)) pieces.push(text);
  for (const { text } of detokenizer.flush()) pieces.push(text);
  return pieces.join('');
}

/** Display form of bytes: U+FFFD where they are not text on their own. */
export function bytesText(bytes: Uint8Array): string {
  return DISPLAY.decode(bytes);
}

function textSegment(text: string): Segment[] {
  return text === '' ? [] : [{ kind: 'text', text }];
}

function newDecoder(): TextDecoder {
  return new TextDecoder('utf-8', { ignoreBOM: true });
}
