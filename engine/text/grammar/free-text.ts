// SPDX-License-Identifier: MIT

import { character, complement, intersect, TEXT, type Range } from './characters.ts';
import { alternatives, grammarError, literal, repeat, sequence, type EbnfBuilder } from './ebnf.ts';

/** Rules are made for each beginning of the excluded strings. */
const MAX_EXCLUDED_CHARACTERS = 1000;

/** Any text without one of the strings in it: an automaton that knows which beginnings of them have just been written. */
export function freeText(builder: EbnfBuilder, excluded: readonly string[] = []): string {
  const strings = excluded.map((text) => [...text]);
  const [none] = strings;
  if (none === undefined) return repeat(builder.rule(character(TEXT) as string), 0, Infinity);
  if (strings.some((text) => text.length === 0)) throw grammarError('a text cannot exclude an empty string');
  const size = strings.reduce((sum, text) => sum + text.length, 0);
  if (size > MAX_EXCLUDED_CHARACTERS) throw grammarError(`more than ${MAX_EXCLUDED_CHARACTERS} characters to look for`);
  const letters = [...new Set(strings.flat())];
  const others = intersect(TEXT, complement(letters.map(codePointRange)));
  const rules = new Map<string, string>([['', builder.reserve()]]);
  // Grows while it is gone through.
  for (const [beginning, rule] of rules) {
    const next = letters.flatMap((letter) => {
      const written = [...beginning, letter];
      if (strings.some((text) => endsWith(written, text))) return [];
      const known = longestBeginning(written, strings);
      if (!rules.has(known)) rules.set(known, builder.reserve());
      return [sequence(literal(letter), rules.get(known) as string)];
    });
    const other = character(others);
    const apart = other === undefined ? [] : [sequence(builder.rule(other), rules.get('') as string)];
    builder.define(rule, alternatives(['""', ...apart, ...next]));
  }
  return rules.get('') as string;
}

/** The longest end of a text that one of the strings begins with. */
function longestBeginning(text: readonly string[], strings: readonly (readonly string[])[]): string {
  for (let from = 0; from < text.length; from++) {
    const end = text.slice(from);
    if (strings.some((string) => end.every((letter, i) => string[i] === letter))) return end.join('');
  }
  return '';
}

function endsWith(text: readonly string[], end: readonly string[]): boolean {
  const from = text.length - end.length;
  return from >= 0 && end.every((letter, i) => text[from + i] === letter);
}

function codePointRange(letter: string): Range {
  const code = letter.codePointAt(0) as number;
  return [code, code];
}
