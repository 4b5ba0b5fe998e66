// SPDX-License-Identifier: MIT
// Regular expressions (the part of JavaScript's syntax that describes regular languages) as EBNF.

import { character, complement, intersect, JSON_PLAIN, TEXT, type Range } from './characters.ts';
import { alternatives, EbnfBuilder, grammarError, literal, MAX_LEAST_COUNT, repeat, sequence } from './ebnf.ts';

/** Repetitions of a group cost compile time for every count. */
const MAX_GROUP_REPEAT = 200;
/** Repetitions up to this many are written into the grammar, more are counted beside it. */
const WRITTEN_REPEAT = 8;
const MAX_PATTERN_UNITS = 4096;
const MAX_GROUP_DEPTH = 50;

const SHORTHANDS: Readonly<Record<string, readonly Range[]>> = {
  d: [[0x30, 0x39]],
  w: [
    [0x30, 0x39],
    [0x41, 0x5a],
    [0x5f, 0x5f],
    [0x61, 0x7a],
  ],
  s: [
    [0x09, 0x0d],
    [0x20, 0x20],
    [0xa0, 0xa0],
  ],
};
const LINE_ENDS: readonly Range[] = [
  [0x0a, 0x0a],
  [0x0d, 0x0d],
];
export interface RegexOptions {
  /** The match stands inside a JSON string: quotes, backslashes and control characters appear escaped. */
  json: boolean;
  /** False: as in JSON Schema, anything may stand before and behind the match unless ^ and $ say otherwise. */
  anchored: boolean;
}

/** An expression with the characters that its texts have. */
interface Piece {
  text: string;
  least: number;
  most: number;
}

/**
 * EBNF expression of a pattern.
 * @throws EngineError INVALID_REQUEST for syntax errors and for what no grammar can express (look-around, references).
 */
export function regexExpression(builder: EbnfBuilder, pattern: string, options: RegexOptions): string {
  return translated(builder, pattern, options).text;
}

/**
 * A pattern for the texts of a pattern that have so many characters: itself where it keeps the limits anyway, a narrower one
 * where it is a single repetition; undefined where a regular expression does not come by so easily.
 * @throws EngineError INVALID_REQUEST for a pattern that is not supported, and where there are no such texts
 */
export function patternWithin(pattern: string, anchored: boolean, [min, max]: [number, number]): string | undefined {
  const { least, most } = translated(new EbnfBuilder({ exact: true }), pattern, { json: false, anchored });
  return least >= min && most <= max ? pattern : limitedRepetition(pattern, min, max);
}

function limitedRepetition(pattern: string, min: number, max: number): string | undefined {
  const parts = /^\^(\[(?:[^\]\\]|\\.)+\]|\\[dwsDWS]|[^\\[\](){}.*+?^$|]|\.)(?:([*+])|\{(\d+)(?:(,)(\d*))?\})\$$/.exec(pattern);
  if (parts === null) return undefined;
  const [, atom, sign, low, comma, high] = parts;
  const least = sign === undefined ? Number(low) : sign === '+' ? 1 : 0;
  const most = sign !== undefined || (comma !== undefined && high === '') ? Infinity : Number(comma === undefined ? low : high);
  const limits = [Math.max(least, min), Math.min(most, max)] as const;
  if (limits[0] > limits[1]) throw grammarError(`no text matches "${pattern}" and has ${min} to ${max} characters`);
  return `^${atom}{${limits[0]},${limits[1] === Infinity ? '' : limits[1]}}$`;
}

function translated(builder: EbnfBuilder, pattern: string, options: RegexOptions): Piece {
  if (pattern.length > MAX_PATTERN_UNITS) throw grammarError(`the pattern is longer than ${MAX_PATTERN_UNITS} characters`);
  try {
    new RegExp(pattern, 'u');
  } catch (error) {
    throw grammarError(`"${pattern}" is not a regular expression: ${(error as Error).message}`);
  }
  return new Translator(builder, pattern, options).expression();
}

const NOTHING: Piece = { text: '""', least: 0, most: 0 };

function one(text: string): Piece {
  return { text, least: 1, most: 1 };
}

function repeated(piece: Piece, write: (text: string, min: number, max: number) => string, [min, max]: [number, number]): Piece {
  return {
    text: write(piece.text, min, max),
    least: piece.least * min,
    most: piece.most === 0 || max === 0 ? 0 : piece.most * max,
  };
}

class Translator {
  private readonly builder: EbnfBuilder;
  private readonly pattern: string;
  private readonly options: RegexOptions;
  private position = 0;
  private depth = 0;
  /** Quantifiers read that allow more than one. */
  private repetitions = 0;

  constructor(builder: EbnfBuilder, pattern: string, options: RegexOptions) {
    this.builder = builder;
    this.pattern = pattern;
    this.options = options;
  }

  expression(): Piece {
    const body = this.disjunction(true);
    if (this.position < this.pattern.length) throw this.unsupported('an unmatched ")"');
    return body;
  }

  private disjunction(top: boolean): Piece {
    const parts = [this.alternative(top)];
    while (this.take('|')) parts.push(this.alternative(top));
    return {
      text: alternatives(parts.map(({ text }) => text)),
      least: Math.min(...parts.map(({ least }) => least)),
      most: Math.max(...parts.map(({ most }) => most)),
    };
  }

  private alternative(top: boolean): Piece {
    const anything = this.options.anchored || !top ? NOTHING : repeated(this.set(TEXT), repeat, [0, Infinity]);
    const parts = [this.take('^') ? this.anchor(top) : anything];
    let behind = anything;
    while (this.position < this.pattern.length && !'|)'.includes(this.peek())) {
      if (this.take('$')) {
        behind = this.anchor(top);
        if (this.position < this.pattern.length && this.peek() !== '|') throw this.unsupported('"$" before the end');
      } else {
        const { repetitions } = this;
        const group = this.peek() === '(';
        const atom = this.atom();
        parts.push(this.quantified(atom, { group, nested: this.repetitions > repetitions }));
      }
    }
    parts.push(behind);
    return {
      text: sequence(...parts.map(({ text }) => text)),
      least: parts.reduce((sum, { least }) => sum + least, 0),
      most: parts.reduce((sum, { most }) => sum + most, 0),
    };
  }

  private anchor(top: boolean): Piece {
    if (!top) throw this.unsupported('an anchor inside a group');
    return NOTHING;
  }

  private atom(): Piece {
    const char = this.next();
    switch (char) {
      case '(':
        return this.group();
      case '[':
        return this.set(this.bracketed());
      case '.':
        return this.set(complement(LINE_ENDS));
      case '\\':
        return this.escape();
      case '^':
        throw this.unsupported('"^" behind the beginning');
      default:
        return this.char(char);
    }
  }

  private group(): Piece {
    if (++this.depth > MAX_GROUP_DEPTH) throw this.unsupported(`groups nested deeper than ${MAX_GROUP_DEPTH}`);
    if (this.take('?')) {
      const named = /<[^=!>][^>]*>/y;
      named.lastIndex = this.position;
      const name = named.exec(this.pattern)?.[0];
      if (name !== undefined) this.position += name.length;
      else if (!this.take(':')) throw this.unsupported('look-ahead, look-behind or a modifier');
    }
    const body = this.disjunction(false);
    this.take(')');
    this.depth--;
    return { ...body, text: this.builder.rule(body.text) };
  }

  private quantified(atom: Piece, { group, nested }: { group: boolean; nested: boolean }): Piece {
    const braces = /\{(\d+)(?:(,)(\d*))?\}/y;
    braces.lastIndex = this.position;
    const [whole, low, comma, high] = braces.exec(this.pattern) ?? [];
    let bounds: [number, number] | undefined;
    if (whole !== undefined) {
      this.position += whole.length;
      bounds = [Number(low), comma === undefined ? Number(low) : high === '' ? Infinity : Number(high)];
    } else if (this.take('*')) bounds = [0, Infinity];
    else if (this.take('+')) bounds = [1, Infinity];
    else if (this.take('?')) bounds = [0, 1];
    if (bounds === undefined) return atom;
    this.take('?');
    const [min, max] = bounds;
    const most = max === Infinity ? min : Math.max(min, max);
    if (group && most > MAX_GROUP_REPEAT) throw this.unsupported(`more than ${MAX_GROUP_REPEAT} repetitions of a group`);
    if (min > MAX_LEAST_COUNT) throw this.unsupported(`more than ${MAX_LEAST_COUNT} necessary repetitions`);
    if (max > 1) this.repetitions++;
    // Such texts can be read in many ways, which makes the masks of xgrammar slow: there anything goes.
    if (nested && max > WRITTEN_REPEAT && !this.builder.exact) return repeated(this.anyCharacter(), repeat, [0, Infinity]);
    const counted = (text: string): string => this.builder.counted(text, { min, max, written: WRITTEN_REPEAT });
    return repeated(atom, counted, [min, max]);
  }

  /** Any character, and for JSON the beginning of any escape. */
  private anyCharacter(): Piece {
    const plain = character(this.options.json ? JSON_PLAIN : TEXT) as string;
    return one(this.builder.rule(this.options.json ? alternatives([plain, '"\\\\" ["\\\\/bfnrtu]']) : plain));
  }

  private escape(): Piece {
    const char = this.next();
    if (/[1-9k]/.test(char)) throw this.unsupported('a back-reference');
    if (/[bBpP]/.test(char)) throw this.unsupported(`"\\${char}"`);
    const ranges = this.shorthand(char);
    return ranges === undefined ? this.char(this.escapedChar(char)) : this.set(ranges);
  }

  private shorthand(char: string): readonly Range[] | undefined {
    const ranges = SHORTHANDS[char.toLowerCase()];
    if (ranges === undefined) return undefined;
    return char === char.toLowerCase() ? ranges : complement(ranges);
  }

  private escapedChar(char: string): string {
    const controls: Readonly<Record<string, string>> = { n: '\n', t: '\t', r: '\r', f: '\f', v: '\v', '0': '\0' };
    if (Object.hasOwn(controls, char)) return controls[char] as string;
    if (char !== 'x' && char !== 'u') return char;
    const hex = (char === 'x' ? /[0-9a-fA-F]{2}/y : /\{([0-9a-fA-F]+)\}|[0-9a-fA-F]{4}/y) as RegExp;
    hex.lastIndex = this.position;
    const [whole, braced] = hex.exec(this.pattern) ?? [];
    if (whole === undefined) throw this.unsupported(`"\\${char}"`);
    this.position += whole.length;
    return String.fromCodePoint(Number.parseInt(braced ?? whole, 16));
  }

  private bracketed(): readonly Range[] {
    const negated = this.take('^');
    const ranges: Range[] = [];
    while (!this.take(']')) {
      const low = this.member();
      if (typeof low !== 'number') ranges.push(...low);
      else if (this.peek() === '-' && this.pattern[this.position + 1] !== ']') {
        this.position++;
        const high = this.member();
        if (typeof high !== 'number') throw this.unsupported('a class as the end of a range');
        ranges.push([low, high]);
      } else ranges.push([low, low]);
    }
    return negated ? complement(ranges) : ranges;
  }

  /** One member of a bracket: a code point, or the ranges of a shorthand. */
  private member(): number | readonly Range[] {
    const char = this.next();
    if (char !== '\\') return char.codePointAt(0) as number;
    const escaped = this.next();
    if (/[pP]/.test(escaped)) throw this.unsupported(`"\\${escaped}"`);
    if (escaped === 'b') return 8;
    return this.shorthand(escaped) ?? (this.escapedChar(escaped).codePointAt(0) as number);
  }

  private char(char: string): Piece {
    return one(literal(this.options.json ? JSON.stringify(char).slice(1, -1) : char));
  }

  /** A set of characters. What would need an escape in a JSON string is left out unless it is all there is. */
  private set(ranges: readonly Range[]): Piece {
    const usable = character(intersect(ranges, this.options.json ? JSON_PLAIN : TEXT));
    if (usable !== undefined) return one(this.builder.rule(usable));
    const [first] = ranges;
    if (first === undefined) throw this.unsupported('an empty character class');
    return this.char(String.fromCodePoint(first[0]));
  }

  private peek(): string {
    return this.pattern[this.position] ?? '';
  }

  private next(): string {
    const char = String.fromCodePoint(this.pattern.codePointAt(this.position) as number);
    this.position += char.length;
    return char;
  }

  private take(char: string): boolean {
    if (this.peek() !== char) return false;
    this.position++;
    return true;
  }

  private unsupported(what: string): Error {
    return grammarError(`the pattern "${this.pattern}" is not supported: ${what}`);
  }
}
