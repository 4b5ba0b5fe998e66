// SPDX-License-Identifier: MIT

import { elements, member, type JsonNode } from '../json-text.ts';
import { grammarError } from './ebnf.ts';

const TYPES = ['string', 'number', 'integer', 'boolean', 'null', 'array', 'object'] as const;

/** Keywords that grammars cannot express. */
const UNSUPPORTED = ['multipleOf', 'uniqueItems', 'contains', 'not', 'if', 'dependentRequired', 'dependentSchemas'].concat([
  'propertyNames',
  'patternProperties',
  'unevaluatedProperties',
  'unevaluatedItems',
  'oneOf',
  '$dynamicRef',
]);

/** Keywords that say which type a schema without one is about. Such a schema allows other types; a grammar need not. */
const TYPE_OF_KEYWORD: Readonly<Record<string, (typeof TYPES)[number]>> = {
  properties: 'object',
  required: 'object',
  additionalProperties: 'object',
  minProperties: 'object',
  maxProperties: 'object',
  items: 'array',
  prefixItems: 'array',
  minItems: 'array',
  maxItems: 'array',
  minLength: 'string',
  maxLength: 'string',
  pattern: 'string',
  format: 'string',
  minimum: 'number',
  maximum: 'number',
  exclusiveMinimum: 'number',
  exclusiveMaximum: 'number',
};

export interface Property {
  name: string;
  schema: JsonNode;
  required: boolean;
}

/** One schema object, with the members of its `allOf` branches and of a reference beside other keywords merged in. */
export class SchemaView {
  readonly path: string;
  readonly reference: { text: string; target: JsonNode } | undefined;
  private readonly strict: boolean;
  private readonly members: ReadonlyMap<string, JsonNode>;

  constructor(node: JsonNode, path: string, root: JsonNode, strict: boolean) {
    if (node.kind !== 'object') throw grammarError(`${path} must be an object or a boolean`);
    this.path = path;
    this.strict = strict;
    const reference = member(node, '$ref');
    this.members = merged(node, root, path);
    this.reference = reference && !hasConstraints(node) ? resolve(reference, root, path) : undefined;
    for (const keyword of UNSUPPORTED) {
      const value = this.members.get(keyword);
      if (value !== undefined && !isTrivial(keyword, value)) this.unsupported(`"${keyword}"`);
    }
  }

  /** Strict schemas are refused where a keyword cannot be enforced. */
  unsupported(what: string): void {
    if (this.strict) throw grammarError(`${this.path}: ${what} is not supported in a strict schema`);
  }

  member(key: string): JsonNode | undefined {
    return this.members.get(key);
  }

  list(key: string): readonly JsonNode[] {
    return elements(this.members.get(key));
  }

  number(key: string): number | undefined {
    const node = this.members.get(key);
    if (node === undefined) return undefined;
    if (node.kind !== 'number') throw grammarError(`${this.path}: ${key} must be a number`);
    return numberOf(node);
  }

  /** A number of characters, items or members. */
  count(key: string): number | undefined {
    const value = this.number(key);
    if (value === undefined || (Number.isInteger(value) && value >= 0)) return value;
    throw grammarError(`${this.path}: ${key} must be a whole number from 0 on`);
  }

  text(key: string): string | undefined {
    const node = this.members.get(key);
    if (node === undefined) return undefined;
    if (node.kind !== 'string') throw grammarError(`${this.path}: ${key} must be a string`);
    return node.value;
  }

  /** Values of const or enum, as far as they have one of the types. */
  values(): readonly JsonNode[] | undefined {
    const constant = this.members.get('const');
    const listed = this.members.get('enum');
    if (constant === undefined && listed === undefined) return undefined;
    if (constant === undefined && listed?.kind !== 'array') throw grammarError(`${this.path}: enum must be an array`);
    const values = constant === undefined ? elements(listed) : [constant];
    const types = this.members.has('type') ? this.types() : TYPES;
    return values.filter((value) => types.some((type) => hasType(value, type)));
  }

  /** Branches of anyOf and oneOf, each with the keywords beside them; a branch that allows nothing is left out. */
  branches(): readonly JsonNode[] | undefined {
    const all = [...this.list('anyOf'), ...this.list('oneOf')];
    if (all.length === 0) return undefined;
    const usable = all.filter((branch) => branch.kind !== 'boolean' || branch.value);
    if (usable.length === 0) throw grammarError(`${this.path}: no branch allows anything`);
    const beside = new Map([...this.members].filter(([key]) => key !== 'anyOf' && key !== 'oneOf' && !ANNOTATIONS.has(key)));
    if (beside.size === 0) return usable;
    return usable.map((branch) => {
      const branchList: JsonNode = { kind: 'array', items: branch.kind === 'object' ? [branch] : [], start: 0, end: 0 };
      return { kind: 'object', members: new Map([...beside, ['allOf', branchList]]), start: 0, end: 0 };
    });
  }

  types(): readonly string[] {
    const type = this.members.get('type');
    if (type?.kind === 'string') return [type.value];
    if (type?.kind === 'array') return type.items.map((item) => (item.kind === 'string' ? item.value : ''));
    if (type !== undefined) throw grammarError(`${this.path}: type must be a string or an array of strings`);
    const implied = Object.entries(TYPE_OF_KEYWORD).find(([keyword]) => this.members.has(keyword));
    return implied === undefined ? [] : [implied[1]];
  }

  /** Known properties in order, as many as are allowed; required ones without a schema at the end. */
  properties(): Property[] {
    const required = new Set(this.list('required').map((node) => (node.kind === 'string' ? node.value : '')));
    const known = this.members.get('properties');
    const schemas = new Map(known?.kind === 'object' ? known.members : []);
    const additional = this.members.get('additionalProperties');
    for (const name of required) {
      if (schemas.has(name)) continue;
      if (additional?.kind === 'boolean' && !additional.value)
        throw grammarError(`${this.path}: "${name}" is required but not allowed`);
      schemas.set(name, additional ?? { kind: 'boolean', value: true, start: 0, end: 0 });
    }
    const list = [...schemas].map(([name, schema]) => ({ name, schema, required: required.has(name) }));
    const allowed = list.filter(({ schema, required: needed }) => needed || schema.kind !== 'boolean' || schema.value);
    return this.counted(allowed);
  }

  /** minProperties makes optional ones required, maxProperties leaves optional ones out. */
  private counted(list: readonly Property[]): Property[] {
    if (list.length === 0) return [];
    const min = this.count('minProperties') ?? 0;
    const max = this.count('maxProperties') ?? Infinity;
    const needed = list.filter(({ required }) => required).length;
    if (needed > max || list.length < min) throw grammarError(`${this.path}: the number of properties cannot be met`);
    let missing = Math.max(0, min - needed);
    let spare = max - needed;
    return list.flatMap((property) => {
      if (property.required) return [property];
      if (spare-- <= 0) return [];
      return [missing-- > 0 ? { ...property, required: true } : property];
    });
  }

  /** Schema of members that are not listed; undefined when there may be none. Only asked for objects without a list. */
  additional(): JsonNode | undefined {
    const closed = this.members.has('patternProperties') || this.members.has('properties');
    const node = this.members.get('additionalProperties');
    if (node === undefined) return closed ? undefined : { kind: 'boolean', value: true, start: 0, end: 0 };
    return node.kind === 'boolean' && !node.value ? undefined : node;
  }
}

export function checkedType(type: string, path: string): string {
  if (!(TYPES as readonly string[]).includes(type)) throw grammarError(`${path}: unknown type "${type}"`);
  return type;
}

export function numberOf(node: JsonNode): number {
  return node.kind === 'number' ? Number(node.text) : Number.NaN;
}

function hasType(value: JsonNode, type: string): boolean {
  if (value.kind !== 'number') return value.kind === type;
  return type === 'number' || (type === 'integer' && Number.isInteger(numberOf(value)));
}

/** Keywords that only describe. */
const ANNOTATIONS = new Set([
  '$ref',
  '$defs',
  'definitions',
  '$schema',
  '$id',
  '$comment',
  'title',
  'description',
  'default',
  'examples',
])
  .add('deprecated')
  .add('readOnly')
  .add('writeOnly');

function hasConstraints(node: JsonNode): boolean {
  return node.kind === 'object' && [...node.members.keys()].some((key) => !ANNOTATIONS.has(key));
}

/** A keyword whose value demands nothing. */
function isTrivial(keyword: string, value: JsonNode): boolean {
  if (keyword === 'unevaluatedProperties' || keyword === 'unevaluatedItems') return true;
  return value.kind === 'boolean' && value.value === (keyword !== 'uniqueItems');
}

/** Members with those of allOf and of a reference beside constraints. Two different demands on one keyword are refused. */
function merged(node: JsonNode, root: JsonNode, path: string, depth = 0): ReadonlyMap<string, JsonNode> {
  if (node.kind !== 'object') return new Map();
  if (depth > 16) throw grammarError(`${path}: allOf and references are nested too deep`);
  const parts = [...elements(node.members.get('allOf'))];
  const reference = node.members.get('$ref');
  if (reference !== undefined && hasConstraints(node)) parts.push(resolve(reference, root, path).target);
  if (parts.length === 0) return node.members;
  const result = new Map(node.members);
  result.delete('allOf');
  result.delete('$ref');
  for (const part of parts) {
    const view =
      part.kind === 'object' && part.members.has('$ref')
        ? resolve(part.members.get('$ref') as JsonNode, root, path).target
        : part;
    for (const [key, value] of merged(view, root, path, depth + 1)) {
      const own = result.get(key);
      if (own === undefined) result.set(key, value);
      else result.set(key, combine(key, own, value, path));
    }
  }
  return result;
}

function combine(key: string, a: JsonNode, b: JsonNode, path: string): JsonNode {
  if (ANNOTATIONS.has(key)) return a;
  if (key === 'required' && a.kind === 'array' && b.kind === 'array') return { ...a, items: [...a.items, ...b.items] };
  if (key === 'properties' && a.kind === 'object' && b.kind === 'object') {
    const clash = [...b.members.keys()].find((name) => a.members.has(name));
    if (clash === undefined) return { ...a, members: new Map([...a.members, ...b.members]) };
    throw grammarError(`${path}: allOf describes the property "${clash}" twice`);
  }
  const lower = /^(min|exclusiveMin)/.test(key);
  if (a.kind === 'number' && b.kind === 'number' && (lower || /^(max|exclusiveMax)/.test(key))) {
    return numberOf(a) > numberOf(b) === lower ? a : b;
  }
  const same = a.kind === b.kind && 'value' in a && 'value' in b && a.value === b.value;
  if (same) return a;
  throw grammarError(`${path}: allOf has two demands on "${key}", which is not supported`);
}

/** Local references ("#", "#/$defs/x") only. */
function resolve(reference: JsonNode, root: JsonNode, path: string): { text: string; target: JsonNode } {
  const text = reference.kind === 'string' ? reference.value : '';
  let target: JsonNode | undefined = text === '#' || text.startsWith('#/') ? root : undefined;
  for (const part of text.split('/').slice(1)) {
    const key = decodeURIComponent(part).replaceAll('~1', '/').replaceAll('~0', '~');
    target = target?.kind === 'array' ? target.items[Number(key)] : member(target, key);
  }
  if (target === undefined) throw grammarError(`${path}: cannot resolve the reference "${text}"`);
  return { text, target };
}
