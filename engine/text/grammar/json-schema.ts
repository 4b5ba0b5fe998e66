// SPDX-License-Identifier: MIT
// JSON Schema as EBNF. Everything a grammar lets through is valid; where a grammar cannot express a keyword the grammar
// describes fewer documents if that is possible, and the keyword is refused (strict) or not enforced otherwise.

import { jsonString, pythonJson, type JsonNode } from '../json-text.ts';
import type { EbnfBuilder } from './ebnf.ts';
import { alternatives, grammarError, MAX_LEAST_COUNT, optional, sequence } from './ebnf.ts';
import { integerExpression, numberExpression, type Bounds } from './numbers.ts';
import { checkedType, numberOf, SchemaView } from './schema-view.ts';
import { patternWithin } from './regex.ts';
import { anyString, formatPattern, limitedString, oneOfTexts, patternString } from './strings.ts';

/** Rule for the space between tokens. In line it would multiply the compiler's work by seven. */
const SPACE = 'space';
/** At most one space, or a new line with its indentation: a model cannot fill its answer with white space. */
const SPACE_RULE = '"" | " " | "\\n" " "{0,24}';
/** Commas and colons follow their value at once. */
const COMMA = `"," ${SPACE}`;
const MAX_DEPTH = 64;
const MAX_ENUM = 2000;
/** Items up to this many are counted by the grammar, more beside it. */
const WRITTEN_ITEMS = 64;

export class SchemaGrammar {
  private readonly builder: EbnfBuilder;
  private readonly root: JsonNode;
  private readonly strict: boolean;
  /** Rules of references by their text; they may be recursive. */
  private readonly references = new Map<string, string>();

  /** @param root where local references start */
  constructor(builder: EbnfBuilder, root: JsonNode, strict: boolean) {
    this.builder = builder;
    this.root = root;
    this.strict = strict;
    builder.named(SPACE, () => SPACE_RULE);
  }

  /**
   * Expression for the documents of a schema.
   * @throws EngineError INVALID_REQUEST naming the place in the schema
   */
  expression(node: JsonNode, path = '#', depth = 0): string {
    if (depth > MAX_DEPTH) throw grammarError(`the schema is nested deeper than ${MAX_DEPTH}`);
    if (node.kind === 'boolean') {
      if (!node.value) throw grammarError(`${path}: nothing is valid for the schema false`);
      return anyValue(this.builder);
    }
    const view = new SchemaView(node, path, this.root, this.strict);
    const { reference } = view;
    if (reference !== undefined) return this.referred(reference, depth);
    const values = view.values();
    if (values !== undefined) return this.enumeration(values, path);
    const branches = view.branches();
    if (branches !== undefined) {
      return alternatives(branches.map((branch, i) => this.rule(branch, `${path}/anyOf/${i}`, depth)));
    }
    const types = view.types();
    if (types.length === 0) return anyValue(this.builder);
    return alternatives(types.map((type) => this.typed(checkedType(type, path), view, depth)));
  }

  private rule(node: JsonNode, path: string, depth: number): string {
    return this.builder.rule(this.expression(node, path, depth + 1));
  }

  private referred(reference: { text: string; target: JsonNode }, depth: number): string {
    const known = this.references.get(reference.text);
    if (known !== undefined) return known;
    const name = this.builder.reserve();
    this.references.set(reference.text, name);
    this.builder.define(name, this.expression(reference.target, reference.text, depth + 1));
    return name;
  }

  private enumeration(values: readonly JsonNode[], path: string): string {
    if (values.length === 0) throw grammarError(`${path}: enum is empty`);
    if (values.length > MAX_ENUM) throw grammarError(`${path}: enum has more than ${MAX_ENUM} values`);
    return oneOfTexts(this.builder, values.map(jsonLiteral));
  }

  private typed(type: string, view: SchemaView, depth: number): string {
    switch (type) {
      case 'null':
        return '"null"';
      case 'boolean':
        return '("true" | "false")';
      case 'integer':
        return this.builder.rule(integerExpression(bounds(view)));
      case 'number':
        return this.builder.rule(numberExpression(bounds(view)));
      case 'string':
        return this.string(view);
      case 'array':
        return this.array(view, depth);
      default:
        return this.object(view, depth);
    }
  }

  private string(view: SchemaView): string {
    const minLength = view.count('minLength') ?? 0;
    const maxLength = view.count('maxLength') ?? Infinity;
    const pattern = view.text('pattern');
    const format = view.text('format');
    if (format !== undefined && formatPattern(format) === undefined) view.unsupported(`format "${format}"`);
    const source = pattern ?? (format === undefined ? undefined : formatPattern(format));
    if (source === undefined) return limitedString(this.builder, { minLength, maxLength });
    const anchored = pattern === undefined;
    const within = patternWithin(source, anchored, [minLength, maxLength]);
    if (within === undefined) view.unsupported('a pattern with lengths');
    return patternString(this.builder, within ?? source, anchored);
  }

  private array(view: SchemaView, depth: number): string {
    const path = view.path;
    const prefix = view.list('prefixItems').map((item, i) => this.rule(item, `${path}/prefixItems/${i}`, depth));
    const items = view.member('items');
    const closed = items?.kind === 'boolean' && !items.value;
    const item = closed
      ? ''
      : this.builder.rule(items ? this.expression(items, `${path}/items`, depth + 1) : anyValue(this.builder));
    const min = view.count('minItems') ?? 0;
    const max = Math.min(view.count('maxItems') ?? Infinity, closed ? prefix.length : Infinity);
    if (min > max) throw grammarError(`${path}: minItems ${min} is more than the array can have`);
    if (min > MAX_LEAST_COUNT) throw grammarError(`${path}: minItems ${min} is more than ${MAX_LEAST_COUNT}`);
    return this.builder.rule(sequence('"["', SPACE, arrayItems(this.builder, { prefix, item, min, max }), SPACE, '"]"'));
  }

  private object(view: SchemaView, depth: number): string {
    const properties = view.properties();
    const additional = view.additional();
    if (properties.length === 0 && additional !== undefined) return this.map(view, additional, depth);
    const members = properties.map(({ name, schema, required }) => ({
      required,
      text: sequence(quoted(name), '":"', '" "?', this.rule(schema, `${view.path}/properties/${name}`, depth)),
    }));
    const body = memberList(this.builder, members);
    return this.builder.rule(sequence('"{"', SPACE, body, body === '""' ? '' : SPACE, '"}"'));
  }

  /** An object whose keys are free. */
  private map(view: SchemaView, values: JsonNode | undefined, depth: number): string {
    const value = values === undefined ? anyValue(this.builder) : this.rule(values, `${view.path}/additionalProperties`, depth);
    const member = sequence(anyString(this.builder), '":"', '" "?', value);
    const min = view.count('minProperties') ?? 0;
    const max = view.count('maxProperties') ?? Infinity;
    if (min > max || min > MAX_LEAST_COUNT) throw grammarError(`${view.path}: minProperties ${min} cannot be met`);
    const members = arrayItems(this.builder, { prefix: [], item: member, min, max });
    return this.builder.rule(sequence('"{"', SPACE, members, SPACE, '"}"'));
  }
}

/** Any JSON value. */
export function anyValue(builder: EbnfBuilder): string {
  builder.named(SPACE, () => SPACE_RULE);
  const string = anyString(builder);
  const member = `${string} ":" " "? value`;
  return builder.named(
    'value',
    () =>
      `${string} | ${numberExpression({})} | "true" | "false" | "null" | ` +
      `"[" ${SPACE} (value (${COMMA} value)*)? ${SPACE} "]" | "{" ${SPACE} (${member} (${COMMA} ${member})*)? ${SPACE} "}"`,
  );
}

/** A JSON object with any members. */
export function anyObject(builder: EbnfBuilder): string {
  const member = sequence(anyString(builder), '":"', '" "?', anyValue(builder));
  return sequence('"{"', SPACE, arrayItems(builder, { prefix: [], item: member, min: 0, max: Infinity }), SPACE, '"}"');
}

function quoted(name: string): string {
  return oneLiteral(jsonString(name));
}

function oneLiteral(text: string): string {
  return `"${text.replace(/["\\]/g, '\\$&')}"`;
}

interface Items {
  prefix: readonly string[];
  item: string;
  min: number;
  max: number;
}

/** First `prefix`, then `item`s; commas between. At least `min` and at most `max` in all. */
function arrayItems(builder: EbnfBuilder, { prefix, item, min, max }: Items): string {
  const more = (least: number, most: number): string =>
    builder.counted(sequence(COMMA, item), { min: least, max: most, written: WRITTEN_ITEMS });
  let tail = '';
  if (max > prefix.length) {
    const least = Math.max(0, min - prefix.length);
    if (prefix.length > 0) tail = more(least, max - prefix.length);
    else {
      const rest = more(Math.max(0, least - 1), max - 1);
      tail = least > 0 ? sequence(item, rest) : optional(sequence(item, rest));
    }
  }
  for (let i = Math.min(prefix.length, max) - 1; i >= 0; i--) {
    const part = sequence(i > 0 ? COMMA : '', prefix[i] as string, tail);
    tail = i < min ? part : optional(part);
  }
  return tail === '' ? '""' : tail;
}

/** Members in the order of the schema; optional ones may be left out. */
function memberList(builder: EbnfBuilder, members: readonly { text: string; required: boolean }[]): string {
  // rest[i]: what may follow once a member stands before member i.
  const rest: string[] = new Array<string>(members.length + 1).fill('""');
  for (let i = members.length - 1; i >= 0; i--) {
    const { text, required } = members[i] as { text: string; required: boolean };
    const after = rest[i + 1] as string;
    const here = sequence(COMMA, text, after);
    rest[i] = builder.rule(required ? here : alternatives([here, after]));
  }
  const firstRequired = members.findIndex(({ required }) => required);
  const openings = members.slice(0, firstRequired < 0 ? members.length : firstRequired + 1);
  const starts = openings.map(({ text }, i) => sequence(text, rest[i + 1] as string));
  if (firstRequired < 0) starts.push('""');
  return alternatives(starts);
}

function bounds(view: SchemaView): Bounds {
  const result: Bounds = {};
  for (const key of ['minimum', 'maximum', 'exclusiveMinimum', 'exclusiveMaximum'] as const) {
    const value = view.number(key);
    if (value !== undefined) result[key] = value;
  }
  return result;
}

/** JSON text of a constant, as the model would write it. */
function jsonLiteral(node: JsonNode): string {
  return node.kind === 'number' && !Number.isFinite(numberOf(node)) ? 'null' : pythonJson(node);
}
