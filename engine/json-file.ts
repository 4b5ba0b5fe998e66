// SPDX-License-Identifier: MIT
// Small files of a checkpoint. Whatever is wrong with one is BAD_CHECKPOINT and names it.

import { readFile } from 'node:fs/promises';
import { EngineError } from './errors.ts';

/** Characters of a value in a message. */
const MOST_SHOWN = 60;

export type JsonObject = Record<string, unknown>;

/**
 * The text of a file, or undefined when there is none.
 * @throws EngineError BAD_CHECKPOINT when it cannot be read.
 */
export async function readOptional(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8');
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw new EngineError('BAD_CHECKPOINT', `cannot read ${path}: ${(cause as Error).message}`, {}, cause);
  }
}

/**
 * The object that a file holds; an empty one when there is no file.
 * @throws EngineError BAD_CHECKPOINT when it is not JSON or no object.
 */
export async function readJsonObject(path: string): Promise<JsonObject> {
  const text = await readOptional(path);
  if (text === undefined) return {};
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new EngineError('BAD_CHECKPOINT', `${path} is not JSON: ${(cause as Error).message}`, {}, cause);
  }
  if (!isJsonObject(value)) throw badFile(path, `expected an object, found ${shownJson(value)}`);
  return value;
}

export function isJsonObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

export function badFile(path: string, problem: string): EngineError {
  return new EngineError('BAD_CHECKPOINT', `${path}: ${problem}`);
}

/** A value as it may stand in a message. */
export function shownJson(value: unknown): string {
  const text = value === undefined ? 'nothing' : JSON.stringify(value);
  return text.length > MOST_SHOWN ? `${text.slice(0, MOST_SHOWN)}…` : text;
}
