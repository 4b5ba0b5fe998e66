// SPDX-License-Identifier: MIT
// JSON without loss. Prompts must keep what JSON.parse drops: key order (integer-like keys, `__proto__`), the difference
// between 1 and 1.0, and the digits of large integers. The model was trained on JSON as Python prints it (pythonJson).

/** JSON source text. Prompts must render numbers and key order losslessly, which JSON.parse does not keep. */
export type JsonText = { readonly json: string };

/** Nesting deeper than this is refused; it bounds the recursion of the reader and the printer. */
export const MAX_JSON_DEPTH = 512;

/** A value with the offsets of its source text: [start, end). */
export type JsonNode = { readonly start: number; readonly end: number } & JsonValue;

export type JsonValue =
  | { kind: 'null' }
  | { kind: 'boolean'; value: boolean }
  /** Number as spelled. */
  | { kind: 'number'; text: string }
  | { kind: 'string'; value: string }
  | { kind: 'array'; items: JsonNode[] }
  /** Insertion order; a repeated key keeps its first place and its last value. */
  | { kind: 'object'; members: Map<string, JsonNode> };

/** Text that is not JSON. `position` is an offset in UTF-16 units. */
export class JsonSyntaxError extends Error {
  readonly position: number;

  constructor(message: string, position: number) {
    super(`${message} at position ${position}`);
    this.name = 'JsonSyntaxError';
    this.position = position;
  }
}

export interface ParseOptions {
  /** Accept NaN, Infinity and -Infinity, as Python's reader does. */
  nonFinite?: boolean;
}

/** @throws JsonSyntaxError for anything but exactly one JSON value of at most MAX_JSON_DEPTH levels. */
export function parseLossless(text: string, options: ParseOptions = {}): JsonNode {
  return new Reader(text, options.nonFinite ?? false).document();
}

/**
 * A member of the object in `text` as parseLossless gives it. The others are stepped over, which takes a tenth of the time
 * where a prompt of megabytes is among them. Undefined when it is absent or `text` holds no object.
 * @param text known to be JSON
 */
export function parseMember(text: string, key: string): JsonNode | undefined {
  return new Reader(text, false).onlyMember(key);
}

/** The source text of a value parsed from `text`. */
export function sourceText(text: string, node: JsonNode): JsonText {
  return { json: text.slice(node.start, node.end) };
}

/** Member of an object; undefined when absent or when `node` is no object. */
export function member(node: JsonNode | undefined, key: string): JsonNode | undefined {
  return node?.kind === 'object' ? node.members.get(key) : undefined;
}

/** Elements of an array; empty when `node` is no array. */
export function elements(node: JsonNode | undefined): readonly JsonNode[] {
  return node?.kind === 'array' ? node.items : [];
}

/** Python's json.dumps(value, ensure_ascii=False). */
export function pythonJson(node: JsonNode): string {
  switch (node.kind) {
    case 'null':
      return 'null';
    case 'boolean':
      return node.value ? 'true' : 'false';
    case 'number':
      return pythonNumber(node.text);
    case 'string':
      return jsonString(node.value);
    case 'array':
      return `[${node.items.map(pythonJson).join(', ')}]`;
    case 'object':
      return `{${[...node.members].map(([key, value]) => `${jsonString(key)}: ${pythonJson(value)}`).join(', ')}}`;
  }
}

/** A JSON string literal; only what JSON demands is escaped. */
export function jsonString(value: string): string {
  return `"${escapeJson(value)}"`;
}

/** The inside of a JSON string literal. Works character by character, so any split of the input gives the same text. */
export function escapeJson(value: string): string {
  return value.replace(/["\\\u0000-\u001f]/g, (char) => JSON.stringify(char).slice(1, -1));
}

/** Python's repr of the number spelled `text`: integers keep their digits, floats are shortest round-trip. */
export function pythonNumber(text: string): string {
  if (!/[.eENI]/.test(text)) return text === '-0' ? '0' : text;
  const value = Number(text);
  if (Number.isNaN(value)) return 'NaN';
  if (!Number.isFinite(value)) return value < 0 ? '-Infinity' : 'Infinity';
  const sign = value < 0 || Object.is(value, -0) ? '-' : '';
  const [mantissa = '0', power = '0'] = Math.abs(value).toExponential().split('e');
  const digits = mantissa.replace('.', '');
  const exponent = Number(power);
  if (exponent < -4 || exponent >= 16) {
    const fraction = digits.length > 1 ? `.${digits.slice(1)}` : '';
    const magnitude = String(Math.abs(exponent)).padStart(2, '0');
    return `${sign}${digits[0]}${fraction}e${exponent < 0 ? '-' : '+'}${magnitude}`;
  }
  if (exponent < 0) return `${sign}0.${'0'.repeat(-exponent - 1)}${digits}`;
  const whole = digits.slice(0, exponent + 1).padEnd(exponent + 1, '0');
  return `${sign}${whole}.${digits.slice(exponent + 1) || '0'}`;
}

/** A string of a text known to be JSON. Most are read for where they stand alone, and decoding them takes longest. */
class UndecodedString {
  readonly kind = 'string';
  readonly start: number;
  readonly end: number;
  private readonly text: string;

  constructor(text: string, start: number, end: number) {
    this.text = text;
    this.start = start;
    this.end = end;
  }

  get value(): string {
    return decodedString(this.text, this.start, this.end);
  }
}

const NUMBER = /-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?/y;
const NON_FINITE = /NaN|-?Infinity/y;
const LITERAL = /true|false|null/y;

class Reader {
  private readonly text: string;
  private readonly nonFinite: boolean;
  private known = false;
  private position = 0;

  constructor(text: string, nonFinite: boolean) {
    this.text = text;
    this.nonFinite = nonFinite;
  }

  document(): JsonNode {
    const node = this.value(0);
    this.skipSpace();
    if (this.position < this.text.length) throw this.error('unexpected text after the value');
    return node;
  }

  onlyMember(wanted: string): JsonNode | undefined {
    let found: JsonNode | undefined;
    this.known = true;
    if (!this.take('{')) return undefined;
    do {
      this.skipSpace();
      if (this.text[this.position] !== '"') break;
      const key = this.string();
      this.take(':');
      if (key === wanted) found = this.value(1);
      else this.skipValue();
    } while (this.take(','));
    return found;
  }

  /** Goes to the ',' or '}' behind a member's value. */
  private skipValue(): void {
    const border = /["[\]{},]/g;
    let depth = 0;
    for (;;) {
      border.lastIndex = this.position;
      const at = border.exec(this.text)?.index;
      if (at === undefined) throw this.error('unexpected end of JSON');
      const char = this.text[at];
      const ends = depth === 0 && (char === ',' || char === '}');
      this.position = ends ? at : at + 1;
      if (ends) return;
      if (char === '"') this.position = this.stringEnd(at) + 1;
      else if (char === '{' || char === '[') depth += 1;
      else if (char === '}' || char === ']') depth -= 1;
    }
  }

  /** Offset of the quote that ends the string whose first is at `start`: one that no backslash escapes. */
  private stringEnd(start: number): number {
    for (let quote = start; ;) {
      quote = this.text.indexOf('"', quote + 1);
      if (quote < 0) throw this.error('unterminated string');
      let escapes = 0;
      while (this.text.charCodeAt(quote - 1 - escapes) === BACKSLASH) escapes += 1;
      if (escapes % 2 === 0) return quote;
    }
  }

  private value(depth: number): JsonNode {
    if (depth > MAX_JSON_DEPTH) throw this.error(`nesting deeper than ${MAX_JSON_DEPTH}`);
    this.skipSpace();
    const start = this.position;
    switch (this.text[start]) {
      case '{': {
        const members = this.object(depth);
        return { kind: 'object', members, start, end: this.position };
      }
      case '[': {
        const items = this.array(depth);
        return { kind: 'array', items, start, end: this.position };
      }
      case '"':
        return this.known ? this.undecoded() : { kind: 'string', value: this.string(), start, end: this.position };
      case undefined:
        throw this.error('unexpected end of JSON');
    }
    return this.scalar(start);
  }

  private scalar(start: number): JsonNode {
    const literal = this.match(LITERAL);
    if (literal === 'null') return { kind: 'null', start, end: this.position };
    if (literal !== undefined) return { kind: 'boolean', value: literal === 'true', start, end: this.position };
    const number = this.match(NUMBER) ?? (this.nonFinite ? this.match(NON_FINITE) : undefined);
    if (number === undefined) throw this.error('expected a JSON value');
    return { kind: 'number', text: number, start, end: this.position };
  }

  private array(depth: number): JsonNode[] {
    const items: JsonNode[] = [];
    this.position++;
    if (this.take(']')) return items;
    do items.push(this.value(depth + 1));
    while (this.take(','));
    if (!this.take(']')) throw this.error("expected ',' or ']'");
    return items;
  }

  private object(depth: number): Map<string, JsonNode> {
    const members = new Map<string, JsonNode>();
    this.position++;
    if (this.take('}')) return members;
    do {
      this.skipSpace();
      if (this.text[this.position] !== '"') throw this.error('expected a key in double quotes');
      const key = this.string();
      if (!this.take(':')) throw this.error("expected ':'");
      members.set(key, this.value(depth + 1));
    } while (this.take(','));
    if (!this.take('}')) throw this.error("expected ',' or '}'");
    return members;
  }

  private string(): string {
    const start = this.position;
    this.position = this.stringEnd(start) + 1;
    return decodedString(this.text, start, this.position);
  }

  private undecoded(): JsonNode {
    const start = this.position;
    this.position = this.stringEnd(start) + 1;
    return new UndecodedString(this.text, start, this.position);
  }

  /** Skips white space, then consumes `char` if it comes next. */
  private take(char: string): boolean {
    this.skipSpace();
    if (this.text[this.position] !== char) return false;
    this.position++;
    return true;
  }

  private skipSpace(): void {
    while (isSpace(this.text.charCodeAt(this.position))) this.position++;
  }

  private match(pattern: RegExp): string | undefined {
    pattern.lastIndex = this.position;
    const found = pattern.exec(this.text)?.[0];
    if (found !== undefined) this.position += found.length;
    return found;
  }

  private error(message: string): JsonSyntaxError {
    return new JsonSyntaxError(message, this.position);
  }
}

/** @throws JsonSyntaxError when an escape is wrong */
function decodedString(text: string, start: number, end: number): string {
  const inside = text.slice(start + 1, end - 1);
  if (!NEEDS_DECODING.test(inside)) return inside;
  try {
    return JSON.parse(text.slice(start, end)) as string;
  } catch {
    throw new JsonSyntaxError('bad escape or control character in the string', start);
  }
}

function isSpace(code: number): boolean {
  return code === 0x20 || code === 0x0a || code === 0x0d || code === 0x09;
}

const BACKSLASH = 0x5c;

const NEEDS_DECODING = /[\\\u0000-\u001f]/;
