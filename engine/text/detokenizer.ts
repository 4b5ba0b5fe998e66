// SPDX-License-Identifier: MIT

import { TextDecoder } from 'node:util';
import { atOnce } from '../event-loop.ts';
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

/** Tokens decoded in one piece of work: some hundred microseconds. */
const SLICE_TOKENS = 8192;

/** Text of a whole sequence; control tokens as their literals. */
export function decodeTokens(table: TokenTable, ids: ArrayLike<number>): string {
  return atOnce(decodeStepwise(table, ids));
}

/**
 * As decodeTokens, a slice of the sequence a step. Tokens between control tokens are decoded together: one by one they take
 * six times as long.
 */
export function* decodeStepwise(table: TokenTable, ids: ArrayLike<number>): Generator<void, string> {
  const decoder = newDecoder();
  let text = '';
  for (let start = 0; start < ids.length; start += SLICE_TOKENS) {
    const end = Math.min(start + SLICE_TOKENS, ids.length);
    let run: Uint8Array[] = [];
    for (let i = start; i < end; i++) {
      const id = ids[i]!;
      const bytes = table.tokenBytes(id);
      if (!table.isControl(id)) {
        run.push(bytes);
        continue;
      }
      text += decoder.decode(Buffer.concat(run)) + DISPLAY.decode(bytes);
      run = [];
    }
    text += decoder.decode(Buffer.concat(run), { stream: true });
    yield;
  }
  return text + decoder.decode();
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
