// SPDX-License-Identifier: MIT
// What each token of the vocabulary would lead to in a grammar: whether it fits, and how many tokens the shortest way to
// the end is long behind it.

import type { ByteRange } from './ebnf-reader.ts';
import type { Recogniser, State } from './recogniser.ts';

/** More tokens than any way is long: of a token that does not fit, or from which there is no way to the end. */
export const NO_WAY = 0xffff;

export interface TokenTable {
  /** Bytes of all tokens, [offsets[i], offsets[i + 1]) of token i; tokens without bytes fit nowhere. */
  bytes: Uint8Array;
  offsets: Uint32Array;
}

export function tokenTable(tokens: readonly Uint8Array[]): TokenTable {
  const offsets = new Uint32Array(tokens.length + 1);
  tokens.forEach((token, id) => (offsets[id + 1] = (offsets[id] as number) + token.length));
  return { bytes: new Uint8Array(Buffer.concat(tokens)), offsets };
}

/** The characters of a plain token number at most this many; longer ones are looked at byte by byte. */
const MAX_PLAIN = 64;
/** Characters that JSON strings hold as they are, as forms of bytes. */
const PLAIN_FORMS: readonly (readonly ByteRange[])[] = (() => {
  const more: ByteRange = [0x80, 0xbf];
  return [
    [[0x20, 0x21]],
    [[0x23, 0x5b]],
    [[0x5d, 0x7e]],
    [[0xc2, 0xdf], more],
    [[0xe0, 0xe0], [0xa0, 0xbf], more],
    [[0xe1, 0xec], more, more],
    [[0xed, 0xed], [0x80, 0x9f], more],
    [[0xee, 0xef], more, more],
    [[0xf0, 0xf0], [0x90, 0xbf], more, more],
    [[0xf1, 0xf3], more, more, more],
    [[0xf4, 0xf4], [0x80, 0x8f], more, more],
  ];
})();
const PLAIN_TOKEN = new RegExp(`^(?:${PLAIN_FORMS.map((form) => form.map(byteClass).join('')).join('|')})+$`);

/**
 * Tokens in the order of their bytes, so that common beginnings are followed once. Tokens of plain characters are kept
 * apart: inside of strings all that counts is how many characters they have.
 */
export class Vocabulary {
  readonly size: number;
  private readonly table: TokenTable;
  /** Byte strings, a character for each byte. */
  private readonly texts: readonly string[];
  private readonly byText = new Map<string, number>();
  /** Length of the longest token that begins with a byte and the one behind it. */
  private readonly longest = new Map<string, number>();
  private readonly plainSteps = new WeakMap<State, { to: State | null | undefined }>();
  /** All tokens with bytes, and those that are not plain. */
  private readonly all: SortedTokens;
  private readonly others: SortedTokens;
  /** Tokens of n plain characters. */
  private readonly plain: readonly Int32Array[];
  /** Masks of the tokens of 1 … n plain characters. */
  private readonly plainMasks: readonly Uint32Array[];

  constructor(table: TokenTable) {
    this.table = table;
    this.size = table.offsets.length - 1;
    const text = latin1(table.bytes);
    this.texts = Array.from({ length: this.size }, (_, id) => text.slice(table.offsets[id], table.offsets[id + 1]));
    const plain: number[][] = Array.from({ length: MAX_PLAIN + 1 }, () => []);
    const all: number[] = [];
    const others: number[] = [];
    this.texts.forEach((token, id) => {
      if (token === '') return;
      this.byText.set(token, id);
      this.longest.set(token.slice(0, 2), Math.max(token.length, this.longest.get(token.slice(0, 2)) ?? 0));
      all.push(id);
      (plain[plainCharacters(token)] ?? others).push(id);
    });
    this.plain = plain.map((ids) => Int32Array.from(ids));
    const mask = new Uint32Array(Math.ceil(this.size / 32));
    this.plainMasks = plain.map((ids) => {
      for (const id of ids) mask[id >> 5] = (mask[id >> 5] as number) | (1 << (id & 31));
      return mask.slice();
    });
    this.all = sorted(all, this.texts);
    this.others = sorted(others, this.texts);
  }

  token(id: number): Uint8Array {
    return this.table.bytes.subarray(this.table.offsets[id], this.table.offsets[id + 1]);
  }

  /** Number of tokens when always the longest fitting one is taken; NO_WAY where a byte has no token. */
  tokenCount(bytes: Uint8Array): number {
    const text = latin1(bytes);
    let count = 0;
    for (let at = 0; at < text.length; count++) {
      let length = Math.min(this.longest.get(text.slice(at, at + 2)) ?? 1, text.length - at);
      while (length > 0 && !this.byText.has(text.slice(at, at + length))) length--;
      if (length === 0) return NO_WAY;
      at += length;
    }
    return Math.min(count, NO_WAY - 1);
  }

  /** A mask of the tokens that fit at the state, as words of 32 bits. */
  fitting(recogniser: Recogniser, state: State, words: number): Uint32Array {
    const mask = new Uint32Array(words);
    const add = (token: number): void => void (mask[token >> 5] = (mask[token >> 5] as number) | (1 << (token & 31)));
    const behind = this.plainStates(recogniser, state);
    this.walk(behind === undefined ? this.all : this.others, recogniser, state, add);
    // Where n plain characters fit, so do fewer.
    const most = behind?.findLastIndex((end) => end !== null) ?? 0;
    if (most > 0) this.plainMasks[most]?.forEach((word, i) => (mask[i] = (mask[i] as number) | word));
    return mask;
  }

  /** Calls `visit` with every token that fits at the state, and the state behind it. */
  follow(recogniser: Recogniser, state: State, visit: (token: number, behind: State) => void): void {
    const behind = this.plainStates(recogniser, state);
    if (behind === undefined) return this.walk(this.all, recogniser, state, visit);
    behind.forEach((end, characters) => {
      if (end !== null && characters > 0) for (const token of this.plain[characters] as Int32Array) visit(token, end);
    });
    this.walk(this.others, recogniser, state, visit);
  }

  /** States behind 0, 1, 2 … plain characters, whichever they are; undefined where it matters which. */
  private plainStates(recogniser: Recogniser, state: State): (State | null)[] | undefined {
    const states: (State | null)[] = [state];
    for (let i = 0; i < MAX_PLAIN; i++) {
      const from = states[i] as State | null;
      const to = from === null ? null : this.plainStep(recogniser, from);
      if (to === undefined) return undefined;
      states.push(to);
    }
    return states;
  }

  private plainStep(recogniser: Recogniser, from: State): State | null | undefined {
    const known = this.plainSteps.get(from) ?? { to: recogniser.anyOf(from, PLAIN_FORMS) };
    this.plainSteps.set(from, known);
    return known.to;
  }

  private walk(tokens: SortedTokens, recogniser: Recogniser, state: State, visit: (token: number, behind: State) => void): void {
    const { ids, shared } = tokens;
    const { bytes, offsets } = this.table;
    const path: (State | null)[] = [state];
    let dead = Infinity;
    for (let i = 0; i < ids.length; i++) {
      const common = shared[i] as number;
      if (common > dead) continue;
      const id = ids[i] as number;
      const begin = offsets[id] as number;
      const length = (offsets[id + 1] as number) - begin;
      let at = path[common] as State | null;
      dead = Infinity;
      for (let depth = common; depth < length && at !== null; depth++) {
        at = recogniser.step(at, bytes[begin + depth] as number);
        path[depth + 1] = at;
        if (at === null) dead = depth;
      }
      if (at !== null) visit(id, at);
    }
  }
}

interface SortedTokens {
  ids: Int32Array;
  /** Bytes that each has in common with the one before it. */
  shared: Uint16Array;
}

function sorted(tokens: readonly number[], texts: readonly string[]): SortedTokens {
  const textOf = (id: number | undefined): string => texts[id as number] as string;
  const ids = Int32Array.from([...tokens].sort((a, b) => (textOf(a) < textOf(b) ? -1 : 1)));
  const shared = new Uint16Array(ids.length);
  for (let i = 1; i < ids.length; i++) {
    const [a, b] = [textOf(ids[i - 1]), textOf(ids[i])];
    let common = 0;
    while (common < a.length && common < b.length && a[common] === b[common]) common++;
    shared[i] = common;
  }
  return { ids, shared };
}

/** Characters of a token of whole plain ones, at most MAX_PLAIN; -1 for other tokens. */
function plainCharacters(token: string): number {
  if (!PLAIN_TOKEN.test(token)) return -1;
  const characters = token.replace(/[\x80-\xbf]/g, '').length;
  return characters <= MAX_PLAIN ? characters : -1;
}

function byteClass([first, last]: ByteRange): string {
  const hex = (byte: number): string => `\\x${byte.toString(16).padStart(2, '0')}`;
  return `[${hex(first)}-${hex(last)}]`;
}

function latin1(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('latin1');
}
