// SPDX-License-Identifier: MIT
// Thread that tokenises. The bindings encode in libuv's pool, but hand over, convert and free their results on the thread
// that called them: for a text of 4 MB pauses of 100 ms, which the event loop cannot afford.

import { parentPort, workerData } from 'node:worker_threads';
import { Tokenizer as NativeTokenizer } from 'tokenizers';
import { answerRequests } from './request-worker.ts';
import { textChunks } from './text-chunks.ts';

export interface TokenizerSetup {
  /** tokenizer.json without its added tokens, so that text can never become one. */
  definition: string;
  /** UTF-16 units of one native call; Infinity when text must not be cut. */
  chunkUnits: number;
}

/** A prompt: texts to encode, and ids of the control tokens between them. */
export type TokenizerQuery = readonly (string | number)[];

/** Native calls of one text in flight; more would keep libuv's pool from everything else. */
const CHUNKS_IN_FLIGHT = 2;

const setup = workerData as TokenizerSetup;
const native = NativeTokenizer.fromString(setup.definition);

async function encode(parts: TokenizerQuery, signal: AbortSignal): Promise<Int32Array> {
  const ids = new IdBuffer();
  for (const part of parts) {
    if (typeof part === 'number') ids.append([part]);
    else await encodeText(ids, part, signal);
  }
  return ids.take();
}

async function encodeText(ids: IdBuffer, text: string, signal: AbortSignal): Promise<void> {
  const inFlight: Promise<{ getIds(): number[] }>[] = [];
  const next = async (): Promise<void> => {
    const encoding = await inFlight.shift();
    if (encoding !== undefined) ids.append(encoding.getIds());
  };
  try {
    for (const chunk of textChunks(text, setup.chunkUnits)) {
      signal.throwIfAborted();
      if (inFlight.length === CHUNKS_IN_FLIGHT) await next();
      inFlight.push(native.encode(chunk, null, { addSpecialTokens: false }));
    }
    while (inFlight.length > 0) await next();
  } finally {
    await Promise.allSettled(inFlight);
  }
}

class IdBuffer {
  private ids = new Int32Array(1024);
  private length = 0;

  append(ids: readonly number[]): void {
    if (this.length + ids.length > this.ids.length) {
      const larger = new Int32Array(Math.max(this.ids.length * 2, this.length + ids.length));
      larger.set(this.ids.subarray(0, this.length));
      this.ids = larger;
    }
    this.ids.set(ids, this.length);
    this.length += ids.length;
  }

  take(): Int32Array<ArrayBuffer> {
    return this.ids.slice(0, this.length);
  }
}

if (parentPort !== null) {
  answerRequests<TokenizerQuery, Int32Array>(parentPort, async (parts, signal) => {
    const answer = await encode(parts, signal);
    return { answer, transfer: [answer.buffer as ArrayBuffer] };
  });
}
