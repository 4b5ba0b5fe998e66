// SPDX-License-Identifier: MIT
// A request body against its schema; the first mistake becomes the 400 that names the field.

import type { z } from 'zod';
import { letOthersRun } from '../../engine/index.ts';
import { invalid } from '../errors.ts';

/** A JSON body with its source text, which keeps what parsing loses: key order and the spelling of numbers. */
export interface JsonBody {
  value: unknown;
  text: string;
}

type Issue = z.core.$ZodIssue;

/**
 * A body that conforms to the schema. What is done with it next waits for the next turn of the event loop if it is large.
 * @throws HttpError as parseBody
 */
export async function readBody<T>(schema: z.ZodType<T>, body: JsonBody | undefined): Promise<T> {
  const parsed = parseBody(schema, body);
  await letOthersRun(body?.text.length ?? 0);
  return parsed;
}

/** @throws HttpError 400 with `param` as a path such as messages[2].content. */
export function parseBody<T>(schema: z.ZodType<T>, body: JsonBody | undefined): T {
  if (body === undefined) throw invalid('the request needs a JSON body', undefined, 'missing_required_parameter');
  const result = schema.safeParse(body.value, context);
  if (result.success) return result.data;
  const issue = mostSpecific(result.error.issues[0]!);
  const param = pathText(issue.path);
  const given = valueAt(body.value, issue.path);
  if (given === undefined && issue.path.length > 0 && issue.code !== 'custom') {
    throw invalid(`${param} is required`, param, 'missing_required_parameter');
  }
  const code = isWrongType(issue, given) ? 'invalid_type' : 'invalid_value';
  const subject = param === '' ? 'the body' : param;
  throw invalid(
    `${subject}: ${issue.message}${issue.code === 'invalid_key' ? '' : shown(given)}`,
    param === '' ? undefined : param,
    code,
  );
}

const typeNames: Record<string, string> = {
  object: 'an object',
  record: 'an object',
  array: 'an array',
  string: 'a string',
  number: 'a number',
  int: 'a whole number',
  boolean: 'true or false',
};

/** What was expected, where a schema does not say it in words of its own. */
function plainly(issue: z.core.$ZodRawIssue): string | undefined {
  if (issue.code === 'invalid_type') return `expected ${typeNames[issue.expected] ?? issue.expected}`;
  if (issue.code === 'invalid_value') return `expected ${issue.values.map(String).join(', ')}`;
  return issue.code === 'invalid_key' ? issue.issues[0]?.message : undefined;
}

/**
 * One mistake is told; looking for all of those in megabytes would hold up everybody for seconds. abortEarly is known to zod's
 * schemas and not yet to the type of this argument.
 */
const context = { error: plainly, abortEarly: true } as z.core.ParseContext<Issue>;

/** Of a union told apart by a word, a word that is none of them is a wrong value. */
function isWrongType(issue: Issue, given: unknown): boolean {
  if (issue.code === 'invalid_union') return issue.discriminator === undefined || typeof given !== 'string';
  return issue.code === 'invalid_type';
}

/** Of a union, the branch that got furthest: its mistake is the one that was meant. */
function mostSpecific(issue: Issue, prefix: PropertyKey[] = []): Issue {
  const path = [...prefix, ...issue.path];
  if (issue.code !== 'invalid_union' || issue.errors.length === 0) return { ...issue, path };
  const branches = issue.errors.flatMap((branch) => (branch[0] === undefined ? [] : [mostSpecific(branch[0], path)]));
  const deepest = branches.reduce((best, branch) => (branch.path.length > best.path.length ? branch : best), branches[0]!);
  if (deepest.path.length > path.length) return deepest;
  // A branch that accepts the type and not the value.
  const ofType = branches.find((branch) => branch.code !== 'invalid_type' && branch.code !== 'invalid_union');
  if (ofType !== undefined && branches.some((branch) => branch.code === 'invalid_type')) return ofType;
  const expected = branches.map((branch) => branch.message.replace(/^expected /, ''));
  return { ...issue, path, message: `expected ${[...new Set(expected)].join(' or ')}` };
}

/** ["messages", 2, "content"] → messages[2].content */
export function pathText(path: readonly PropertyKey[]): string {
  return path.map((part, index) => (typeof part === 'number' ? `[${part}]` : `${index > 0 ? '.' : ''}${String(part)}`)).join('');
}

function valueAt(value: unknown, path: readonly PropertyKey[]): unknown {
  return path.reduce<unknown>((at, key) => (at as Record<PropertyKey, unknown> | null | undefined)?.[key], value);
}

const longestShown = 60;

/** Small values are repeated to the client; content of any size is not. */
function shown(value: unknown): string {
  if (value === null || typeof value === 'number' || typeof value === 'boolean') return `, got ${value}`;
  if (typeof value === 'string') return value.length <= longestShown ? `, got ${JSON.stringify(value)}` : ', got a string';
  if (Array.isArray(value)) return value.length === 0 ? ', got []' : `, got an array of ${value.length}`;
  return value === undefined ? '' : ', got an object';
}
