// SPDX-License-Identifier: MIT
// The strict reference parser of whole completions (spec/chat-encoding section 6). Serving uses content-parser.ts, which
// degrades where this one refuses; this one is the measure of what a well-formed completion is.

import { BOS, DSML, EOS, THINK_CLOSE, THINK_OPEN, TOOL_START_MARKER } from './chat-constants.ts';
import { jsonString } from './json-text.ts';

export interface ParsedCompletion {
  content: string;
  reasoning: string;
  calls: { name: string; arguments: string }[];
}

export class MalformedCompletion extends Error {
  constructor(message: string) {
    super(message);
    this.name = 'MalformedCompletion';
  }
}

const INVOKE = `<${DSML}invoke`;
const INVOKE_END = `</${DSML}invoke`;
const BLOCK_END = `</${DSML}tool_calls>`;
const PARAMETER = `<${DSML}parameter`;
const PARAMETER_END = `/${DSML}parameter`;
const FORBIDDEN = [BOS, EOS, THINK_OPEN, THINK_CLOSE, DSML];

/**
 * @param completion text from behind the generation opener, end-of-sentence literal included
 * @throws MalformedCompletion for anything the reference refuses
 */
export function parseCompletion(completion: string, mode: 'chat' | 'thinking'): ParsedCompletion {
  const reader = new Reader(completion);
  let reasoning = '';
  if (mode === 'thinking') {
    const part = reader.until([THINK_CLOSE, TOOL_START_MARKER]);
    if (part.stop !== THINK_CLOSE) throw new MalformedCompletion('no closing think token');
    reasoning = part.text;
  }
  const { text: content, stop } = reader.until([EOS, TOOL_START_MARKER]);
  if (stop === undefined) throw new MalformedCompletion('no end-of-sentence token');
  const calls = stop === TOOL_START_MARKER ? readCalls(reader) : [];
  if (stop === TOOL_START_MARKER && reader.until([EOS]).text !== '') {
    throw new MalformedCompletion('text behind the tool calls');
  }
  if (!reader.atEnd) throw new MalformedCompletion('text behind the end-of-sentence token');
  const leaked = FORBIDDEN.find((literal) => content.includes(literal) || reasoning.includes(literal));
  if (leaked !== undefined) throw new MalformedCompletion(`"${leaked}" in content or reasoning`);
  return { content, reasoning, calls };
}

function readCalls(reader: Reader): ParsedCompletion['calls'] {
  const calls: ParsedCompletion['calls'] = [];
  while (!reader.atEnd) {
    const { text, stop } = reader.until([INVOKE, BLOCK_END]);
    if (text !== '>\n' || stop === undefined) throw new MalformedCompletion('expected ">" and a newline in the block');
    if (stop === BLOCK_END) break;
    calls.push(readInvoke(reader));
  }
  return calls;
}

function readInvoke(reader: Reader): { name: string; arguments: string } {
  let part = reader.until([PARAMETER, INVOKE_END]);
  const name = /^\s*name="(.*?)">\n\n?$/.exec(part.text)?.[1];
  if (name === undefined) throw new MalformedCompletion('bad opening tag of a call');
  const members = new Map<string, string>();
  while (part.stop === PARAMETER) {
    const value = reader.until([PARAMETER_END]).text;
    const [, key, flag, raw] = /^ name="(.*?)" string="(true|false)">(.*?)<\n?$/s.exec(value) ?? [];
    if (key === undefined || raw === undefined) throw new MalformedCompletion('bad parameter');
    if (members.has(key)) throw new MalformedCompletion(`parameter "${key}" is given twice`);
    members.set(key, flag === 'true' ? jsonString(raw) : raw);
    part = reader.until([PARAMETER, INVOKE_END]);
    if (part.text !== '>\n') throw new MalformedCompletion('expected ">" and a newline behind a parameter');
  }
  const text = [...members].map(([key, value]) => `${jsonString(key)}: ${value}`).join(', ');
  return { name, arguments: `{${text}}` };
}

class Reader {
  private readonly text: string;
  private position = 0;

  constructor(text: string) {
    this.text = text;
  }

  get atEnd(): boolean {
    return this.position >= this.text.length;
  }

  /** Text before the earliest of `stops`, which is skipped; all the rest when there is none. */
  until(stops: readonly string[]): { text: string; stop: string | undefined } {
    const start = this.position;
    let end = this.text.length;
    let stop: string | undefined;
    for (const candidate of stops) {
      const index = this.text.indexOf(candidate, start);
      if (index < 0 || index >= end) continue;
      end = index;
      stop = candidate;
    }
    this.position = end + (stop?.length ?? 0);
    return { text: this.text.slice(start, end), stop };
  }
}
