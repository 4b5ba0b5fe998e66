// SPDX-License-Identifier: MIT

import { createHash } from 'node:crypto';
import { BLOCK_TOKENS } from './layout.ts';

/** Names the tokens of a prefix of whole blocks: a SHA-256 chained over its blocks, so equal keys mean equal prefixes. */
export type PrefixKey = string;

/** Key of the empty prefix; prefixes with different salts never meet. */
export function rootKey(salt: string): PrefixKey {
  return createHash('sha256').update('salt:').update(salt).digest('binary');
}

/** Key of the prefix `parent` plus one block of BLOCK_TOKENS tokens. */
export function childKey(parent: PrefixKey, tokens: Int32Array): PrefixKey {
  if (tokens.length !== BLOCK_TOKENS) throw new Error(`a block has ${BLOCK_TOKENS} tokens, not ${tokens.length}`);
  const bytes = new Uint8Array(tokens.buffer, tokens.byteOffset, tokens.byteLength);
  return createHash('sha256').update(parent, 'latin1').update(bytes).digest('binary');
}

/** Which physical block holds the last block of a prefix; one index for each kind of block. */
export class PrefixIndex {
  readonly #blocks = new Map<PrefixKey, number>();
  readonly #keys: (PrefixKey | undefined)[] = [];

  get size(): number {
    return this.#blocks.size;
  }

  /** The block, or -1. */
  find(key: PrefixKey): number {
    return this.#blocks.get(key) ?? -1;
  }

  /** Makes `block` findable. The first block of a key stays; returns whether `block` is the one found now. */
  add(key: PrefixKey, block: number): boolean {
    const known = this.#blocks.get(key);
    if (known !== undefined) return known === block;
    this.#blocks.set(key, block);
    this.#keys[block] = key;
    return true;
  }

  has(block: number): boolean {
    return this.#keys[block] !== undefined;
  }

  /** Forgets a block that is about to lose its contents. */
  remove(block: number): void {
    const key = this.#keys[block];
    if (key === undefined) return;
    this.#blocks.delete(key);
    this.#keys[block] = undefined;
  }
}
