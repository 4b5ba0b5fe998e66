// SPDX-License-Identifier: MIT

import { DSML } from './chat-constants.ts';

/** A tag whose control token has been seen: `<｜DSML｜` or `</｜DSML｜`, with `text` behind it. */
export interface PendingTag {
  /** White space before the bracket, kept in case that the tag is none. */
  lead: string;
  closing: boolean;
  text: string;
}

export type TagName = 'block' | 'invoke' | 'parameter';

export interface Tag {
  name: TagName;
  attributes: ReadonlyMap<string, string>;
  /** UTF-16 units of the pending text that belong to the tag. */
  length: number;
}

/** `function_calls` is the name of the block in the previous generation of the format, which models still write. */
const NAMES: Readonly<Record<string, TagName>> = {
  tool_calls: 'block',
  function_calls: 'block',
  invoke: 'invoke',
  parameter: 'parameter',
};
const WORDS = Object.keys(NAMES);
/** No real tag is longer; it bounds what a broken one can hold back. */
const MAX_TAG_UNITS = 1024;

const HEAD = /[a-z_]+/y;
/** Attribute, or the beginning of one at the end of the text. A quote ends a value only before white space or `>`. */
const ATTRIBUTE = /\s+(?:([a-z]+)(?:=(?:"((?:[^"]|"(?=[^\s>]))*)(?:(")(?=[\s>])|"?$))?)?)?/y;
const END = /\s*>/y;

/** Source text of a pending tag, with its lead. */
export function tagSource(tag: PendingTag): string {
  return `${tag.lead}${tagOpening(tag)}${tag.text}`;
}

/** Bracket and control literal. */
export function tagOpening(tag: PendingTag): string {
  return `${tag.closing ? '</' : '<'}${DSML}`;
}

/** The tag that `text` begins with; 'partial' while more text could make it one, 'bad' once none can. */
export function readTag(tag: PendingTag): Tag | 'partial' | 'bad' {
  const text = tag.text.slice(0, MAX_TAG_UNITS + 1);
  const result = scanTag(text, tag.closing);
  return result === 'partial' && text.length > MAX_TAG_UNITS ? 'bad' : result;
}

function scanTag(text: string, closing: boolean): Tag | 'partial' | 'bad' {
  const head = match(HEAD, text, 0) ?? '';
  if (head.length === text.length) return WORDS.some((word) => word.startsWith(head)) ? 'partial' : 'bad';
  const name = Object.hasOwn(NAMES, head) ? NAMES[head] : undefined;
  if (name === undefined) return 'bad';
  const attributes = new Map<string, string>();
  let position = head.length;
  for (;;) {
    const end = match(END, text, position);
    if (end !== undefined) return { name, attributes, length: position + end.length };
    ATTRIBUTE.lastIndex = position;
    const [whole, key, value, quote] = ATTRIBUTE.exec(text) ?? [];
    if (whole === undefined) return position === text.length ? 'partial' : 'bad';
    position += whole.length;
    if (!mayGoOn(name, closing, key)) return 'bad';
    if (quote === undefined) return position === text.length ? 'partial' : 'bad';
    attributes.set(key as string, value as string);
  }
}

/** Only the opening tags of calls and parameters have attributes; white space is allowed in all. */
function mayGoOn(name: TagName, closing: boolean, key: string | undefined): boolean {
  return key === undefined || (!closing && name !== 'block');
}

function match(pattern: RegExp, text: string, position: number): string | undefined {
  pattern.lastIndex = position;
  return pattern.exec(text)?.[0];
}
