// SPDX-License-Identifier: MIT
// The kinds of value an option can have, as people write them: numbers, sizes ("4GiB"), times ("30s"), lists ("a,b").

import { z } from 'zod';

export interface OptionMeta {
  [key: string]: unknown;
  group: 'Model' | 'Engine' | 'Server' | 'Limits';
  about: string;
  /** What stands for the value in --help; absent for switches. */
  value?: string;
  /** Names of the environment in place of TWELVEX_<NAME>. */
  env?: string;
  /** How the default reads where its number would say little. */
  defaultText?: string;
}

const number = (value: unknown): unknown => (typeof value === 'string' && value.trim() !== '' ? Number(value) : value);

export const integer = (least: number, most: number): z.ZodType<number> =>
  z.preprocess(
    number,
    z
      .int({ error: `expected a whole number from ${least} to ${most}` })
      .min(least)
      .max(most),
  );

export const text = z.string().min(1, 'must not be empty');

export const choice = <const T extends readonly [string, ...string[]]>(values: T): z.ZodEnum<z.core.util.ToEnum<T[number]>> =>
  z.enum(values, { error: `expected one of ${values.join(', ')}` });

const switches: Record<string, boolean> = {
  true: true,
  '1': true,
  yes: true,
  on: true,
  false: false,
  '0': false,
  no: false,
  off: false,
};

export const onOff: z.ZodType<boolean> = z.preprocess(
  (value) => (typeof value === 'string' ? (switches[value.toLowerCase()] ?? value) : value),
  z.boolean({ error: 'expected true or false' }),
);

/** A list: commas part the items of one string; repeated flags add up. */
const items = (value: unknown): unknown =>
  [value].flat().flatMap((item) => (typeof item === 'string' ? item.split(',').map((part) => part.trim()) : [item]));

export const textList = (item: z.ZodType<string> = text): z.ZodType<string[]> => z.preprocess(items, z.array(item));

export const integerList = (least: number, most: number): z.ZodType<number[]> =>
  z.preprocess(items, z.array(integer(least, most)));

/** Value of "12 MiB" or "30s" in the smallest unit; `units` maps suffixes to factors. NaN when it does not parse. */
function scaled(value: unknown, units: Record<string, number>, bare: number): unknown {
  if (typeof value === 'number') return value * bare;
  if (typeof value !== 'string') return value;
  const match = /^\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*$/.exec(value);
  const factor = match?.[2] === '' ? bare : units[match?.[2]?.toLowerCase() ?? ''];
  return match === null || factor === undefined ? Number.NaN : Math.round(Number(match[1]) * factor);
}

const KIB = 1024;
const sizes: Record<string, number> = {
  b: 1,
  kb: 1e3,
  mb: 1e6,
  gb: 1e9,
  kib: KIB,
  mib: KIB ** 2,
  gib: KIB ** 3,
  k: KIB,
  m: KIB ** 2,
  g: KIB ** 3,
};

/** Bytes from "64MiB", "4GB" or a bare number of bytes. */
export const bytes = (least = 0): z.ZodType<number> =>
  z.preprocess((value) => scaled(value, sizes, 1), z.int({ error: expectedSize }).min(least, expectedSize));

const expectedSize = 'expected a size such as 64MiB or 4GiB';

const times: Record<string, number> = { ms: 1, s: 1e3, m: 60e3, min: 60e3, h: 3600e3 };

/** Timers of Node.js take a longer time for none. */
const longestMs = 2 ** 31 - 1;

/** Milliseconds from "500ms", "10s", "2m" or a bare number of seconds. */
export const duration = (leastMs = 0): z.ZodType<number> => {
  const range = `expected a time from ${formatDuration(leastMs)} to 24 days`;
  return z.preprocess(
    (value) => scaled(value, times, 1e3),
    z.int({ error: 'expected a time such as 500ms, 10s or 2m' }).min(leastMs, range).max(longestMs, range),
  );
};

/** What browsers send as Origin: no path, no slash at its end. */
export const origin = text.regex(
  /^(\*|null|[a-z][a-z0-9+.-]*:\/\/[^/?#]+)$/i,
  'expected * or origins such as https://example.com',
);

/** "64 MiB", "512 KiB", "100 B". */
export function formatBytes(count: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  const power = count < KIB ? 0 : Math.min(units.length - 1, Math.floor(Math.log(count) / Math.log(KIB)));
  const scaledCount = count / KIB ** power;
  return `${Number.isInteger(scaledCount) ? scaledCount : scaledCount.toFixed(scaledCount < 10 ? 2 : 1)} ${units[power]}`;
}

/** "500ms", "10s", "2m". */
export function formatDuration(ms: number): string {
  if (ms % 60e3 === 0 && ms > 0) return `${ms / 60e3}m`;
  return ms % 1e3 === 0 ? `${ms / 1e3}s` : `${ms}ms`;
}
