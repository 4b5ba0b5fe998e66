// SPDX-License-Identifier: MIT

import { BlockPool } from './block-pool.ts';
import type { Warmth } from './block-pool.ts';
import { BLOCK_TOKENS, CONTEXT_BLOCKS_PER_ANCHOR, WINDOW_TOKENS } from './layout.ts';
import { PrefixIndex, childKey, rootKey } from './prefix-index.ts';
import type { PrefixKey } from './prefix-index.ts';

/** The blocks of one sequence. Context blocks start at logical block 0, window blocks at `windowBase`. */
export class BlockTable {
  readonly context: number[] = [];
  readonly window: number[] = [];
  windowBase = 0;
  /** Whole blocks made findable so far (or found). */
  registered = 0;
  /** Prefix of context blocks that was found in the cache though its window block was not: others share it. */
  branch = 0;
  /** keys[n]: the first n blocks; computed as far as needed. */
  readonly keys: PrefixKey[];

  constructor(salt: string) {
    this.keys = [rootKey(salt)];
  }

  /** Positions the window blocks reach to, exclusive. */
  get windowEnd(): number {
    return (this.windowBase + this.window.length) * BLOCK_TOKENS;
  }
}

export interface PrefixHit {
  /** Reusable tokens, a multiple of BLOCK_TOKENS. */
  tokens: number;
  /** Context blocks of the hit that are held by nobody now; holding them makes as many unavailable. */
  idleContextBlocks: number;
}

/** The tokens a sequence's blocks stand for. */
export interface TokenHistory {
  readonly length: number;
  /** View of tokens [begin, end). */
  slice(begin: number, end: number): Int32Array;
}

/**
 * Both block pools and the prefix cache over them. Allocation is all-or-nothing. Rules:
 * - A step over positions [p, p + count) reads window rows from p - 127 and writes rows up to p + count - 1 + mtp.
 * - Only blocks that no other sequence holds are written: what a hit brings are whole blocks before the first position computed.
 * - A block becomes findable once all its tokens are computed and final (verified, not drafted).
 */
export class KvCache {
  readonly contextPool: BlockPool;
  readonly windowPool: BlockPool;
  readonly #contextIndex = new PrefixIndex();
  readonly #windowIndex = new PrefixIndex();
  readonly #mtp: number;

  constructor(sizes: { contextBlocks: number; windowBlocks: number; mtp: number }) {
    this.contextPool = new BlockPool(sizes.contextBlocks, (block) => this.#contextIndex.remove(block));
    this.windowPool = new BlockPool(sizes.windowBlocks, (block) => this.#windowIndex.remove(block));
    this.#mtp = sizes.mtp;
  }

  /**
   * The longest reusable prefix of at most `limit` tokens: all its context blocks and its last window block are there. How far
   * context blocks alone are known is left in `table.branch`, for `advance`.
   */
  lookup(table: BlockTable, history: TokenHistory, limit: number): PrefixHit {
    const most = Math.floor(Math.min(limit, history.length) / BLOCK_TOKENS);
    let blocks = 0;
    let idle = 0;
    const hit: PrefixHit = { tokens: 0, idleContextBlocks: 0 };
    while (blocks < most) {
      const key = this.#key(table, history, blocks + 1);
      const context = this.#contextIndex.find(key);
      if (context < 0) break;
      blocks += 1;
      if (this.contextPool.references(context) === 0) idle += 1;
      if (this.#windowIndex.find(key) < 0) continue;
      hit.tokens = blocks * BLOCK_TOKENS;
      hit.idleContextBlocks = idle;
    }
    table.branch = blocks;
    return hit;
  }

  /** Takes hold of the blocks of a hit. The table must be empty. */
  attach(table: BlockTable, hit: PrefixHit): void {
    const blocks = hit.tokens / BLOCK_TOKENS;
    if (blocks === 0) return;
    for (let n = 1; n <= blocks; n++) {
      const context = this.#contextIndex.find(table.keys[n]!);
      this.contextPool.hold(context);
      table.context.push(context);
    }
    const window = this.#windowIndex.find(table.keys[blocks]!);
    this.windowPool.hold(window);
    table.window.push(window);
    table.windowBase = blocks - 1;
    table.registered = blocks;
  }

  /** Tokens from `position` on that can be computed with the blocks held and available, `spareWindows` left alone. */
  reach(table: BlockTable, position: number, spareWindows: number): number {
    const windows = Math.max(0, this.windowPool.available - spareWindows);
    const windowEnd = Math.max(table.windowEnd, this.#firstWindow(position) * BLOCK_TOKENS) + windows * BLOCK_TOKENS;
    const contextEnd = (table.context.length + this.contextPool.available) * BLOCK_TOKENS;
    return Math.max(0, Math.min(windowEnd - this.#mtp, contextEnd) - position);
  }

  /** Allocates what a step over [position, position + count) needs; false, and nothing changed, when blocks are short. */
  reserve(table: BlockTable, position: number, count: number): boolean {
    const contextNeed = blockOf(position + count - 1) + 1 - table.context.length;
    if (table.window.length === 0) table.windowBase = this.#firstWindow(position);
    const windowNeed = blockOf(position + count - 1 + this.#mtp) + 1 - table.windowBase - table.window.length;
    if (contextNeed > this.contextPool.available || windowNeed > this.windowPool.available) return false;
    for (let i = 0; i < contextNeed; i++) table.context.push(this.contextPool.take());
    for (let i = 0; i < windowNeed; i++) table.window.push(this.windowPool.take());
    return true;
  }

  /** Makes the whole blocks before `computed` findable, then frees window blocks that the window has passed. */
  advance(table: BlockTable, history: TokenHistory, state: { computed: number; promptLength: number }): void {
    const whole = Math.floor(state.computed / BLOCK_TOKENS);
    for (let block = table.registered; block < whole; block++) {
      const key = this.#key(table, history, block + 1);
      this.#contextIndex.add(key, table.context[block]!);
      this.#windowIndex.add(key, table.window[block - table.windowBase]!);
    }
    table.registered = Math.max(table.registered, whole);
    const first = this.#firstWindow(state.computed);
    while (table.windowBase < first && table.window.length > 0) {
      const block = table.windowBase;
      this.#releaseWindow(table.window.shift()!, isAnchor(block, table, state.promptLength) ? 'hot' : 'cold');
      table.windowBase += 1;
    }
  }

  /** Gives everything back; what is findable stays findable until it is taken for something else. */
  release(table: BlockTable): void {
    for (let i = table.window.length - 1; i >= 0; i--) this.#releaseWindow(table.window[i]!, 'hot');
    // Deepest first: the end of a prefix is worth less than its beginning.
    for (let i = table.context.length - 1; i >= 0; i--) {
      const block = table.context[i]!;
      this.contextPool.release(block, this.#contextIndex.has(block) ? 'hot' : 'blank');
    }
    table.window.length = table.context.length = 0;
    table.windowBase = table.registered = 0;
  }

  #releaseWindow(block: number, warmth: Warmth): void {
    this.windowPool.release(block, this.#windowIndex.has(block) ? warmth : 'blank');
  }

  #firstWindow(position: number): number {
    return blockOf(Math.max(0, position - (WINDOW_TOKENS - 1)));
  }

  #key(table: BlockTable, history: TokenHistory, blocks: number): PrefixKey {
    const { keys } = table;
    for (let n = keys.length; n <= blocks; n++) {
      keys.push(childKey(keys[n - 1]!, history.slice((n - 1) * BLOCK_TOKENS, n * BLOCK_TOKENS)));
    }
    return keys[blocks]!;
  }
}

/**
 * Window blocks worth keeping behind the window, because a later prompt is likely to restart behind them: the last whole
 * block of the prompt (the same prompt again, or the conversation continued), the place where this prompt left a known
 * prefix, and every CONTEXT_BLOCKS_PER_ANCHOR-th block, which bounds what a prompt that shares some prefix recomputes.
 */
function isAnchor(block: number, table: BlockTable, promptLength: number): boolean {
  const blocks = block + 1;
  return (
    blocks % CONTEXT_BLOCKS_PER_ANCHOR === 0 ||
    blocks === Math.floor(promptLength / BLOCK_TOKENS) ||
    blocks === Math.floor((promptLength - 1) / BLOCK_TOKENS) ||
    blocks === table.branch
  );
}

function blockOf(position: number): number {
  return Math.floor(position / BLOCK_TOKENS);
}
