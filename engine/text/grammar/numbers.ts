// SPDX-License-Identifier: MIT
// Ranges of numbers as EBNF.

import { alternatives, grammarError, sequence } from './ebnf.ts';

/** Digits of an integer without bounds: all of them are exact in a double. */
const FREE_INTEGER = '"-"? ("0" | [1-9] [0-9]{0,14})';
const FREE_NUMBER = `${FREE_INTEGER} ("." [0-9]{1,16})? ([eE] [+\\-]? [0-9]{1,2})?`;
const FRACTION = '("." [0-9]{1,15})?';
/** Bounds are handled in integers, where doubles are exact. */
const LARGEST = Number.MAX_SAFE_INTEGER;
/** Ranges without an integer are searched in steps of 10^-n up to this n. */
const MAX_DECIMALS = 12;

export interface Bounds {
  minimum?: number;
  maximum?: number;
  exclusiveMinimum?: number;
  exclusiveMaximum?: number;
}

/** @throws EngineError INVALID_REQUEST when the range is empty. */
export function integerExpression(bounds: Bounds): string {
  const { low, high } = integerBounds(bounds, 1);
  if (low === -Infinity && high === Infinity) return FREE_INTEGER;
  if (low > high) throw grammarError('the range of an integer is empty');
  return integersBetween(low, high);
}

/** Numbers with bounds are integers of the range, with a fraction where that cannot leave it. */
export function numberExpression(bounds: Bounds): string {
  const { low, high } = integerBounds(bounds, 1);
  if (low === -Infinity && high === Infinity) return FREE_NUMBER;
  if (low <= high) {
    const parts = [integersBetween(low, high)];
    const top = Math.min(high, LARGEST);
    const bottom = Math.max(low, -LARGEST);
    if (top - 1 >= Math.max(bottom, 0)) parts.push(sequence(integersBetween(Math.max(bottom, 0), top - 1), FRACTION));
    if (bottom + 1 <= Math.min(top, -1)) parts.push(sequence(integersBetween(bottom + 1, Math.min(top, -1)), FRACTION));
    return alternatives(parts);
  }
  for (let decimals = 1; decimals <= MAX_DECIMALS; decimals++) {
    const scaled = integerBounds(bounds, 10 ** decimals);
    if (scaled.low <= scaled.high) return sequence(integersBetween(scaled.low, scaled.high), `"e-${decimals}"`);
  }
  throw grammarError('the range of a number is empty or too narrow');
}

/** Least and greatest integer n with n / scale inside the bounds. */
function integerBounds(bounds: Bounds, scale: number): { low: number; high: number } {
  const { minimum = -Infinity, maximum = Infinity, exclusiveMinimum = -Infinity, exclusiveMaximum = Infinity } = bounds;
  const low = Math.max(Math.ceil(minimum * scale), Math.floor(exclusiveMinimum * scale) + 1);
  const high = Math.min(Math.floor(maximum * scale), Math.ceil(exclusiveMaximum * scale) - 1);
  return { low: low < -LARGEST ? -Infinity : low, high: high > LARGEST ? Infinity : high };
}

function integersBetween(low: number, high: number): string {
  const parts: string[] = [];
  if (low < 0) parts.push(`"-" ${alternatives(naturals(Math.max(1, high < 0 ? -high : 1), -low))}`);
  if (high >= 0) parts.push(...naturals(Math.max(0, low), high));
  return alternatives(parts);
}

/** Natural numbers from `low` to `high` (which may be infinite), one expression for each number of digits. */
function naturals(low: number, high: number): string[] {
  const parts: string[] = [];
  const limit = Math.min(high, LARGEST);
  for (let from = low; from <= limit;) {
    const digits = String(from).length;
    const to = Math.min(limit, 10 ** digits - 1);
    parts.push(digitRange(String(from), String(to)));
    from = to + 1;
  }
  return parts;
}

/** Digit strings of the same length between two of them. */
function digitRange(low: string, high: string): string {
  if (low === high) return `"${low}"`;
  const [a, b] = [low[0] as string, high[0] as string];
  const [restLow, restHigh] = [low.slice(1), high.slice(1)];
  if (restLow === '') return `[${a}-${b}]`;
  if (a === b) return `"${a}" ${group(digitRange(restLow, restHigh))}`;
  const parts: string[] = [];
  const free = (first: string, last: string): string =>
    `${first === last ? `"${first}"` : `[${first}-${last}]`} [0-9]{${restLow.length}}`;
  const openLow = /^0*$/.test(restLow);
  const openHigh = /^9*$/.test(restHigh);
  const first = openLow ? Number(a) : Number(a) + 1;
  const last = openHigh ? Number(b) : Number(b) - 1;
  if (!openLow) parts.push(`"${a}" ${group(digitRange(restLow, '9'.repeat(restLow.length)))}`);
  if (first <= last) parts.push(free(String(first), String(last)));
  if (!openHigh) parts.push(`"${b}" ${group(digitRange('0'.repeat(restHigh.length), restHigh))}`);
  return alternatives(parts);
}

function group(expression: string): string {
  return expression.startsWith('(') ? expression : `(${expression})`;
}
