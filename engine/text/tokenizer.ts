// SPDX-License-Identifier: MIT

import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { EngineError } from '../errors.ts';
import { alphabetBytes } from './byte-alphabet.ts';
import { BOS, EOS } from './chat-constants.ts';
import { RequestWorker } from './request-worker.ts';
import { ControlSplitter, type Segment } from './segment.ts';
import { allowsChunks } from './text-chunks.ts';
import type { TokenizerQuery, TokenizerSetup } from './tokenizer-worker.ts';

/** UTF-16 units of one native call: short enough for others to get their turn, long enough not to matter. */
const CHUNK_UNITS = 16_384;

export interface Tokenizer {
  /** Ids are 0 .. vocabSize - 1; a model may have more rows, which no text maps to. */
  readonly vocabSize: number;
  readonly bosToken: number;
  readonly eosToken: number;
  /** Of tokenizer_config.json; undefined when absent or a placeholder. */
  readonly maxLength: number | undefined;
  /** Ids of a prompt. Aborting rejects at once. */
  encodeSegments(segments: readonly Segment[], signal?: AbortSignal): Promise<Int32Array>;
  /** `control`: literals of control tokens in the text become those tokens, else they are ordinary characters. */
  encodeText(text: string, options: { control: boolean }, signal?: AbortSignal): Promise<Int32Array>;
  /**
   * True bytes of a token, of a control token those of its literal. Of an id that only the model has, those of U+FFFD, so
   * that such a token shows in the text. A view, not a copy.
   */
  tokenBytes(id: number): Uint8Array;
  isControl(id: number): boolean;
  /** True when the vocabulary has the literal as a control token. */
  hasControl(literal: string): boolean;
  /** @throws EngineError BAD_CHECKPOINT when the vocabulary has no such control token. */
  controlId(literal: string): number;
  /** Ends its thread; nothing can be encoded any more. */
  close(): Promise<void>;
}

interface AddedToken {
  id: number;
  content: string;
  single_word?: boolean;
  lstrip?: boolean;
  rstrip?: boolean;
}

interface TokenizerFile {
  added_tokens?: AddedToken[];
  normalizer?: unknown;
  pre_tokenizer?: unknown;
  model: { type: string; vocab: Record<string, number>; ignore_merges?: boolean };
}

/**
 * Reads tokenizer.json and the tokenizer_config.json beside it.
 * @param from directory that holds them, or the path of a tokenizer.json
 * @throws EngineError BAD_CHECKPOINT naming the file and what is wrong with it.
 */
export async function loadTokenizer(from: string): Promise<Tokenizer> {
  const path = from.endsWith('.json') ? from : join(from, 'tokenizer.json');
  if (!existsSync(path)) {
    throw bad(path, 'no such file; give the folder or the tokenizer.json of a DeepSeek-V4 tokenizer with --tokenizer');
  }
  const file = await readJson<TokenizerFile>(path);
  if (file.model?.type !== 'BPE' || typeof file.model.vocab !== 'object') {
    throw bad(path, `needs a model of type BPE with a vocabulary, got type ${String(file.model?.type)}`);
  }
  const added = file.added_tokens ?? [];
  const stripping = added.find((token) => token.single_word || token.lstrip || token.rstrip);
  if (stripping) throw bad(path, `added token "${stripping.content}" strips white space or matches whole words only`);
  const config = await readJson<Record<string, unknown>>(join(dirname(path), 'tokenizer_config.json'), {});
  const tokenizer = new BpeTokenizer(path, file, added, config);
  try {
    await tokenizer.encodeSegments([]);
    return tokenizer;
  } catch (cause) {
    throw new EngineError('BAD_CHECKPOINT', `${path}: ${(cause as Error).message}`, {}, cause);
  }
}

class BpeTokenizer implements Tokenizer {
  readonly vocabSize: number;
  readonly bosToken: number;
  readonly eosToken: number;
  readonly maxLength: number | undefined;
  private readonly path: string;
  private readonly worker: RequestWorker<TokenizerQuery, Int32Array>;
  private readonly controlIds: ReadonlyMap<string, number>;
  private readonly controlLiterals: ReadonlyMap<number, string>;
  private readonly splitter: ControlSplitter;
  private readonly bytes: TokenBytes;

  constructor(path: string, file: TokenizerFile, added: readonly AddedToken[], config: Record<string, unknown>) {
    this.path = path;
    this.controlIds = new Map(added.map(({ content, id }) => [content, id]));
    this.controlLiterals = new Map(added.map(({ content, id }) => [id, content]));
    this.splitter = new ControlSplitter(this.controlIds.keys());
    this.bytes = new TokenBytes(path, file.model.vocab, this.controlIds);
    this.vocabSize = this.bytes.size;
    this.bosToken = this.controlId(configToken(config['bos_token']) ?? BOS);
    this.eosToken = this.controlId(configToken(config['eos_token']) ?? EOS);
    const maxLength = config['model_max_length'];
    this.maxLength = Number.isSafeInteger(maxLength) ? (maxLength as number) : undefined;
    const setup: TokenizerSetup = {
      definition: JSON.stringify(withoutAddedTokens(file, this.controlIds)),
      chunkUnits: allowsChunks(file) ? CHUNK_UNITS : Infinity,
    };
    this.worker = new RequestWorker(new URL('./tokenizer-worker.js', import.meta.url), setup);
  }

  async encodeSegments(segments: readonly Segment[], signal?: AbortSignal): Promise<Int32Array> {
    const query = segments.map(({ kind, text }) => (kind === 'control' ? this.controlId(text) : text));
    return this.worker.request(query, signal === undefined ? {} : { signal });
  }

  encodeText(text: string, options: { control: boolean }, signal?: AbortSignal): Promise<Int32Array> {
    return this.encodeSegments(options.control ? this.splitter.split(text) : [{ kind: 'text', text }], signal);
  }

  tokenBytes(id: number): Uint8Array {
    return this.bytes.get(id);
  }

  isControl(id: number): boolean {
    return this.controlLiterals.has(id);
  }

  hasControl(literal: string): boolean {
    return this.controlIds.has(literal);
  }

  controlId(literal: string): number {
    const id = this.controlIds.get(literal);
    if (id === undefined) throw bad(this.path, `has no added token "${literal}"`);
    return id;
  }

  close(): Promise<void> {
    return this.worker.terminate();
  }
}

/** Models have more rows than their tokenizers have tokens, and made-up weights sample them. */
const UNKNOWN = new TextEncoder().encode('\ufffd');

/** Bytes of every token in one buffer: 129,280 small arrays would cost more than the vocabulary. */
class TokenBytes {
  readonly size: number;
  private readonly data: Uint8Array;
  /** [size + 1] */
  private readonly offsets: Uint32Array;

  constructor(path: string, vocab: Record<string, number>, controls: ReadonlyMap<string, number>) {
    const encoder = new TextEncoder();
    const entries = new Map<number, Uint8Array>();
    for (const [entry, id] of Object.entries(vocab)) {
      const bytes = controls.has(entry) ? encoder.encode(entry) : alphabetBytes(entry);
      if (bytes === undefined) throw bad(path, `entry ${id} ("${entry}") is not written in the byte alphabet`);
      entries.set(id, bytes);
    }
    for (const [literal, id] of controls) entries.set(id, encoder.encode(literal));
    let total = 0;
    let last = -1;
    for (const [id, bytes] of entries) {
      if (!Number.isInteger(id) || id < 0 || id > 1 << 24) throw bad(path, `token id ${id} is out of range`);
      total += bytes.length;
      last = Math.max(last, id);
    }
    this.size = last + 1;
    this.data = new Uint8Array(total);
    this.offsets = new Uint32Array(this.size + 1);
    let offset = 0;
    for (let id = 0; id < this.size; id++) {
      const bytes = entries.get(id);
      this.offsets[id] = offset;
      if (bytes === undefined) continue;
      this.data.set(bytes, offset);
      offset += bytes.length;
    }
    this.offsets[this.size] = offset;
  }

  get(id: number): Uint8Array {
    if (!(id >= 0 && id < this.size)) return UNKNOWN;
    return this.data.subarray(this.offsets[id], this.offsets[id + 1]);
  }
}

/** With `ignore_merges` a whole word is looked up in the vocabulary, where it could still meet a control literal. */
function withoutAddedTokens(file: TokenizerFile, controls: ReadonlyMap<string, number>): TokenizerFile {
  if (!file.model.ignore_merges) return { ...file, added_tokens: [] };
  const vocab = Object.fromEntries(Object.entries(file.model.vocab).filter(([entry]) => !controls.has(entry)));
  return { ...file, added_tokens: [], model: { ...file.model, vocab } };
}

/** tokenizer_config.json gives a token as text or as an object with its content. */
function configToken(value: unknown): string | undefined {
  if (typeof value === 'string') return value;
  const content = (value as { content?: unknown } | null | undefined)?.content;
  return typeof content === 'string' ? content : undefined;
}

async function readJson<T>(path: string, absent?: T): Promise<T> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (cause) {
    if (absent !== undefined && (cause as NodeJS.ErrnoException).code === 'ENOENT') return absent;
    throw new EngineError('BAD_CHECKPOINT', `cannot read ${path}: ${(cause as Error).message}`, {}, cause);
  }
  try {
    return JSON.parse(text) as T;
  } catch (cause) {
    throw new EngineError('BAD_CHECKPOINT', `${path} is not JSON: ${(cause as Error).message}`, {}, cause);
  }
}

function bad(path: string, problem: string): EngineError {
  return new EngineError('BAD_CHECKPOINT', `${path}: ${problem}`);
}
