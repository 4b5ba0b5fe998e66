// SPDX-License-Identifier: MIT
// What is read from tokenizer.json and tokenizer_config.json, checked before it is used.

import { existsSync } from 'node:fs';
import { badFile, isJsonObject, readJsonObject, shownJson } from '../json-file.ts';
import type { JsonObject } from '../json-file.ts';

const MAX_TOKEN_ID = 1 << 24;

export interface TokenizerFile {
  normalizer?: unknown;
  pre_tokenizer?: unknown;
  model: { vocab: Record<string, number>; ignore_merges?: boolean };
}

export interface TokenizerConfig {
  bosToken: string | undefined;
  eosToken: string | undefined;
  /** Undefined when absent or a placeholder. */
  maxLength: number | undefined;
}

/**
 * Reads a tokenizer.json; `controls` are its added tokens with their ids.
 * @throws EngineError BAD_CHECKPOINT naming the file, the field, what was expected and what was found.
 */
export async function readTokenizerFile(path: string): Promise<{ file: TokenizerFile; controls: Map<string, number> }> {
  if (!existsSync(path)) {
    throw badFile(path, 'no such file; give the folder or the tokenizer.json of a DeepSeek-V4 tokenizer with --tokenizer');
  }
  const file = await readJsonObject(path);
  const model = isJsonObject(file['model']) ? file['model'] : {};
  if (model['type'] !== 'BPE') throw badFile(path, `expected a model of type "BPE", found ${shownJson(model['type'])}`);
  const vocab = model['vocab'];
  if (!isJsonObject(vocab)) throw badFile(path, `expected model.vocab to be an object, found ${shownJson(vocab)}`);
  for (const [entry, id] of Object.entries(vocab)) checkId(path, 'vocabulary entry', entry, id);
  return { file: file as unknown as TokenizerFile, controls: controlTokens(path, file['added_tokens'] ?? []) };
}

function controlTokens(path: string, added: unknown): Map<string, number> {
  if (!Array.isArray(added)) throw badFile(path, `expected added_tokens to be a list, found ${shownJson(added)}`);
  const controls = new Map<string, number>();
  added.forEach((token: unknown, i) => {
    const fields = isJsonObject(token) ? token : {};
    const { id, content } = fields;
    if (typeof content !== 'string' || content === '') {
      throw badFile(path, `added_tokens[${i}]: expected an object with its content, found ${shownJson(token)}`);
    }
    checkId(path, 'added token', content, id);
    if (fields['single_word'] === true || fields['lstrip'] === true || fields['rstrip'] === true) {
      throw badFile(path, `added token ${shownJson(content)} strips white space or matches whole words only`);
    }
    controls.set(content, id);
  });
  return controls;
}

function checkId(path: string, kind: string, text: string, id: unknown): asserts id is number {
  if (Number.isInteger(id) && (id as number) >= 0 && (id as number) <= MAX_TOKEN_ID) return;
  throw badFile(path, `${kind} ${shownJson(text)}: expected an id from 0 to ${MAX_TOKEN_ID}, found ${shownJson(id)}`);
}

/**
 * Reads a tokenizer_config.json, which may be absent.
 * @throws EngineError BAD_CHECKPOINT as readTokenizerFile.
 */
export async function readTokenizerConfig(path: string): Promise<TokenizerConfig> {
  const config = await readJsonObject(path);
  return {
    bosToken: configToken(path, config, 'bos_token'),
    eosToken: configToken(path, config, 'eos_token'),
    maxLength: maxLength(path, config['model_max_length']),
  };
}

/** A token is given as text or as an object with its content. */
function configToken(path: string, config: JsonObject, name: string): string | undefined {
  const value = config[name] ?? undefined;
  const text = isJsonObject(value) ? value['content'] : value;
  if (text === undefined || typeof text === 'string') return text;
  throw badFile(path, `expected ${name} to be text or an object with its content, found ${shownJson(value)}`);
}

/** Hugging Face writes 1e30 for a length that is not known. */
function maxLength(path: string, value: unknown): number | undefined {
  if (value === undefined || value === null) return undefined;
  if (typeof value === 'number' && value > Number.MAX_SAFE_INTEGER) return undefined;
  if (Number.isInteger(value) && (value as number) >= 1) return value as number;
  throw badFile(path, `expected model_max_length to be a whole number of at least 1, found ${shownJson(value)}`);
}

/**
 * The file as the tokenizer gets it. Without added tokens, so that text can never become one; with `ignore_merges` a whole word
 * is looked up in the vocabulary, where it could still meet one. Without the truncation and padding that training leaves behind
 * in saved tokenizers: a prompt is neither cut nor filled up.
 */
export function textOnly(file: TokenizerFile, controls: ReadonlyMap<string, number>): object {
  const text = { ...file, added_tokens: [], truncation: null, padding: null };
  if (!file.model.ignore_merges) return text;
  const vocab = Object.fromEntries(Object.entries(file.model.vocab).filter(([entry]) => !controls.has(entry)));
  return { ...text, model: { ...file.model, vocab } };
}
