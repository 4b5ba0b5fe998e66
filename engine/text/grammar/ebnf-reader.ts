// SPDX-License-Identifier: MIT
// Reads the EBNF dialect of xgrammar, as far as it describes bytes. Assertions about what follows a rule only save work
// there and are skipped.

export type Expression =
  /** One byte of the ranges. */
  | { kind: 'byte'; ranges: readonly ByteRange[] }
  | { kind: 'sequence'; parts: readonly Expression[] }
  | { kind: 'choice'; parts: readonly Expression[] }
  | { kind: 'repeat'; body: Expression; min: number; max: number }
  | { kind: 'rule'; name: string };

export type ByteRange = readonly [first: number, last: number];

export interface ReadOptions {
  /** Members of classes beyond ASCII are bytes, as the builder writes them. Otherwise such a class is not understood. */
  byteClasses: boolean;
}

/** A grammar that is not understood, which says nothing about whether xgrammar takes it. */
export class UnreadableGrammar extends Error {}

/** Rules by name. */
export function readEbnf(source: string, options: ReadOptions): ReadonlyMap<string, Expression> {
  return new Reader(source, options).rules();
}

const ESCAPES: Readonly<Record<string, string>> = { n: '\n', t: '\t', r: '\r', e: '\x1b', b: '\b', f: '\f', v: '\v', '0': '\0' };
const UTF8 = new TextEncoder();

class Reader {
  private readonly source: string;
  private readonly byteClasses: boolean;
  private position = 0;

  constructor(source: string, { byteClasses }: ReadOptions) {
    this.source = source;
    this.byteClasses = byteClasses;
  }

  rules(): ReadonlyMap<string, Expression> {
    const rules = new Map<string, Expression>();
    for (let name = this.ruleHead(); name !== undefined; name = this.ruleHead()) rules.set(name, this.choice());
    if (this.position < this.source.length) throw this.unreadable('a rule');
    return rules;
  }

  private ruleHead(): string | undefined {
    return this.match(/([A-Za-z_][\w.-]*)\s*::=/y)?.[1];
  }

  private choice(): Expression {
    const parts = [this.sequence()];
    while (this.take('|')) parts.push(this.sequence());
    return parts.length === 1 ? (parts[0] as Expression) : { kind: 'choice', parts };
  }

  private sequence(): Expression {
    const parts: Expression[] = [];
    for (let part = this.element(); part !== undefined; part = this.element()) parts.push(part);
    return parts.length === 1 ? (parts[0] as Expression) : { kind: 'sequence', parts };
  }

  private element(): Expression | undefined {
    if (this.match(/\(\s*=/y) !== undefined) {
      this.choice();
      this.expect(')');
      return this.element();
    }
    const body = this.primary();
    return body === undefined ? undefined : this.quantified(body);
  }

  private primary(): Expression | undefined {
    if (this.take('(')) {
      const inner = this.choice();
      this.expect(')');
      return inner;
    }
    if (this.take('"')) return this.literal();
    if (this.take('[')) return this.characterClass();
    if (this.match(/(?=[A-Za-z_][\w.-]*\s*::=)/y) !== undefined) return undefined;
    const name = this.match(/[A-Za-z_][\w.-]*/y)?.[0];
    return name === undefined ? undefined : { kind: 'rule', name };
  }

  private quantified(body: Expression): Expression {
    const [whole, low, comma, high] = this.match(/\{\s*(\d+)\s*(?:(,)\s*(\d*)\s*)?\}/y) ?? [];
    if (whole !== undefined) {
      const min = Number(low);
      return { kind: 'repeat', body, min, max: comma === undefined ? min : high === '' ? Infinity : Number(high) };
    }
    if (this.take('*')) return { kind: 'repeat', body, min: 0, max: Infinity };
    if (this.take('+')) return { kind: 'repeat', body, min: 1, max: Infinity };
    return this.take('?') ? { kind: 'choice', parts: [body, { kind: 'sequence', parts: [] }] } : body;
  }

  private literal(): Expression {
    let text = '';
    while (this.source[this.position] !== '"') text += String.fromCodePoint(this.character());
    this.position++;
    return { kind: 'sequence', parts: [...UTF8.encode(text)].map((byte) => ({ kind: 'byte', ranges: [[byte, byte]] })) };
  }

  /** Negated, any byte beyond ASCII is taken to fit: more than the class allows, never less. */
  private characterClass(): Expression {
    const negated = this.source[this.position] === '^';
    if (negated) this.position++;
    const ranges: ByteRange[] = [];
    while (this.source[this.position] !== ']') {
      const first = this.character();
      const isRange = this.source[this.position] === '-' && this.source[this.position + 1] !== ']';
      if (isRange) this.position++;
      const last = isRange ? this.character() : first;
      if (last > 0x7f && !(this.byteClasses && last <= 0xff) && !negated) throw this.unreadable('a class of ASCII characters');
      ranges.push([first, last]);
    }
    this.position++;
    return { kind: 'byte', ranges: negated ? withoutAscii(ranges) : ranges };
  }

  private character(): number {
    const code = this.source.codePointAt(this.position);
    if (code === undefined) throw this.unreadable('a character');
    this.position += code > 0xffff ? 2 : 1;
    if (code !== 0x5c) return code;
    const hex = /x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})/y;
    hex.lastIndex = this.position;
    const digits = hex.exec(this.source);
    if (digits !== null) {
      this.position = hex.lastIndex;
      return Number.parseInt(digits[1] ?? digits[2] ?? (digits[3] as string), 16);
    }
    const escaped = this.source[this.position++] ?? '';
    if (/[a-zA-Z0-9]/.test(escaped) && !Object.hasOwn(ESCAPES, escaped)) throw this.unreadable('a known escape');
    return (ESCAPES[escaped] ?? escaped).codePointAt(0) as number;
  }

  private take(text: string): boolean {
    this.skipSpace();
    if (!this.source.startsWith(text, this.position)) return false;
    this.position += text.length;
    return true;
  }

  private expect(text: string): void {
    if (!this.take(text)) throw this.unreadable(`"${text}"`);
  }

  private match(pattern: RegExp): RegExpExecArray | undefined {
    this.skipSpace();
    pattern.lastIndex = this.position;
    const found = pattern.exec(this.source);
    if (found === null) return undefined;
    this.position = pattern.lastIndex;
    return found;
  }

  private skipSpace(): void {
    const space = /(?:\s|#[^\n]*)*/y;
    space.lastIndex = this.position;
    space.exec(this.source);
    this.position = space.lastIndex;
  }

  private unreadable(expected: string): UnreadableGrammar {
    return new UnreadableGrammar(`expected ${expected} at position ${this.position} of the grammar`);
  }
}

function withoutAscii(ranges: readonly ByteRange[]): ByteRange[] {
  const result: ByteRange[] = [];
  let next = 0;
  for (const [first, last] of [...ranges].sort((a, b) => a[0] - b[0])) {
    if (first > next) result.push([next, Math.min(first - 1, 0x7f)]);
    next = Math.max(next, last + 1);
  }
  if (next <= 0x7f) result.push([next, 0x7f]);
  return [...result.filter(([first, last]) => first <= last && first <= 0x7f), [0x80, 0xff]];
}
