// SPDX-License-Identifier: MIT
// Building blocks of grammars in the EBNF dialect of xgrammar.

import { EngineError } from '../../errors.ts';

/** Rules beyond this number are refused; no real schema comes near. */
const MAX_RULES = 5000;

/** A request whose grammar cannot be built; `reason` is fit for a client. */
export function grammarError(reason: string): EngineError {
  return new EngineError('INVALID_REQUEST', reason);
}

/** A least count (of characters, items, repetitions) beyond this is refused. */
export const MAX_LEAST_COUNT = 10_000;
/** No completion has as many of anything. */
const COUNTLESS = 2 ** 30;

/**
 * Collects rules. Equal bodies share one rule, because the compiler's work and the masks are per rule.
 * Expressions are strings; a rule is referred to by its name.
 */
export class EbnfBuilder {
  /**
   * Counts are written down as they are. Otherwise larger ones are left out: xgrammar's work grows with the tokens of the
   * vocabulary times the counts, so that they are checked beside it.
   */
  readonly exact: boolean;
  private readonly bodies = new Map<string, string>();
  private readonly names = new Map<string, string>();

  constructor({ exact }: { exact: boolean }) {
    this.exact = exact;
  }

  /** `part` at least `min` and at most `max` times; any number of times if either is above `written` and this is not exact. */
  counted(part: string, { min, max, written }: { min: number; max: number; written: number }): string {
    const most = max >= COUNTLESS ? Infinity : max;
    const left = !this.exact && (min > written || (most !== Infinity && most > written));
    return left ? repeat(part, Math.min(min, 1), Infinity) : repeat(part, min, most);
  }

  /** Name of a rule with this body. */
  rule(body: string): string {
    const known = this.names.get(body);
    if (known !== undefined) return known;
    const name = this.reserve();
    this.define(name, body);
    this.names.set(body, name);
    return name;
  }

  /** Name for a rule that refers to itself, to be defined later. */
  reserve(): string {
    if (this.bodies.size >= MAX_RULES) throw grammarError(`the grammar needs more than ${MAX_RULES} rules`);
    const name = `r${this.bodies.size}`;
    this.bodies.set(name, '""');
    return name;
  }

  /** The rule with a name of its own, built at its first use. */
  named(name: string, body: () => string): string {
    if (!this.bodies.has(name)) this.bodies.set(name, body());
    return name;
  }

  define(name: string, body: string): void {
    this.bodies.set(name, body);
  }

  grammar(root: string): string {
    return [`root ::= ${root}`, ...[...this.bodies].map(([name, body]) => `${name} ::= ${body}`)].join('\n') + '\n';
  }
}

const ESCAPES: Readonly<Record<string, string>> = { '"': '\\"', '\\': '\\\\', '\n': '\\n', '\t': '\\t', '\r': '\\r' };

/** Matches exactly `text`. */
export function literal(text: string): string {
  if (/[\0-\x08\x0b\x0c\x0e-\x1f\x7f]/.test(text)) throw grammarError('a grammar cannot contain control characters');
  return `"${text.replace(/["\\\n\t\r]/g, (char) => ESCAPES[char] as string)}"`;
}

export function sequence(...parts: readonly string[]): string {
  return parts.filter((part) => part !== '' && part !== '""').join(' ') || '""';
}

export function alternatives(parts: readonly string[]): string {
  return parts.length === 1 ? (parts[0] as string) : `(${parts.join(' | ')})`;
}

export function optional(part: string): string {
  return `(${part})?`;
}

/** `part` at least `min` and at most `max` times. */
export function repeat(part: string, min: number, max: number): string {
  if (max === 0) return '""';
  if (min === 1 && max === 1) return part;
  if (max === Infinity) return min === 0 ? `(${part})*` : min === 1 ? `(${part})+` : `(${part}){${min},}`;
  return `(${part}){${min},${max}}`;
}
