// SPDX-License-Identifier: MIT
// What tool schemas say about the types of parameters, as far as repairing arguments needs it.

import type { JsonText } from '../types.ts';
import { elements, member, parseLossless, type JsonNode } from './json-text.ts';

export type JsonType = 'string' | 'number' | 'integer' | 'boolean' | 'null' | 'array' | 'object';

/** Types each named parameter may have; undefined where the schema leaves it open. */
export type ToolParameters = ReadonlyMap<string, ReadonlySet<JsonType> | undefined>;

const JSON_TYPES = new Set<string>(['string', 'number', 'integer', 'boolean', 'null', 'array', 'object']);
/** References and combinators are followed this far; deeper ones count as open. */
const MAX_DEPTH = 16;

/** Parameters by tool name, from `function` objects. Tools without a list of properties are left out. */
export function toolParameters(tools: readonly JsonText[]): ReadonlyMap<string, ToolParameters> {
  const byName = new Map<string, ToolParameters>();
  for (const { json } of tools) {
    const tool = parseLossless(json);
    const name = member(tool, 'name');
    const schema = member(tool, 'parameters');
    const properties = member(schema, 'properties');
    if (name?.kind !== 'string' || schema === undefined || properties?.kind !== 'object') continue;
    const types = [...properties.members].map(([key, node]) => [key, schemaTypes(node, schema, MAX_DEPTH)] as const);
    byName.set(name.value, new Map(types));
  }
  return byName;
}

function schemaTypes(schema: JsonNode, root: JsonNode, depth: number): ReadonlySet<JsonType> | undefined {
  if (depth === 0) return undefined;
  const reference = member(schema, '$ref');
  if (reference !== undefined) {
    const target = reference.kind === 'string' ? resolve(reference.value, root) : undefined;
    return target && schemaTypes(target, root, depth - 1);
  }
  const type = member(schema, 'type');
  const named = type?.kind === 'array' ? type.items : type === undefined ? [] : [type];
  if (named.length > 0) return typeSet(named.map((node) => (node.kind === 'string' ? node.value : '')));
  const constant = member(schema, 'const');
  const values = constant === undefined ? elements(member(schema, 'enum')) : [constant];
  if (values.length > 0) return typeSet(values.map((node) => node.kind));
  const branches = [...elements(member(schema, 'anyOf')), ...elements(member(schema, 'oneOf'))];
  const sets = branches.map((branch) => schemaTypes(branch, root, depth - 1));
  if (sets.length === 0 || sets.includes(undefined)) return undefined;
  return new Set(sets.flatMap((set) => [...(set ?? [])]));
}

function typeSet(names: readonly string[]): ReadonlySet<JsonType> | undefined {
  return names.every((name) => JSON_TYPES.has(name)) ? new Set(names as JsonType[]) : undefined;
}

/** Local references ("#/$defs/x") only. */
function resolve(reference: string, root: JsonNode): JsonNode | undefined {
  if (!reference.startsWith('#/')) return undefined;
  let node: JsonNode | undefined = root;
  for (const part of reference.slice(2).split('/')) node = member(node, part.replaceAll('~1', '/').replaceAll('~0', '~'));
  return node;
}
