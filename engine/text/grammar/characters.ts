// SPDX-License-Identifier: MIT
// Sets of characters as EBNF. xgrammar's positive classes match single bytes, and its negated ones let broken UTF-8
// through, so characters beyond ASCII are written as the byte sequences of their UTF-8 forms.

import { alternatives } from './ebnf.ts';

/** Code points from the first to the last. */
export type Range = readonly [first: number, last: number];

export const LAST_CODE_POINT = 0x10ffff;
const SURROGATES: Range = [0xd800, 0xdfff];
/** Last code points of one, two and three bytes. */
const LENGTH_ENDS = [0x7f, 0x7ff, 0xffff];

/** What text may contain in a grammar: no control characters but white space, no half code points. */
export const TEXT: readonly Range[] = [
  [0x09, 0x0a],
  [0x0d, 0x0d],
  [0x20, 0x7e],
  [0x80, LAST_CODE_POINT],
];
/** What a JSON string may contain without an escape. */
export const JSON_PLAIN: readonly Range[] = [
  [0x20, 0x21],
  [0x23, 0x5b],
  [0x5d, 0x7e],
  [0x80, LAST_CODE_POINT],
];

/** Expressions of which each matches some characters of the set: one for ASCII, one for each form beyond it. */
export function characterForms(ranges: readonly Range[]): string[] {
  const ascii = intersect(ranges, [[0, 0x7f]]);
  const beyond = intersect(ranges, [[0x80, LAST_CODE_POINT]]);
  const forms = ascii.length === 0 ? [] : [`[${ascii.map(byteRange).join('')}]`];
  return [...forms, ...beyond.flatMap(([first, last]) => byteSequences(first, last))];
}

/** One character of the set; undefined when it is empty. */
export function character(ranges: readonly Range[]): string | undefined {
  const forms = characterForms(ranges);
  return forms.length === 0 ? undefined : alternatives(forms);
}

export function complement(ranges: readonly Range[]): Range[] {
  const sorted = [...ranges].sort((a, b) => a[0] - b[0]);
  const result: Range[] = [];
  let next = 0;
  for (const [first, last] of sorted) {
    if (first > next) result.push([next, first - 1]);
    next = Math.max(next, last + 1);
  }
  if (next <= LAST_CODE_POINT) result.push([next, LAST_CODE_POINT]);
  return result;
}

/** Sorted, without overlaps. */
export function intersect(a: readonly Range[], b: readonly Range[]): Range[] {
  const outside = [...complement(a), ...complement(b)];
  return complement(outside);
}

/** Byte sequences of the code points between two of them, the ranges split until all bytes of a sequence are free. */
function byteSequences(first: number, last: number): string[] {
  if (first > last) return [];
  const split = splitPoint(first, last);
  if (split !== undefined) return [...byteSequences(first, split), ...byteSequences(split + 1, last)];
  if (first >= SURROGATES[0] && last <= SURROGATES[1]) return [];
  const [low, high] = [utf8(first), utf8(last)];
  return [low.map((byte, i) => byteClass(byte, high[i] as number)).join(' ')];
}

function splitPoint(first: number, last: number): number | undefined {
  const border = [...LENGTH_ENDS, SURROGATES[0] - 1, SURROGATES[1]].find((end) => first <= end && end < last);
  if (border !== undefined) return border;
  const bytes = 1 + LENGTH_ENDS.filter((end) => first > end).length;
  for (let i = 1; i < bytes; i++) {
    const mask = (1 << (6 * i)) - 1;
    if ((first & ~mask) === (last & ~mask)) continue;
    if ((first & mask) !== 0) return first | mask;
    if ((last & mask) !== mask) return (last & ~mask) - 1;
  }
  return undefined;
}

function utf8(codePoint: number): number[] {
  if (codePoint <= 0x7f) return [codePoint];
  const continued = (shift: number): number => 0x80 | ((codePoint >> shift) & 0x3f);
  if (codePoint <= 0x7ff) return [0xc0 | (codePoint >> 6), continued(0)];
  if (codePoint <= 0xffff) return [0xe0 | (codePoint >> 12), continued(6), continued(0)];
  return [0xf0 | (codePoint >> 18), continued(12), continued(6), continued(0)];
}

/** A class of one member would be taken for a character, and so for its UTF-8 form; with the member twice it stays a byte. */
function byteClass(first: number, last: number): string {
  return first === last ? `[${BYTE_TEXTS[first]}${BYTE_TEXTS[first]}]` : `[${byteRange([first, last])}]`;
}

function byteRange([first, last]: Range): string {
  return first === last ? BYTE_TEXTS[first]! : `${BYTE_TEXTS[first]}-${BYTE_TEXTS[last]}`;
}

const NAMED_BYTES: Readonly<Record<number, string>> = { 9: '\\t', 10: '\\n', 13: '\\r' };

const BYTE_TEXTS = Array.from({ length: 256 }, (_, byte) => {
  const char = String.fromCharCode(byte);
  return NAMED_BYTES[byte] ?? (/[A-Za-z0-9]/.test(char) ? char : `\\u${byte.toString(16).padStart(4, '0')}`);
});
