// SPDX-License-Identifier: MIT

import { dirname, join } from 'node:path';
import { EngineError } from '../errors.ts';
import { badFile, shownJson } from '../json-file.ts';
import { alphabetBytes } from './byte-alphabet.ts';
import { BOS, EOS } from './chat-constants.ts';
import { RequestWorker } from './request-worker.ts';
import { ControlSplitter, type Segment } from './segment.ts';
import { allowsChunks } from './text-chunks.ts';
import { readTokenizerConfig, readTokenizerFile, textOnly } from './tokenizer-file.ts';
import type { TokenizerConfig, TokenizerFile } from './tokenizer-file.ts';
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

/**
 * Reads tokenizer.json and the tokenizer_config.json beside it.
 * @param from directory that holds them, or the path of a tokenizer.json
 * @throws EngineError BAD_CHECKPOINT naming the file and what is wrong with it.
 */
export async function loadTokenizer(from: string): Promise<Tokenizer> {
  const path = from.endsWith('.json') ? from : join(from, 'tokenizer.json');
  const { file, controls } = await readTokenizerFile(path);
  const config = await readTokenizerConfig(join(dirname(path), 'tokenizer_config.json'));
  const tokenizer = new BpeTokenizer(path, file, controls, config);
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

  constructor(path: string, file: TokenizerFile, controls: ReadonlyMap<string, number>, config: TokenizerConfig) {
    this.path = path;
    this.controlIds = controls;
    this.controlLiterals = new Map([...controls].map(([content, id]) => [id, content]));
    this.splitter = new ControlSplitter(this.controlIds.keys());
    this.bytes = new TokenBytes(path, file.model.vocab, this.controlIds);
    this.vocabSize = this.bytes.size;
    this.bosToken = this.controlId(config.bosToken ?? BOS);
    this.eosToken = this.controlId(config.eosToken ?? EOS);
    this.maxLength = config.maxLength;
    const setup: TokenizerSetup = {
      definition: JSON.stringify(textOnly(file, this.controlIds)),
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
    if (id === undefined) throw badFile(this.path, `has no added token "${literal}"`);
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
      if (bytes === undefined) throw badFile(path, `entry ${id} (${shownJson(entry)}) is not written in the byte alphabet`);
      entries.set(id, bytes);
    }
    for (const [literal, id] of controls) entries.set(id, encoder.encode(literal));
    let total = 0;
    let last = -1;
    for (const [id, bytes] of entries) {
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
