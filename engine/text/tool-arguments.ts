// SPDX-License-Identifier: MIT

import { escapeJson, jsonString } from './json-text.ts';
import type { JsonType, ToolParameters } from './tool-schemas.ts';

/** Names under which models wrap the whole arguments object although the tool has no such parameter. */
const WRAPPERS = new Set(['arguments', 'input']);

const PYTHON_LITERALS: Readonly<Record<string, string>> = { True: 'true', False: 'false', None: 'null' };

interface OpenParameter {
  name: string;
  isString: boolean;
  types: ReadonlySet<JsonType> | undefined;
  /** The value goes out as it comes in, as the inside of a JSON string. */
  streamed: boolean;
  value: string[];
}

/**
 * Writes the parameters of one call as the text of a JSON object, piece by piece; whenever it is ended, the text is a
 * valid object. A parameter given twice is written twice: JSON readers keep the last value, and what was streamed
 * cannot be taken back.
 */
export class ToolArguments {
  private readonly parameters: ToolParameters | undefined;
  private open: OpenParameter | undefined;
  private empty = true;

  /** @param parameters of the tool's schema, where it is known */
  constructor(parameters: ToolParameters | undefined) {
    this.parameters = parameters;
  }

  /** @param isString the markup's `string` attribute; undefined when it is missing */
  beginParameter(name: string, isString: boolean | undefined): string {
    const types = this.parameters?.get(name);
    const wrapper = this.mayWrap(name);
    const streamed = isString === true && !wrapper && (types === undefined || types.has('string'));
    this.open = { name, isString: isString ?? false, types, streamed, value: [] };
    return streamed ? `${this.key(name)}"` : '';
  }

  value(text: string): string {
    if (this.open === undefined) return '';
    if (this.open.streamed) return escapeJson(text);
    this.open.value.push(text);
    return '';
  }

  endParameter(): string {
    const { open } = this;
    this.open = undefined;
    if (open === undefined) return '';
    if (open.streamed) return '"';
    const text = open.value.join('');
    const members = this.mayWrap(open.name) ? this.wrappedMembers(text) : undefined;
    if (members === undefined) return this.key(open.name) + argumentJson(text, open.isString, open.types);
    return members === '' ? '' : this.separator() + members;
  }

  /** Ends the object. A streamed value that is still open is closed where it stands, another one is left out. */
  end(): string {
    const closing = this.open?.streamed ? '"' : '';
    this.open = undefined;
    return this.empty ? '{}' : `${closing}}`;
  }

  private mayWrap(name: string): boolean {
    return this.empty && this.parameters !== undefined && WRAPPERS.has(name) && !this.parameters.has(name);
  }

  /** Inside of the wrapped object, if `text` is one and all its keys are parameters of the tool. */
  private wrappedMembers(text: string): string | undefined {
    const value = parseJson(text);
    if (value === undefined || value === null || typeof value !== 'object' || Array.isArray(value)) return undefined;
    if (!Object.keys(value).every((key) => this.parameters?.has(key))) return undefined;
    return text.trim().slice(1, -1).trim();
  }

  private key(name: string): string {
    return `${this.separator()}${jsonString(name)}: `;
  }

  private separator(): string {
    const separator = this.empty ? '{' : ', ';
    this.empty = false;
    return separator;
  }
}

/**
 * JSON text of a value. Without a schema: a string stays a string, other text is copied if it is JSON and becomes a
 * string if it is not. With a schema a value of the wrong type is read as one of the right type where that is possible.
 */
export function argumentJson(text: string, isString: boolean, types: ReadonlySet<JsonType> | undefined): string {
  const value = parseJson(text);
  if (types === undefined) return isString || value === undefined ? jsonString(text) : text;
  if (isString && types.has('string')) return jsonString(text);
  if (value !== undefined && fits(value, types)) return text;
  if (typeof value === 'string') {
    const inner = parseJson(value);
    if (inner !== undefined && fits(inner, types)) return value;
  }
  const literal = PYTHON_LITERALS[text.trim()];
  if (literal !== undefined && fits(JSON.parse(literal), types)) return literal;
  if (types.has('string') || isString || value === undefined) return jsonString(text);
  return text;
}

function fits(value: unknown, types: ReadonlySet<JsonType>): boolean {
  if (value === null) return types.has('null');
  if (Array.isArray(value)) return types.has('array');
  if (typeof value === 'number') return types.has('number') || (types.has('integer') && Number.isInteger(value));
  return types.has(typeof value as JsonType);
}

/** undefined for text that is not JSON; JSON has no undefined. */
function parseJson(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return undefined;
  }
}
